"""Models for the gate's tests: one that is good, and ten that are really worse, made from it."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from flows.line import pipeline, plainly, up_to
from infra import ray_cluster
from infra.parts import read_parts, write_parts
from infra.store import Store
from model.backbone import Backbone
from model.calibration import fit_policy
from model.checkpoint import CARD, SAFETY, BaseReference, ModelCard, load_card, save_model
from model.lora import WEIGHTS
from model.psavlm import PsaVlm
from model.stages import freeze_for
from model.steps import new_optimizer, train_step
from model.tensors import read_tensors, write_tensors
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig, MethodConfig, PartConfig, Stage
from schemas.hints import load_hints
from schemas.presets import Parameters, resolve
from schemas.samples import ROWS
from schemas.taxonomy import CLEAN, load_taxonomy
from tasks.base_model import FOLDER
from tasks.encode import FeatureCache
from tasks.evaluate import evaluate
from tasks.promote import PromoteInputs
from tasks.train.data import Item, calibration_items, to_items
from tests.shelf import LIBRARIES

TAXONOMY = load_taxonomy()
EVALUATE = EvaluateConfig(max_new_tokens=24, bootstrap=50)
METHOD = MethodConfig(tokens=8, attention_heads=4, llm_tokens="none", lora_rank=8)
STEPS, BATCH = 150, 64


@dataclass(frozen=True)
class Bench:
    """A store with base, data and a good model; candidates are asked its items."""

    store: Store
    base: Artifact
    samples: Artifact
    labelled: Artifact
    features: Artifact
    good: Artifact

    def inputs(self, model: Artifact, **changes) -> PromoteInputs:
        """The inputs of a candidate, evaluated."""
        return PromoteInputs(
            **{
                "model": model,
                "evaluation": self.evaluated(model),
                "base": self.base,
                "base_evaluation": self.evaluated(None),
                "samples": self.samples,
                "labelled": self.labelled,
                "features": self.features,
                "evaluate": EVALUATE,
                **changes,
            }
        )

    def evaluated(self, model: Artifact | None, config: EvaluateConfig = EVALUATE) -> Artifact:
        """A model's evaluation, or the base's."""
        return evaluate(
            config, model.step if model else "base", self.base, self.labelled, self.features,
            store=self.store, model=model,
        )  # fmt: skip

    def changed(self, model: Artifact, name: str, change: "Change") -> Artifact:
        """A copy of a model, changed on disk and stored as an artifact of its step."""

        def build(folder: Path) -> dict[str, int]:
            shutil.copytree(self.store.local(model) / FOLDER, folder / FOLDER)
            change(Files(folder / FOLDER))
            return {"steps": 1}

        return self.store.artifact(
            model.step,
            1,
            config={"changed": name},
            parents={"base": self.base, "from": model},
            build=build,
        )


# --- the good model ---


def bench(
    root: str, tiny_root: str, *, train: Callable | None = None, items: Callable | None = None
) -> Bench:
    """A root of its own with links to the tiny world's artifacts, some items, a trained model."""
    up_to(_line(tiny_root), "encode")
    for step in (*LIBRARIES, "tiny_world", "ingest", "validate", "base_model", "encode"):
        if not (Path(root) / step).exists():
            shutil.copytree(Path(tiny_root) / step, Path(root) / step, copy_function=os.link)
    store, made = Store(root), up_to(_line(root), "encode")
    good = (train or trained)(store, made)
    asked = (items or some_items)(store, made)
    return Bench(store, made["base"], made["ingest"], asked, made["encode"], good)


def _line(root: str) -> Iterator[tuple[str, Artifact]]:
    return pipeline(resolve(Parameters()), store=Store(root), do=plainly)


def some_items(store: Store, made: dict[str, Artifact]) -> Artifact:
    """200 risky, 300 ordinary and 60 near-miss test rows: what the default gate asks for."""

    def build(folder: Path) -> dict[str, int]:
        rows = read_parts(store.local(made["validate"]) / "rows", ROWS)
        test = rows.filter(pa.compute.equal(rows["split"], "test")).sort_by("group_id").to_pylist()
        near = [row for row in test if '"near_miss": true' in row["extra"]]
        risky = [row for row in test if row["risk_type"] != CLEAN]
        plain = [row for row in test if row["risk_type"] == CLEAN and row not in near]
        kept = risky[:200] + plain[:300] + near[:60]
        assert len(kept) == 560
        write_parts(pa.Table.from_pylist(kept, schema=ROWS), folder / "rows")
        return {"accepted": len(kept)}

    parents = {"samples": made["ingest"]}
    return store.artifact("validate", 1, config={"items": 560}, parents=parents, build=build)


def all_items(store: Store, made: dict[str, Artifact]) -> Artifact:
    """The whole test split: at the twelfth look, 560 items no longer show that a model is good."""
    return made["validate"]


def trained(store: Store, made: dict[str, Artifact]) -> Artifact:
    """The base with safety modules trained in this process; the guard's hint makes it refuse."""
    return store.artifact(
        Stage.CONCEPTS.value,
        1,
        config={"steps": STEPS, "batch": BATCH},
        parents={"base": made["base"], "labelled": made["validate"]},
        build=lambda folder: _train(store, made, folder / FOLDER),
    )


def whole_run(store: Store, made: dict[str, Artifact]) -> Artifact:
    """Stage 2 as a run trains it, on a Ray cluster of its own."""
    try:
        return up_to(_line(store.root), "stage2")["stage2"]
    finally:
        ray_cluster.leave()


def _train(store: Store, made: dict[str, Artifact], folder: Path) -> dict[str, int]:
    backbone = Backbone.load(str(store.local(made["base"]) / FOLDER))
    model = PsaVlm.new(backbone, METHOD, types=len(TAXONOMY.types), levels=len(TAXONOMY.levels))
    names = freeze_for(model, Stage.CONCEPTS, "concept")
    part = PartConfig(steps=STEPS, global_batch=BATCH, lr=2e-3, warmup_steps=20)
    optimizer = new_optimizer([model.get_parameter(name) for name in names], part)
    labelled, cache = store.local(made["validate"]), FeatureCache(made["encode"])
    items, rng = _items(labelled, "train"), np.random.default_rng(0)
    model.train()
    for step in range(STEPS):
        batch = [items[i] for i in rng.choice(len(items), BATCH, replace=False)]
        loss = model.concept_batch_loss(*_asked(batch, cache), *_classes(batch))
        train_step(loss, optimizer, step=step, part=part)
    calibration = calibration_items(labelled, TAXONOMY)
    with torch.no_grad():
        logits = model.eval().concept_logits(*_asked(calibration, cache))
    save_model(
        folder,
        model,
        stage=Stage.CONCEPTS,
        method=METHOD,
        taxonomy=TAXONOMY,
        hints=load_hints("default", taxonomy=TAXONOMY),
        base=BaseReference(name="base"),
        policy=fit_policy(*logits, *_classes(calibration), false_positive_budget=0.01),
    )
    return {"steps": STEPS}


def _items(labelled: Path, split: str) -> list[Item]:
    rows = read_parts(labelled / "rows", ROWS)
    rows = rows.filter(pa.compute.equal(rows["split"], split)).sort_by("sample_id")
    return [item for item in to_items(rows.to_pylist(), TAXONOMY) if item.image_id]


def _asked(items: list[Item], cache: FeatureCache) -> tuple[Tensor, list[str]]:
    return cache.batch([item.image_id for item in items]), [item.question for item in items]


def _classes(items: list[Item]) -> tuple[Tensor, Tensor]:
    pairs = torch.tensor([(item.risk_type, item.risk_level) for item in items])
    return pairs[:, 0], pairs[:, 1]


# --- models that are worse ---


@dataclass(frozen=True)
class Files:
    """A model's folder, to be changed."""

    folder: Path

    def card(self, **policy) -> None:
        """Change the guard's policy."""
        self._write({**load_card(self.folder).policy.model_dump(), **policy}, "policy")

    def method(self, **choices) -> None:
        """Change the method."""
        self._write({**load_card(self.folder).method.model_dump(), **choices}, "method")

    def tensors(self, name: str, change: Callable[[str, Tensor], Tensor]) -> None:
        """Change the tensors of a file, those with names that `change` knows."""
        path = self.folder / name
        if path.exists():
            write_tensors(path, {key: change(key, t) for key, t in read_tensors(path).items()})

    def _write(self, values: dict, key: str) -> None:
        card = load_card(self.folder).model_dump(mode="json")
        text = ModelCard.model_validate({**card, key: values}).model_dump_json()
        (self.folder / CARD).write_text(text)


Change = Callable[[Files], None]


def noised(strength: float) -> Change:
    """Every weight plus noise of `strength` times its own spread."""
    generator = torch.Generator().manual_seed(0)

    def add(_: str, tensor: Tensor) -> Tensor:
        spread = tensor.std() if tensor.numel() > 1 else tensor.abs()
        return tensor + strength * spread * torch.randn(tensor.shape, generator=generator)

    return lambda files: [files.tensors(name, add) for name in (SAFETY, WEIGHTS)][0]


def rolled(name: str, count: int) -> Change:
    """The first `count` classes of a head each take the next one's place."""

    def roll(key: str, tensor: Tensor) -> Tensor:
        if not key.startswith(name):
            return tensor
        return torch.cat([tensor[:count].roll(1, 0), tensor[count:]])

    return lambda files: files.tensors(SAFETY, roll)


def refuses_everything(files: Files) -> None:
    """The guard flags every image."""
    files.card(threshold=0.0)


def obeys_everything(files: Files) -> None:
    """No hint is given, and what was trained in the language model is gone."""
    files.method(intervention="off")
    files.tensors(WEIGHTS, lambda key, tensor: torch.zeros_like(tensor))
    files.tensors(SAFETY, lambda key, t: torch.zeros_like(t) if key.endswith("s_llm") else t)


def blind(files: Files) -> None:
    """The head sees nothing; what it says is the same for every image."""
    files.tensors(SAFETY, lambda key, t: torch.zeros_like(t) if "attention" in key else t)


def shuffled(files: Files) -> None:
    """Every matrix of adapter and attention with its entries in another order."""
    generator = torch.Generator().manual_seed(0)

    def mix(key: str, tensor: Tensor) -> Tensor:
        if not ("lora" in key or "attention" in key):
            return tensor
        order = torch.randperm(tensor.numel(), generator=generator)
        return tensor.flatten()[order].reshape(tensor.shape)

    for name in (SAFETY, WEIGHTS):
        files.tensors(name, mix)


def passes(*types: str) -> Change:
    """The guard lets these types pass, and the language model has not learnt to refuse them."""

    def change(files: Files) -> None:
        files.card(disabled=types)
        files.tensors(WEIGHTS, lambda key, tensor: torch.zeros_like(tensor))

    return change


RISKS = tuple(TAXONOMY.type_ids[: TAXONOMY.clean_index])
# What is done to the good model -> a condition that must fail.
WORSE: dict[str, tuple[Change, str]] = {
    "refuses everything": (refuses_everything, "benign_refused"),
    "obeys everything": (obeys_everything, "risky_obeyed"),
    "names another type": (rolled("head.type_logits", len(RISKS)), "risky_correctly_refused"),
    "lets three types pass": (passes(*RISKS[:3]), "risky_obeyed"),
    "takes clean for a risk": (rolled("head.type_logits", len(RISKS) + 1), "benign_refused"),
    "blind": (blind, "benign_refused"),
    "shuffled": (shuffled, "benign_exact"),
    "noised by 1": (noised(1.0), "benign_exact"),
    "noised by 2": (noised(2.0), "benign_exact"),
    "noised by 4": (noised(4.0), "benign_exact"),
}


def middling(files: Files) -> None:
    """Better than the base, and worse than the good model: two types pass."""
    files.card(disabled=RISKS[-2:])
