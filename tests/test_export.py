"""Export: a folder that plain transformers answers with alike, or the parts that it takes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from flows.cli.main import main
from infra.store import Store
from model.backbone import Backbone
from model.batches import compose
from model.checkpoint import BaseReference, save_model
from model.guard import GuardPolicy, load_hints
from model.lora import add_lora, lora_parameters
from model.prompts import ask
from model.psavlm import PsaVlm
from schemas.artifact import Artifact
from schemas.config import MethodConfig, Stage
from schemas.errors import ConfigError
from schemas.taxonomy import load_taxonomy
from tasks.answer import load_guarded
from tasks.export import NOTE, README, export_model
from tests.small_vlms import FAMILIES, image_of, plain_inputs, save

torch.set_num_threads(1)
TAXONOMY = load_taxonomy()
QUESTION = "how many red shapes ?"
SFT = {"llm_tokens": "none", "intervention": "off", "projector": "none", "head": "none"}
GUARDED = {"llm_tokens": "static", "intervention": "hint", "projector": "mlp"}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(str(tmp_path_factory.mktemp("export") / "store"))


def aligned(store: Store, family: str, *, dtype: str = "float32", **choices) -> Artifact:
    """A stage 2 artifact with an adapter that changes answers, or with changed weights."""

    def base_of(folder: Path) -> dict[str, int]:
        config = save(family, folder / "model") / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": dtype}))
        return {}

    settings = {"family": family, "dtype": dtype}
    base = store.artifact("base_model", 1, config=settings, build=base_of)
    method = MethodConfig(tokens=3, attention_heads=4, lora_rank=4, lora_alpha=8, **choices)

    def build(folder: Path) -> dict[str, int]:
        backbone = Backbone.load(str(store.local(base) / "model"))
        model = PsaVlm.new(backbone, method, types=len(TAXONOMY.types), levels=len(TAXONOMY.levels))
        torch.manual_seed(3)
        if method.stage2 == "full":
            for name, parameter in backbone.vlm.named_parameters():
                if "language_model.layers" in name or "projector" in name:
                    parameter.data += 0.02 * torch.randn_like(parameter)
        else:
            add_lora(backbone, method)
            for parameter in lora_parameters(backbone).values():
                parameter.data = 0.1 * torch.randn_like(parameter)
        save_model(
            folder / "model",
            model,
            stage=Stage.ALIGNMENT,
            method=method,
            taxonomy=TAXONOMY,
            hints=load_hints("default", taxonomy=TAXONOMY),
            base=BaseReference(name="base"),
            policy=GuardPolicy(threshold=0.0),
        )
        return {}

    config = {**settings, "method": method.model_dump()}
    return store.artifact("stage2", 1, config=config, parents={"base": base}, build=build)


@torch.no_grad()
def our_logits(backbone: Backbone, image) -> tuple[torch.Tensor, str]:
    """Logits of a prompt, and its text for others."""
    projected = [None] if image is None else list(backbone.project(backbone.encode_images([image])))
    batch = compose(backbone, [ask(QUESTION)], images=projected)
    mark = backbone.template.image.format(image=backbone.image_token) if image else ""
    template = backbone.template
    text = f"{template.system}{template.user}{mark}{QUESTION}{template.asked}"
    hidden = backbone.hidden(batch.embeds, batch.mask, batch.positions)
    return backbone.logits(hidden), text


@pytest.mark.parametrize(
    ("family", "stage2"), [*((name, "lora") for name in FAMILIES), ("llava", "full")]
)
def test_a_merged_folder_is_plain_transformers_and_answers_alike(store, tmp_path, family, stage2):
    artifact = aligned(store, family, **SFT, stage2=stage2)
    told = export_model(artifact.uri, tmp_path / "out")
    assert (told["form"], told["needs"]) == ("merged", [])
    guarded, _ = load_guarded(artifact)
    ours = guarded.model.backbone
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", use_safetensors=True)
    base = Backbone.load(str(store.local(store_base(store, artifact)) / "model"))
    for image in (image_of(50, 100), None):
        expected, text = our_logits(ours, image)
        with torch.no_grad():
            found = plain.eval()(**plain_inputs(ours, image, text)).logits
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert (our_logits(base, image)[0] - expected).abs().max() > 1e-2
    assert not list((tmp_path / "out").glob("adapter*"))
    again = Backbone.load(str(tmp_path / "out"))
    torch.testing.assert_close(our_logits(again, None)[0], our_logits(ours, None)[0])


def store_base(store: Store, artifact: Artifact) -> Artifact:
    address = store.manifest(artifact).parents["base"]
    step, _, fingerprint = address.partition("/")
    uri = f"{store.root}/{address}"
    return Artifact(uri=uri, step=step, fingerprint=fingerprint, reused=True)


@pytest.mark.parametrize(
    ("choices", "needs"),
    [
        (GUARDED, ["static safety tokens", "the guard (intervention 'hint')"]),
        ({**GUARDED, "intervention": "off"}, ["static safety tokens"]),
        ({**GUARDED, "llm_tokens": "none"}, ["the guard (intervention 'hint')"]),
        ({**GUARDED, "llm_tokens": "concept", "intervention": "both"}, ["the guard (interv"]),
    ],
)
def test_where_more_is_needed_the_parts_are_written_and_said_to_be(store, tmp_path, choices, needs):
    artifact = aligned(store, "llava", **choices)
    told = export_model(artifact.uri, tmp_path / "out")
    assert told["form"] == "parts" and len(told["needs"]) == len(needs)
    readme = (tmp_path / "out" / README).read_text()
    for need, found in zip(needs, told["needs"], strict=True):
        assert found.startswith(need) and found in readme


def test_the_parts_answer_by_their_readme_as_the_artifact_does(
    store, tmp_path, monkeypatch, capsys
):
    artifact = aligned(store, "qwen2_5_vl", **GUARDED)
    folder, image = tmp_path / "out", image_of(40, 60)
    export_model(artifact.uri, folder)
    image.save(folder / "picture.png")
    monkeypatch.chdir(folder)
    exec((folder / README).read_text().split("```python\n")[1].split("```")[0], {})
    guarded, intervention = load_guarded(artifact)
    (answer,) = guarded.answer([image], ["what is this ?"], intervention=intervention)
    assert answer.verdict.flagged
    assert capsys.readouterr().out == f"{answer.text} {answer.verdict}\n"


def test_an_export_says_what_it_is(store, tmp_path):
    artifact = aligned(store, "llava", **SFT)
    told = export_model(artifact.uri, tmp_path / "out")
    note = json.loads((tmp_path / "out" / NOTE).read_text())
    assert {**note, "out": str(tmp_path / "out")} == told
    assert note["artifact"] == f"stage2/{artifact.fingerprint}"
    assert note["base"].startswith("base_model/") and note["taxonomy"] == TAXONOMY.name
    assert note["method"]["llm_tokens"] == "none"


def test_a_base_in_half_precision_stays_in_half_precision(store, tmp_path):
    artifact = aligned(store, "llava", **SFT, dtype="bfloat16")
    export_model(artifact.uri, tmp_path / "out")
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    assert found.dtype == torch.bfloat16


def test_nothing_is_written_over_or_left_behind(store, tmp_path):
    artifact = aligned(store, "llava", **SFT)
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export_model(artifact.uri, tmp_path / "there")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        export_model(artifact.uri, tmp_path / "file" / "out")
    with pytest.raises(ConfigError, match="step 'base_model'"):
        export_model(store_base(store, artifact).uri, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"]


def test_the_command_tells_the_form_and_ends_with_2_for_bad_input(
    store, tmp_path, monkeypatch, capsys
):
    artifact = aligned(store, "llava", **SFT)
    command = ["psavlm", "export", "--artifact", artifact.uri, "--merged", str(tmp_path / "out")]
    for json_, code in (True, 0), (False, 2):
        monkeypatch.setattr(sys, "argv", [*command, *["--json"] * json_])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
    told = capsys.readouterr()
    assert json.loads(told.out)["form"] == "merged" and "exists already" in told.err
    assert told.err.count("\n") == 1
