"""Images whose patches depend on their size, from the feature library to the two stages' losses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.checkpoint import BaseReference, save_model
from model.guard import load_hints
from model.psavlm import PsaVlm
from schemas.config import MethodConfig
from schemas.taxonomy import load_taxonomy
from tasks.encode import FeatureCache
from tasks.encode import shards as shards_of
from tasks.explain import explain_one
from tests.small_vlms import image_of
from tests.to_encode import PNGS, Run

torch.set_num_threads(1)
TAXONOMY = load_taxonomy()
METHOD = MethodConfig(tokens=3, attention_heads=4, projector="mlp")


@pytest.fixture(params=["llava_next", "qwen2_5_vl"])
def run(request, tmp_path) -> Run:
    return Run(tmp_path / "store", request.param)


def test_cached_features_are_the_encoders_own_whatever_their_number(run, monkeypatch):
    monkeypatch.setattr(shards_of, "IMAGES_PER_SHARD", 4)
    ids = sorted(PNGS)
    first = run.encoded(ids[:3], batch=2)
    made = run.encoded(ids, batch=2)
    assert (first.counts["encoded"], made.counts["encoded"]) == (3, 6)  # only the new ones
    cache = FeatureCache(made)
    assert len(cache.source.arrays) > 1
    asked = [ids[7], ids[0], ids[4], ids[0], ids[8]]
    for name, found in zip(asked, cache.batch(asked), strict=True):
        expected = run.directly(name)
        assert found.size == expected.size and torch.equal(found.rows, expected.rows)
    total = sum(run.directly(name).rows.numel() * 4 for name in ids)
    assert first.counts["new_bytes"] + made.counts["new_bytes"] == total


def test_half_precision_features_are_rounded_and_no_more(run):
    cache = FeatureCache(run.encoded(sorted(PNGS), dtype="bfloat16"))
    for name, found in zip(sorted(PNGS), cache.batch(sorted(PNGS)), strict=True):
        assert torch.equal(found.rows, run.directly(name).rows.bfloat16())


@pytest.mark.parametrize("projector", ["mlp", "c_abstractor", "none"])
@pytest.mark.parametrize("head", ["cross_attention", "pooled_mlp"])
def test_every_projector_and_head_judges_cached_images_as_one_by_one(run, projector, head):
    method = MethodConfig(
        tokens=3, attention_heads=4, projector=projector, head=head, head_width=16,
        projector_width=8, projector_depth=1, projector_grid=2,
    )  # fmt: skip
    model = PsaVlm.new(run.backbone, method, types=7, levels=4)
    ids = sorted(PNGS)
    features = FeatureCache(run.encoded(ids)).batch(ids)
    asked = [f"is {n} red ?" for n in range(len(ids))]
    with torch.no_grad():
        together = model.concept_logits(features, asked)
        for n in range(len(ids)):
            alone = model.concept_logits(features[n : n + 1], asked[n : n + 1])
            for one, both in zip(alone, together, strict=True):
                torch.testing.assert_close(one[0], both[n], atol=1e-5, rtol=1e-5)
    types = torch.arange(len(ids)) % 7
    model.safety.requires_grad_(True)
    model.concept_batch_loss(features, asked, types, types % 4).backward()
    parts = [p for part in (model.safety.projector, model.safety.head) for p in part.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parts)


@pytest.mark.parametrize("projector", ["mlp", "c_abstractor", "none"])
def test_explain_draws_the_attention_over_an_image_of_any_shape(run, tmp_path, projector):
    method = MethodConfig(
        tokens=3, attention_heads=4, projector=projector, projector_width=8, projector_depth=1,
        projector_grid=2,
    )  # fmt: skip

    def build(folder: Path) -> dict[str, int]:
        model = PsaVlm.new(
            run.backbone, method, types=len(TAXONOMY.types), levels=len(TAXONOMY.levels)
        )
        save_model(
            folder / "model",
            model,
            stage="stage1",
            method=method,
            taxonomy=TAXONOMY,
            hints=load_hints("default", taxonomy=TAXONOMY),
            base=BaseReference(name="base"),
        )
        return {}

    config = method.model_dump()
    stage = run.store.artifact("stage1", 1, config=config, parents={"base": run.base}, build=build)
    image = tmp_path / "wide.png"
    image_of(50, 120).save(image)
    told = explain_one(stage.uri, image, "is it red ?", tmp_path / "heat.png", max_new_tokens=2)
    shares = told["attention"]
    assert shares["image"] + shares["tokens"] == pytest.approx(1, abs=2e-4)
    assert 0 < shares["largest_patch"] <= shares["image"]
    with Image.open(tmp_path / "heat.png") as drawn:
        assert np.asarray(drawn).std() > 10
