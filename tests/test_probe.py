"""Probes: lines against known answers, balanced cells, and the step on an untrained stage 1."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from infra.store import Store
from model.probe import between_classes, linear_probe, plane, standardised
from schemas.artifact import Artifact
from schemas.config import Stage
from schemas.errors import ConfigError
from schemas.presets import Parameters, resolve
from schemas.probe import HEAD, PROJECTOR, TOKENS, TYPE, ProbeConfig
from schemas.taxonomy import load_taxonomy
from tasks.base_model import FOLDER
from tasks.probe import ProbeInputs, probe
from tasks.probe.rows import balanced_cells, images_of
from tasks.probe.step import table_schema

TAXONOMY = load_taxonomy()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def clouds(count: int, *, apart: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three clouds in eight dimensions around corners that lie `apart` deviations from 0."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    corners = torch.eye(8)[:3] * apart
    return corners[labels] + torch.randn(count, 8, generator=draw), labels


# --- lines ---


def test_a_line_reads_what_lies_apart_and_guesses_what_does_not():
    for apart, low, high in ((8.0, 0.99, 1.0), (0.0, 0.2, 0.47)):
        states, labels = clouds(300, apart=apart, seed=0)
        unseen, truth = clouds(300, apart=apart, seed=1)
        called = linear_probe(states, labels, unseen, classes=4, penalty=1e-3)
        assert low <= float((called == truth).double().mean()) <= high


def test_a_probe_is_the_one_minimum_whatever_the_scale_of_its_states():
    states, labels = clouds(200, apart=1.5, seed=2)
    unseen, _ = clouds(100, apart=1.5, seed=3)
    scales = torch.tensor([1e-4, 1.0, 1e4, 3.0, 1.0, 1.0, 1.0, 1.0])
    plain = linear_probe(states, labels, unseen, classes=3, penalty=1e-2)
    scaled = linear_probe(states * scales + 7, labels, unseen * scales + 7, classes=3, penalty=1e-2)
    assert torch.equal(plain, scaled)


def test_a_column_that_stands_still_says_nothing():
    states = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    found = standardised(states, states)
    assert found[:, 1].tolist() == [0, 0, 0]
    assert float(found[:, 0].std(correction=0)) == pytest.approx(1)


def test_variance_between_classes_by_hand():
    labels = torch.tensor([0, 0, 1, 1])
    assert between_classes(torch.tensor([[0.0], [0.0], [2.0], [2.0]]), labels) == pytest.approx(1)
    assert between_classes(torch.tensor([[0.0], [2.0], [0.0], [2.0]]), labels) == pytest.approx(0)
    # Means -1 and 1 of deviations 2: a variance of 1 between, 4 + 1 in all.
    mixed = torch.tensor([[-3.0], [1.0], [-1.0], [3.0]])
    assert between_classes(mixed, labels) == pytest.approx(1 / 5)
    assert between_classes(torch.ones(4, 2), labels) == 0


def test_a_plane_has_the_axes_of_most_variance():
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(400, 2, generator=draw) @ torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.1, -0.1]])
    places = plane(states, states)
    assert places.shape == (400, 2)
    assert places[:, 0].var() > 100 * places[:, 1].var() / 2
    assert torch.allclose(plane(states, states), places)


# --- rows ---


def row(name: str, kind: str, level: int, image: str = "") -> dict:
    own = {"sample_id": name, "risk_type": kind, "risk_level": level, "image_id": image or name}
    return {**own, "messages": [{"role": "user", "text": f"{name} ?"}]}


def test_cells_have_as_many_rows_as_the_smallest():
    rows = [row(f"a{i}", "privacy", 1) for i in range(9)]
    rows += [row(f"b{i}", "privacy", 3) for i in range(4)] + [
        row(f"c{i}", "clean", 0) for i in range(7)
    ]
    cells = balanced_cells(rows, seed=0)
    assert list(cells) == [("clean", 0), ("privacy", 1), ("privacy", 3)]
    assert {len(own) for own in cells.values()} == {4}
    again = balanced_cells(rows[::-1], seed=0)
    assert {k: {r["sample_id"] for r in v} for k, v in again.items()} == {
        k: {r["sample_id"] for r in v} for k, v in cells.items()
    }


def test_an_image_has_the_risk_of_its_worst_row():
    rows = [row("a", "clean", 0, "x"), row("b", "privacy", 2, "x"), row("c", "clean", 0, "y")]
    images = images_of(rows, TAXONOMY)
    assert images.ids == ["x", "y"]
    assert images.types.tolist() == [TAXONOMY.type_ids.index("privacy"), TAXONOMY.clean_index]


# --- the step ---


@pytest.fixture(scope="module")
def inputs(
    encoded_root: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, ProbeInputs]:
    """Untrained stages of three methods in a root of their own, on the shared data."""
    from flows.line import pipeline, plainly, up_to
    from model.backbone import Backbone
    from model.checkpoint import BaseReference, save_model
    from model.psavlm import PsaVlm
    from schemas.hints import load_hints

    shared, own = Store(encoded_root), Store(str(tmp_path_factory.mktemp("probe")))
    made = up_to(pipeline(resolve(Parameters()), store=shared, do=plainly), "encode")
    base, models = shared.local(made["base"]) / FOLDER, {}
    for name in ("psa-vlm", "psavlm-plus", "tokens-only"):
        method = resolve(Parameters(method=name)).method

        def build(folder: Path, method=method) -> dict[str, int]:
            model = PsaVlm.new(Backbone.load(str(base)), method, types=7, levels=4, seed=5)
            save_model(
                folder / FOLDER, model, stage=Stage.CONCEPTS, method=method, taxonomy=TAXONOMY,
                hints=load_hints(method.hints, taxonomy=TAXONOMY), base=BaseReference(name="tiny"),
            )  # fmt: skip
            return {}

        models[name] = own.artifact("stage1", 1, config=method, build=build)
    given = {"labelled": made["validate"], "features": made["encode"], "base": made["base"]}
    return own, ProbeInputs(**given, models=models, seed=5)


CONFIG = ProbeConfig(rows=60, bootstrap=20)


@pytest.fixture(scope="module")
def probed(inputs: tuple[Store, ProbeInputs]) -> tuple[Store, Artifact]:
    store, given = inputs
    return store, probe(CONFIG, given, store=store)


def test_the_three_experiments_are_in_the_table_the_page_and_the_picture(probed):
    store, artifact = probed
    folder = store.local(artifact)
    table = pq.read_table(folder / "probe.parquet")
    assert table.schema.equals(table_schema())
    rows = table.to_pylist()
    assert {r["experiment"] for r in rows} == {PROJECTOR, TOKENS, HEAD}
    assert all(r["share_low"] <= r["share"] <= r["share_high"] for r in rows)
    tokens = [r["what"] for r in rows if r["experiment"] == TOKENS and r["measure"] == TYPE]
    assert tokens == [
        "no tokens (the base)", "static tokens (psa-vlm)", "concept tokens (psavlm-plus)",
        "static tokens (tokens-only)",
    ]  # fmt: skip
    cells = {r["what"] for r in rows if r["experiment"] == HEAD}
    assert 6 < len(cells) <= 6 * 3 + 2 and {"clean", "all cells"} < cells
    for name in ("probe.csv", "probe.md", "probe.html", "plot.png", "plot-narrow.svg"):
        assert (folder / name).is_file()
    assert "## Projector isolation" in (folder / "probe.md").read_text()


def test_an_untrained_projector_is_the_one_that_training_began_with(probed):
    store, artifact = probed
    rows = pq.read_table(store.local(artifact) / "probe.parquet").to_pylist()
    named = {(r["what"], r["measure"]): r["share"] for r in rows if r["experiment"] == PROJECTOR}
    pairs = [
        (named[f"h_s: safety projector, {kind}", measure] for kind in ("untrained", "trained"))
        for measure in {measure for _, measure in named}
    ]
    # Nothing was trained here, and the seed is that of the models.
    for untrained, trained in pairs:
        assert untrained == trained


def test_the_same_inputs_give_the_same_bytes(inputs, probed, tmp_path: Path):
    own, given = inputs
    first = own.local(probed[1])
    again = Store(str(tmp_path))
    found = probe(CONFIG, given, store=again)
    assert found.fingerprint == probed[1].fingerprint
    for file in first.iterdir():
        assert file.read_bytes() == (again.local(found) / file.name).read_bytes(), file.name


def test_a_method_without_head_or_projector_cannot_come_first(inputs, tmp_path: Path):
    _, given = inputs
    order = {"tokens-only": given.models["tokens-only"], **given.models}
    wrong = ProbeInputs.model_validate({**dict(given), "models": order})
    with pytest.raises(ConfigError, match="tokens-only has head 'none'"):
        probe(CONFIG, wrong, store=Store(str(tmp_path)))


def test_static_tokens_are_the_same_state_for_every_image(inputs):
    """They stand before the image, and the language model looks back only."""
    from infra.library import INDEX, root_of
    from model.prompts import ask
    from tasks.encode import FeatureCache
    from tasks.probe.states import opened

    store, given = inputs
    base = root_of(given.base).local(given.base) / FOLDER
    model = opened(base, {"x": store.local(given.models["psa-vlm"]) / FOLDER}).methods["x"].model
    index = pq.read_table(root_of(given.features).local(given.features) / INDEX)
    features = FeatureCache(given.features).batch(index["image_id"].to_pylist()[:6])
    batch = model.compose(features, [ask("what is it ?")] * 6, use_tokens=True)
    with torch.no_grad():
        hidden = model.backbone.hidden(batch.embeds, batch.mask, batch.positions)
    same = ((hidden - hidden[:1]).abs().amax((0, 2)) < 1e-5).numpy()
    count = len(model.safety.tokens.s_llm)
    before = int(np.flatnonzero(~same)[0])  # the image's first place
    tokens = model.safety.tokens.s_llm.detach()
    assert torch.equal(batch.embeds[0, before - count : before], tokens)
    assert not same[-1]
