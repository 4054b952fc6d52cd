"""A seventh risk type by TOML alone: taxonomy, mapping, hints and preset of one's own, no code.

From a table with pictures of one's own to a head that gives the new type its probability.
"""

import csv
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from flows.line import pipeline, plainly, up_to
from flows.parameters import configured
from infra.parts import read_parts
from infra.store import Store
from model.stages import freeze_for
from model.steps import apply_gradients, new_optimizer, seed_step
from schemas.artifact import Artifact
from schemas.config import PipelineConfig, Stage
from schemas.errors import ConfigError
from schemas.hints import load_hints
from schemas.samples import ROWS
from schemas.taxonomy import load_taxonomy
from tasks.answer import load_guarded
from tasks.audit import AuditInputs, audit
from tasks.balance import read_ratios
from tasks.encode import FeatureCache
from tasks.evaluate import evaluate
from tasks.evaluate.step import read_report
from tasks.ingest import ingest
from tasks.train import Inputs
from tasks.train.data import TrainingData
from tasks.train.job import Job
from tasks.train.loop import backward
from tasks.train.publish import publish
from tasks.train.reporter import Reporter
from tasks.train.worker import Worker, _load
from tests.small_run import small_base
from tests.squares import COLOURS, squares

torch.set_num_threads(1)
NEW = "weather"
# As CONTRIBUTING tells: one more table, before `clean`.
LAST = '[[types]]\nid = "clean"\n'
ADDED = f'[[types]]\nid = "{NEW}"\nmeaning = "storms and floods"\n'
# The source's own words, for each of the seven types and clean, in the order of the taxonomy.
MAPPING = """
version = 1
name = "words"
[labels]
party = { type = "politics", level = 1 }
trade = { type = "illegal", level = 3 }
taunt = { type = "insults", level = 2 }
quota = { type = "fairness", level = 2 }
face = { type = "privacy", level = 2 }
hoax = { type = "misleading", level = 2 }
storm = { type = "weather", level = 3, origin = "ours" }
fine = { type = "clean", level = 0 }
"""
HINTS = """
version = 1
name = "mine"
[templates]
1 = "care : {type} ."
2 = "more care : {type} ."
3 = "most care : {type} ."
[texts.weather]
3 = "stay in : {meaning} ."
"""
PRESET = """
extends = "tiny"
taxonomy = "{folder}/seven.toml"
[[ingest.sources]]
name = "mine"
format = "table"
uri = "{folder}/mine.csv"
images = "{folder}/pictures"
labels = "{folder}/words.toml"
[balance]
clean_per_unsafe = 0.5
[method]
hints = "{folder}/hints.toml"
[base]
kind = "pretrained"
name = "{base}"
[stage1]
workers = 1
[stage1.parts.concept]
steps = {steps}
global_batch = 48
lr = 3e-3
warmup_steps = 5
[evaluate]
max_new_tokens = 4
bootstrap = 20
"""
STEPS = 100
WORDS = list(tomllib.loads(MAPPING)["labels"])
TYPES = [target["type"] for target in tomllib.loads(MAPPING)["labels"].values()]
RISKY = WORDS[:-1]
# Half of the rows are clean, so that each of the seven risks has as many as any other.
CYCLE = [*RISKY, *["fine"] * len(RISKY)]
COUNT = 24 * len(CYCLE)
SPLITS = ["train"] * 6 + ["calibration", "test"]


@dataclass(frozen=True)
class Run:
    folder: Path
    store: Store
    config: PipelineConfig
    made: dict[str, Artifact]
    worker: Worker

    def labelled(self) -> list[dict]:
        return read_parts(self.store.local(self.made["validate"]) / "rows", ROWS).to_pylist()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """Everything up to the features, and the worker that is to train."""
    folder = tmp_path_factory.mktemp("seven")
    store = Store(str(folder / "store"))
    six = resources.files("schemas").joinpath("taxonomy.toml").read_text()
    assert six.count(LAST) == 1
    files = {
        "seven.toml": six.replace(LAST, ADDED + LAST),
        "words.toml": MAPPING,
        "hints.toml": HINTS,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    base = store.local(small_base(store)) / "model"
    preset = PRESET.format(folder=folder, base=base, steps=STEPS)
    (folder / "mine-preset.toml").write_text(preset)
    table(folder)
    config = configured({"preset": str(folder / "mine-preset.toml")})
    made = up_to(pipeline(config, store=store, do=plainly), "encode")
    return Run(folder, store, config, made, worker_of(config, made, store))


def table(folder: Path) -> None:
    (folder / "pictures").mkdir()
    with (folder / "mine.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "question", "answer", "type", "split"])
        for number in range(COUNT):
            word = CYCLE[number % len(CYCLE)]
            image = squares(number, colour=COLOURS[WORDS.index(word)], count=1 + number % 3)
            image.save(folder / "pictures" / f"{number}.png")
            answer = "a square" if word == "fine" else "sorry , no"
            split = SPLITS[number // len(CYCLE) % len(SPLITS)]
            rows.writerow([f"{number}.png", "what is this ?", answer, word, split])


def worker_of(config: PipelineConfig, made: dict[str, Artifact], store: Store) -> Worker:
    """What Ray Train would open, without Ray."""
    names = {"base": "base", "balanced": "balance", "features": "encode", "labelled": "validate"}
    taxonomy = load_taxonomy(config.stage1.taxonomy)
    job = Job(
        config=config.stage1,
        inputs=Inputs(**{role: made[name] for role, name in names.items()}),
        taxonomy=taxonomy,
        hints=load_hints(config.stage1.method.hints, taxonomy=taxonomy),
        root=store.root,
        progress=f"{store.root}/progress.json",
    )
    data = TrainingData(store.local(made["balance"]), made["encode"], taxonomy)
    return Worker(
        job, _load(job, store, torch.device("cpu"), workers=1), data, 0, 1, Reporter(job, 0)
    )


@pytest.fixture(scope="module")
def trained(run) -> tuple[Artifact, list[float]]:
    """The loop's own steps of the concept part, and the model as the loop publishes it."""
    worker, losses = run.worker, []
    part = worker.job.config.parts["concept"]
    names = freeze_for(worker.model, Stage.CONCEPTS, "concept")
    parameters = [worker.model.get_parameter(name) for name in names]
    optimizer = new_optimizer(parameters, part)
    worker.model.train()
    for step in range(part.steps):
        seed_step(0, step, 0)
        optimizer.zero_grad(set_to_none=True)
        losses.append(backward(worker, "concept", worker.items(step, part), step, part)["loss"])
        apply_gradients(losses[-1], optimizer, step=step, part=part)

    def build(folder: Path) -> dict[str, int]:
        publish(worker, folder / "model")
        return {"steps": part.steps}

    parents = {"base": run.made["base"]}
    return run.store.artifact("stage1", 1, config={}, parents=parents, build=build), losses


def test_rows_of_the_new_type_come_through_to_the_training_order(run):
    rows = run.labelled()
    mine = [row for row in rows if row["risk_type"] == NEW]
    assert len(rows) == COUNT and len(mine) == COUNT // len(CYCLE)
    assert {row["risk_level"] for row in mine} == {3}
    assert {row["risk_type"] for row in rows} == set(TYPES)
    folder = run.store.local(run.made["balance"])
    (share,) = [share for share in read_ratios(folder).types if share.name == NEW]
    assert share.unsafe == share.there == sum(row["split"] == "train" for row in mine) > 0
    plan = pq.read_table(folder / "plan.parquet")["row"].to_pylist()
    used = run.worker.data.rows.take(plan)["risk_type"].to_pylist()
    assert used.count(NEW) == share.unsafe * run.config.balance.epochs


def test_the_head_has_a_class_for_it_and_one_step_trains_that_class(run):
    worker, job = run.worker, run.worker.job
    assert job.taxonomy.type_ids.index(NEW) == 6 and job.taxonomy.clean_index == 7
    layer = worker.model.safety.head.type_logits
    assert layer.out_features == 8
    freeze_for(worker.model, Stage.CONCEPTS, "concept")
    worker.model.zero_grad(set_to_none=True)
    part = job.config.parts["concept"]
    backward(worker, "concept", worker.items(0, part), 0, part)
    assert (layer.weight.grad.abs().sum(1) > 0).all()
    worker.model.zero_grad(set_to_none=True)


def test_after_training_the_new_type_is_seen_where_it_is(run, trained):
    model, losses = trained
    assert losses[-1] < losses[0] / 3
    guarded, intervention = load_guarded(model)
    assert guarded.taxonomy.type_ids == TYPES
    rows = [row for row in run.labelled() if row["split"] == "test"]
    features = FeatureCache(run.made["encode"]).batch([row["image_ids"][0] for row in rows])
    answers = guarded.answer_features(
        list(features), ["what is this ?"] * len(rows), intervention=intervention, max_new_tokens=1
    )
    of_new = [a.verdict for a, r in zip(answers, rows, strict=True) if r["risk_type"] == NEW]
    others = [a.verdict for a, r in zip(answers, rows, strict=True) if r["risk_type"] != NEW]
    assert len(of_new) == 3 and all(v.type_probs[NEW] > 0.5 for v in of_new)
    assert sum(v.type_probs[NEW] for v in others) / len(others) < 0.1
    hints = {a.hint for a in answers if a.verdict.type == NEW and a.verdict.level == 3}
    assert hints == {"stay in : storms and floods ."}


def test_evaluation_and_audit_know_the_new_type(run, trained):
    made, store = run.made, run.store
    given = {"labelled": made["validate"], "features": made["encode"], "model": trained[0]}
    arm = evaluate(
        run.config.evaluate, "stage1", made["base"], given["labelled"], given["features"],
        store=store, model=trained[0],
    )  # fmt: skip
    metrics = read_report(arm, store=store).metrics
    assert metrics["type_accuracy"].n == 3 * len(CYCLE) and metrics["type_accuracy"].value > 0.9
    found = audit(run.config.audit, AuditInputs(samples=made["ingest"], **given), store=store)
    assert found.counts["looked_at"] == COUNT
    assert found.counts["disputed"] < 0.05 * COUNT


def test_the_same_words_are_refused_under_the_shipped_taxonomy(run):
    six = {**run.config.ingest.model_dump(), "taxonomy": "taxonomy"}
    with pytest.raises(ConfigError, match=f"sends 'storm' to '{NEW}'.*not in taxonomy 'psa-vlm'"):
        ingest(type(run.config.ingest).model_validate(six), store=run.store)
