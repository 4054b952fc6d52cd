"""The feature cache: kept, not kept, or as there is room; the numbers are the same in all cases."""

import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch

from flows.line import pipeline, plainly, up_to
from flows.parameters import configured
from flows.plan import planned
from infra import disk
from infra.store import Store
from infra.verification import verify
from model.features import rows_of
from model.stages import freeze_for
from schemas.artifact import Artifact
from schemas.config import EncodeConfig, Stage
from schemas.errors import StorageError
from schemas.presets import Parameters, resolve
from tasks.base_model import libraries
from tasks.encode import FeatureCache, cluster
from tasks.encode import cache as caches
from tasks.encode import room as rooms
from tasks.encode.step import Encoding
from tasks.evaluate.step import held_out_rows
from tasks.progress import progress
from tasks.references import REFERENCES
from tasks.train.data import TrainingData
from tasks.train.losses import LOSSES
from tests.shelf import keep_images
from tests.test_new_risk_type import worker_of
from tests.to_encode import PNGS, Run, png

torch.set_num_threads(1)
IDS = sorted(PNGS)
ASKED = [[IDS[7], IDS[0], IDS[4]], [IDS[0], IDS[8], IDS[1], IDS[0]], [IDS[2]]]


@pytest.fixture(params=["llava", "qwen2_5_vl"])  # images of one length, and of their own
def run(request, tmp_path) -> Run:
    return Run(tmp_path / "store", request.param)


@pytest.fixture
def llava(tmp_path) -> Run:
    return Run(tmp_path / "store", "llava")


def assert_same(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        assert getattr(a, "size", None) == getattr(b, "size", None) or isinstance(a, torch.Tensor)
        assert torch.equal(rows_of(a), rows_of(b))


# --- never ---


@pytest.mark.parametrize(
    ("family", "how"),
    [
        ("llava", {}),
        ("llava", {"dtype": "bfloat16"}),
        ("llava", {"precision": "bf16"}),
        ("llava_next", {"dtype": "bfloat16", "precision": "bf16"}),
        ("qwen2_5_vl", {}),
    ],
)
def test_without_a_cache_the_numbers_are_those_that_it_would_hold(tmp_path, family, how):
    run = Run(tmp_path / "store", family)
    kept, fly = (
        FeatureCache(run.encoded(IDS, batch=4, cache=c, **how)) for c in ("always", "never")
    )
    for n, asked in enumerate(ASKED):
        if n == 1:
            fly.expect(lambda count: [*ASKED[1], *IDS][:count])
        assert_same(fly.batch(asked), kept.batch(asked))
    assert fly.patches(IDS).tolist() == kept.patches(IDS).tolist()
    assert len(fly.source._asked) <= 4 + 2 * 4  # no more is held than is soon read


def test_a_stage_and_an_evaluation_of_the_tiny_world_read_the_same_bits(encoded_root):
    store, config = Store(encoded_root), resolve(Parameters())
    never = config.model_copy(
        update={"encode": config.encode.model_copy(update={"cache": "never"})}
    )
    made = up_to(pipeline(config, store=store, do=plainly), "encode")
    without = up_to(pipeline(never, store=store, do=plainly), "encode")["encode"]
    assert without.counts == {
        "images": made["encode"].counts["images"],
        "encoded": 0,
        "new_bytes": 0,
    }
    worker, part = worker_of(config, made, store), config.stage1.parts["concept"]
    freeze_for(worker.model, Stage.CONCEPTS, "concept")
    balanced, losses = store.local(made["balance"]), []
    for features in (made["encode"], without):
        worker.data = TrainingData(balanced, features, worker.job.taxonomy)
        items = worker.items(5, part)
        losses.append([float(loss.detach()) for loss in LOSSES["concept"](worker, items, 5, part)])
    assert losses[0] == losses[1] and len(losses[0]) == 1
    tested = [row["image_ids"][0] for row in held_out_rows(store.local(made["validate"]))[:64]]
    assert_same(worker.data.features.batch(tested), FeatureCache(made["encode"]).batch(tested))


def test_an_image_that_is_gone_or_another_is_told_and_the_artifact_made_again(llava):
    made = llava.encoded(IDS, cache="never", batch=4)
    fly = FeatureCache(made)
    shard = next(Path(llava.store.root).glob("images/*/attempts/*/images.parquet"))
    data = shard.read_bytes()
    first = data.index(PNGS[IDS[0]])
    shard.write_bytes(data[:first] + b"x" + data[first + 1 :])
    with pytest.raises(StorageError, match=f"image {IDS[0]} is not where it was; run the same"):
        fly.batch(IDS[:1])
    assert llava.store.find(made.step, made.fingerprint) is None
    assert_same(fly.batch(IDS[1:2]), [llava.directly(IDS[1])])


# --- auto ---


def test_features_that_are_kept_have_the_address_from_before_there_was_a_choice(llava):
    labelled = llava.labelled(IDS)
    old = llava.store.fingerprint(
        "encode", 2, config={"dtype": "float32", "batch": 128},
        parents={"labelled": labelled, "base": llava.base}, inputs=libraries(),
    )  # fmt: skip
    found = {cache: llava.encoded(IDS, cache=cache) for cache in ("always", "auto", "never")}
    assert found["always"].fingerprint == found["auto"].fingerprint == old
    assert found["never"].fingerprint != old
    told = verify(llava.store.root, None, references=REFERENCES, progress=progress)
    assert (told.damaged, told.missing) == ((), ())


def test_auto_keeps_what_fits_and_its_estimate_is_exact(run, capsys):
    fits = partial(run.encoded, cache="auto", dtype="bfloat16")
    small = fits(IDS[:4], cache_bytes=10_000_000)
    needed = small.counts["estimated_bytes"]
    assert needed == small.counts["new_bytes"] == 4 * small.counts["bytes_per_image"] > 0
    assert small.counts["room_bytes"] == 10_000_000
    told = capsys.readouterr().err
    assert f"features are kept, since {needed:,} bytes of features fit: 10,000,000" in told
    whole = fits(IDS, cache_bytes=100)  # the first four are there
    assert (whole.counts["images"], whole.counts["encoded"]) == (len(IDS), 0)
    assert whole.counts["estimated_bytes"] == sum(
        2 * rows_of(run.directly(name)).numel() for name in IDS[4:]
    )
    assert "not kept, but encoded when read" in capsys.readouterr().err
    assert run.encoded(IDS, cache="never", dtype="bfloat16").fingerprint == whole.fingerprint


def test_a_decision_stays_while_its_artifact_is_there(llava, monkeypatch):
    monkeypatch.setattr(rooms, "free_bytes", lambda folder: 0)
    full = llava.encoded(IDS[:3], cache="auto")
    monkeypatch.setattr(rooms, "free_bytes", disk.free_bytes)
    assert llava.encoded(IDS[:3], cache="auto").fingerprint == full.fingerprint
    kept = llava.encoded(IDS[:5], cache="auto")
    assert kept.counts["encoded"] == 5
    assert kept.counts["room_bytes"] <= disk.free_bytes(Path(llava.store.root)) * 0.6
    monkeypatch.setattr(rooms, "free_bytes", lambda folder: 0)
    again: Artifact = llava.encoded(IDS[:5], cache="auto")
    assert again.reused and again.fingerprint == kept.fingerprint


def test_a_plan_tells_what_the_features_would_take_and_what_becomes_of_them(encoded_root, tmp_path):
    preset = tmp_path / "auto.toml"
    told = []
    for limit in (1000, 10**12):
        setting = f"cache = 'auto'\ndtype = 'bfloat16'\ncache_bytes = {limit}\ncache_share = 1.0"
        preset.write_text(f"extends = 'tiny'\n[encode]\n{setting}\n")
        plan = planned(configured({"preset": str(preset)}), root=encoded_root, until="encode")
        told.append(next(step.cache for step in plan.steps if step.name == "encode"))
    assert [decision.cache for decision in told] == ["never", "always"]
    assert told[0].images == told[1].images > 1000
    assert told[0].bytes_per_image == 64 * 128 * 2
    assert told[0].bytes == told[0].images * told[0].bytes_per_image
    assert told[0].room == 1000 and "do not fit: 1,000 bytes may be taken" in told[0].why
    empty = planned(configured({"preset": str(preset)}), root=str(tmp_path / "new"), until="encode")
    assert empty.steps[-1].cache is None  # no image has been seen yet


def test_a_cluster_gets_every_image_once_and_those_together_that_lie_together(llava, monkeypatch):
    monkeypatch.setattr(cluster, "IMAGES_AT_ONCE", 3)
    more = {hashlib.sha256(png(n)).hexdigest(): png(n) for n in range(20, 24)}
    keep_images(llava.store, more)
    task = cluster.Task(
        config=EncodeConfig(), samples=llava.samples, base=llava.base, root=llava.store.root,
        encoder="",
    )  # fmt: skip
    pieces = list(cluster._pieces(task, sorted({*IDS, *more})))
    assert sorted(map(len, pieces)) == [1, 3, 3, 3, 3]
    assert sorted(name for piece in pieces for name in piece) == sorted({*IDS, *more})
    assert all(set(piece) <= set(IDS) or set(piece) <= set(more) for piece in pieces)
    assert cluster.on_cluster(task, IDS, cluster="", tick=lambda done, note: None) is None


def test_encoders_that_share_the_images_make_what_one_process_makes(llava, tmp_path):
    """Without Ray, which only carries their arguments (tests/test_encode_cluster.py)."""
    expected = FeatureCache(Run(tmp_path / "alone", "llava").encoded(IDS, batch=4)).batch(IDS)
    work = Encoding(
        EncodeConfig(batch=4), llava.labelled(IDS), llava.samples, llava.base, llava.store
    )
    task = cluster.Task(
        config=work.config, samples=llava.samples, base=llava.base, root=llava.store.root,
        encoder=work.encoder,
    )  # fmt: skip
    first, second = cluster.Encoder(task), cluster.Encoder(task)
    size = 64 * 32 * 4
    assert first.encode(IDS[:3]) == (3, 3 * size)
    assert second.encode(IDS[3:]) == (len(IDS) - 3, (len(IDS) - 3) * size)
    assert cluster.Encoder(task).encode(IDS) == (len(IDS), 0)  # in the place of one that died
    made = work.made()
    assert made.counts == {"images": len(IDS), "encoded": 0, "new_bytes": 0}
    assert_same(FeatureCache(made).batch(IDS), expected)
    elsewhere = cluster.Encoder(task.model_copy(update={"root": str(tmp_path / "elsewhere")}))
    with pytest.raises(StorageError, match="sees no base_model in .* a bucket or a shared folder"):
        elsewhere.encode(IDS)


def test_what_comes_is_read_before_its_turn_and_only_where_it_pays(run, monkeypatch):
    made = run.encoded(IDS, batch=4, dtype="bfloat16")
    kept = FeatureCache(made)
    kept.expect(lambda count: IDS[:count])
    assert kept.source._reading.done() and not kept.source._near  # so few are soon in memory
    monkeypatch.setattr(caches, "STAYS", 0)
    asked: list[int] = []

    def upcoming(count: int) -> list[str]:
        asked.append(count)
        return [*IDS, *IDS]

    kept.expect(upcoming)
    kept.source._reading.result(60)
    assert asked == [caches.AHEAD] and kept.source._near == set(IDS)
    assert_same(kept.batch(ASKED[1]), FeatureCache(made).batch(ASKED[1]))
