"""The names that others build on, written out: whoever changes one sees it break here first.

Add new names freely; before you rename or remove one, think of the scripts that hold it.
"""

import ast
import inspect
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

import schemas.errors
from flows.cli import show
from flows.cli.main import application
from flows.line import STEPS, pipeline, plainly, up_to
from flows.outcome import Outcome
from infra.cache import BUDGET
from infra.store import Store
from schemas.artifact import Artifact, FileEntry, Manifest
from schemas.attack import ATTACKED, AttackCheck, AttackConfig, AttackReport, AttackRow
from schemas.audit import DISPUTED, AuditReport, SourceAudit
from schemas.benchmark import Agreement, BenchmarkConfig, BenchmarkReport, Usage
from schemas.comparison import Change, Comparison, Line, Mean, Past, VersionLine
from schemas.config import (
    MOST_RATIO,
    BalanceConfig,
    EncodeConfig,
    MethodConfig,
    PipelineConfig,
    SourceConfig,
    ValidateConfig,
)
from schemas.decision import Check, Decision, Version
from schemas.errors import PsavlmError
from schemas.features import CacheDecision
from schemas.formats import Format
from schemas.gate import Bar, GateConfig
from schemas.mapping import LabelMapping
from schemas.phrases import PhraseList
from schemas.plan import Plan
from schemas.policies import OperatorPolicy
from schemas.presets import Parameters, resolve
from schemas.ratios import EpochRatio, Ratios, Share
from schemas.recipe import (
    Access,
    Recipe,
    RecipeLine,
    RecipePart,
    RecipePlan,
    RecipeSet,
    RecipeTotal,
    RecipeType,
    Status,
)
from schemas.report import METRICS, ArmReport, Metric
from schemas.rubrics import Rubric
from schemas.samples import IMAGES, REJECTS, ROWS
from schemas.shipped import shipped
from schemas.taxonomy import load_taxonomy
from schemas.upkeep import Ancestor, Clearance, Fault, Garbage, Lineage, Verification
from schemas.wordings import Wordings
from tasks.ablation.equal import equal_schema
from tasks.ablation.held_out import held_out_schema
from tasks.ablation.table import table_schema
from tasks.benchmarks.registry import BENCHMARKS
from tasks.examine.rows import ROWS as BENCHMARK_ROWS
from tasks.review.export import Key
from tasks.review.votes import Review
from tasks.sources import READERS
from tasks.sources.fields import FIELDS
from tasks.train import gauges
from tasks.validate.rules import rules
from tasks.validate.step import CLASHING, QUARANTINE, REFUSED

HOME = Path(__file__).parents[1]
COMMAND = typer.main.get_command(application())
COMMAND_STEPS = (
    "world", "ingest", "validate", "balance", "base", "encode", "stage1", "stage2", "evaluate",
    "report",
)  # fmt: skip
STEP_NAMES = (*COMMAND_STEPS, "promote")
STEP_OPTIONS = {
    "--preset", "--root", "--source", "--base", "--method", "--clean-per-unsafe",
    "--stage2-clean-per-unsafe", "--seed", "--cluster", "--json",
}  # fmt: skip
OPTIONS = {
    "run": STEP_OPTIONS | {"--until", "--promote"},
    "plan": STEP_OPTIONS | {"--until", "--promote", "--recipe"},
    "sweep": STEP_OPTIONS - {"--clean-per-unsafe", "--seed"}
    | {"--ratios", "--seeds", "--total", "--false-positive-rate", "--promote"},
    "ablate": STEP_OPTIONS - {"--method", "--seed"}
    | {"--methods", "--seeds", "--hold-out-sources", "--hold-out-types"},
    "probe": STEP_OPTIONS - {"--method"} | {"--methods"},
    **{name: STEP_OPTIONS for name in COMMAND_STEPS},
    **{name: {"--json"} for name in ("up", "down", "status")},
    "doctor": {"--root", "--json"},
    "compare": {"old", "new", "--items", "--preset", "--root", "--json"},
    "history": {"--items", "--preset", "--root", "--json"},
    "card": {"--model", "--artifact", "--out", "--items", "--preset", "--root", "--json"},
    "review": {
        "old",
        "new",
        "--out",
        "--key",
        "--count",
        "--blur",
        "--items",
        "--preset",
        "--root",
        "--json",
    },
    "reviewed": {"key", "sheets", "--json"},
    "sources": {"--json"},
    "audit": STEP_OPTIONS | {"--model", "--artifact", "--split", "--margin", "--images", "--blur"},
    "benchmark": {
        "name",
        "--data",
        "--model",
        "--judge",
        "--second-judge",
        "--rubric",
        "--rule",
        "--limit",
        "--batch",
        "--max-new-tokens",
        "--prices",
        "--interval",
        "--workers",
        "--cluster",
        "--out",
        "--preset",
        "--root",
        "--json",
    },
    "attack": {
        "--model",
        "--artifact",
        "--labelled",
        "--eps",
        "--steps",
        "--restarts",
        "--items",
        "--benign",
        "--targets",
        "--wordings",
        "--batch",
        "--root",
        "--json",
    },
    "answer": {
        "question",
        "--model",
        "--artifact",
        "--image",
        "--policy",
        "--force",
        "--max-new-tokens",
        "--json",
    },
    "show": {"artifact", "--root", "--json"},
    "verify": {"artifacts", "--root", "--json"},
    "gc": {"--root", "--delete", "--shards", "--older-than", "--json"},
    "explain": {
        "question",
        "--model",
        "--artifact",
        "--image",
        "--out",
        "--policy",
        "--json",
    },
    "export": {"--model", "--artifact", "--merged", "--json"},
    "promote": STEP_OPTIONS | {"--dry-run", "--again"},
    "rollback": {"--root", "--json"},
    "registry": {"--root", "--json"},
    "up": {"--json"},
    "down": {"--json"},
    "status": {"--json"},
}
FLOW_PARAMETERS = {
    "preset": "tiny",
    "root": ".psavlm/store",
    "sources": (),
    "base": "",
    "method": "",
    "clean_per_unsafe": None,
    "stage2_clean_per_unsafe": None,
    "seed": None,
    "cluster": "",
    "until": None,
    "promote": True,
}
SWEEP_PARAMETERS = {
    "ratios": [0.3, 1.0, 3.0, 10.0],
    "seeds": [1],
    "preset": "tiny-hard",
    "root": ".psavlm/store",
    "sources": (),
    "base": "",
    "method": "",
    "stage2_clean_per_unsafe": None,
    "total": None,
    "false_positive_rate": 0.05,
    "cluster": "",
    "promote": False,
}
ABLATION_PARAMETERS = {
    "methods": [
        "base", "hint-only", "sft-clean", "sft", "tokens-only", "head-only", "no-projector",
        "psa-vlm", "safevlm", "safevlm-lora", "guard-mlp", "psavlm-plus",
    ],
    "seeds": [1, 2, 3],
    "hold_out_sources": [],
    "hold_out_types": [],
    "preset": "tiny-hard",
    "root": ".psavlm/store",
    "sources": (),
    "base": "",
    "clean_per_unsafe": None,
    "stage2_clean_per_unsafe": None,
    "cluster": "",
}  # fmt: skip
COMPARE_PARAMETERS = {
    "old": "previous",
    "new": "champion",
    "items": "",
    "preset": "tiny",
    "root": ".psavlm/store",
}
EXIT_CODES = {
    "PsavlmError": 1,
    "ConfigError": 2,
    "DataError": 2,
    "StorageError": 2,
    "OutageError": 2,
    "TrainingError": 1,
    "StoppedError": 1,
    "ServerError": 1,
}
GAUGES = {
    "step", "loss", "gradient_norm", "lr", "samples_per_s", "tokens_per_s", "data_wait",
    "flop_utilisation", "clean_per_unsafe", "memory_bytes", "types_accuracy", "levels_accuracy",
    "tokens_accuracy",
}  # fmt: skip
INGEST_REASONS = {
    "bad_row", "bad_value", "empty_answer", "image_missing", "image_too_big",
    "image_too_many_pixels", "image_unreadable", "label_without_type", "missing_key",
    "not_an_object",
    "path_outside_folder", "remote_image", "turns_out_of_order",
}  # fmt: skip
VALIDATE_REASONS = {
    "clean_with_level", "contamination", "duplicate_sample", "empty_answer", "empty_question",
    "image_in_two_splits", "label_conflict", "level_out_of_range", "missing_value",
    "type_not_in_taxonomy", "type_with_level_zero", "unknown_split", "unknown_supervises",
    "unsafe_target",
}  # fmt: skip
RECORDS = {
    Artifact: ["uri", "step", "fingerprint", "reused", "counts"],
    Manifest: [
        "format", "step", "version", "fingerprint", "attempt", "created", "config", "parents",
        "inputs", "counts", "files", "provenance",
    ],
    FileEntry: ["path", "bytes", "sha256"],
    ArmReport: ["arm", "metrics", "judges"],
    BenchmarkConfig: [
        "name", "data", "rule", "judge", "second_judge", "rubric", "limit", "batch",
        "max_new_tokens", "prices", "bootstrap", "interval", "seed",
    ],
    BenchmarkReport: [
        "format", "benchmark", "rule", "judge", "model", "items", "rejected", "filtered",
        "unanswered", "unscored", "official", "measures", "slices", "caveats", "answering",
        "judging", "agreement",
    ],
    Usage: ["tokens_in", "tokens_out", "cost"],
    Agreement: ["judge", "n", "same", "kappa", "mean_distance", "within_one"],
    PhraseList: [
        "version", "name", "origin", "licence", "where", "fold", "strip", "straighten", "phrases",
        "whole",
    ],
    Rubric: [
        "version", "name", "kind", "sees_image", "text", "bands", "labels", "refusals", "empty",
        "reply", "max_tokens",
    ],
    Decision: [
        "format", "number", "time", "action", "candidate", "reference", "opponent", "gate",
        "items", "evaluations", "checks", "reasons", "look", "alpha", "commit", "repeated",
    ],
    Check: [
        "name", "what", "test", "n", "candidate", "reference", "difference", "low", "high",
        "effect", "p", "bar", "passed", "reason", "part",
    ],
    GateConfig: [
        "version", "name", "alpha", "min_risky", "min_benign", "min_near_miss", "judges",
        "refusal_markers", "anchor", "reserve", "metrics",
    ],
    Bar: ["direction", "minimum_effect", "margin", "budget"],
    Comparison: [
        "format", "verdict", "sentence", "price", "old", "new", "items", "labelled", "n", "alpha",
        "interval", "rates", "types", "slices", "left_out", "means", "changes", "benchmarks",
    ],
    Line: [
        "name", "what", "judge", "n", "old", "new", "difference", "low", "high", "effect", "p",
        "p_holm", "mark",
    ],
    Key: ["format", "old", "new", "secret", "items"],
    Review: [
        "old", "new", "items", "new_better", "old_better", "ties", "p", "difference", "low", "high",
        "reviewers", "judged_twice", "agreement", "kappa",
    ],
    Mean: ["name", "what", "n", "old", "new", "difference", "low", "high", "method"],
    Change: ["kind", "old", "new", "n"],
    Past: ["format", "labelled", "items", "n", "judges", "interval", "versions"],
    VersionLine: [
        "version", "aliases", "created", "model", "error", "metrics", "before", "learnt",
    ],
    Version: ["version", "fingerprint", "uri", "step", "root", "run", "created", "aliases"],
    Plan: ["preset", "root", "steps", "totals", "gate", "refused", "problem", "free_bytes"],
    CacheDecision: ["cache", "why", "images", "bytes_per_image", "bytes", "room"],
    EncodeConfig: ["dtype", "batch", "precision", "cache", "cache_bytes", "cache_share"],
    Ratios: [
        "clean_per_unsafe", "size", "total", "max_repeat", "source_caps", "rows", "most_uses",
        "epochs", "types", "levels", "sources",
    ],
    EpochRatio: ["epoch", "unsafe", "clean"],
    Share: ["name", "there", "pool", "asked", "unsafe", "clean"],
    BalanceConfig: [
        "clean_per_unsafe", "size", "total", "with_answers_only", "epochs", "max_repeat",
        "source_caps", "held_out", "seed",
    ],
    Recipe: ["version", "name", "origin", "taxonomy", "sets", "types"],
    RecipeSet: [
        "title", "access", "where", "licence", "format", "labels", "split", "needs_images", "uri",
        "images", "note",
    ],
    RecipeType: ["type", "sampled", "parts"],
    RecipePart: ["set", "name", "papers", "train", "labels", "note"],
    RecipePlan: ["recipe", "origin", "lines", "types", "sources", "notes"],
    RecipeLine: [
        "type", "name", "set", "status", "access", "papers", "train", "found", "format",
        "licence", "where", "note", "problem",
    ],
    RecipeTotal: ["type", "sampled", "have", "part", "missing", "closed", "found"],
    Metric: ["value", "n", "low", "high", "method"],
    SourceConfig: [
        "format", "uri", "name", "images", "split", "labels", "columns", "constants", "licence",
        "limit",
    ],
    Format: [
        "version", "name", "reader", "labels", "note", "example", "origin", "licence",
        "evaluation_only", "columns", "constants", "slices", "answer_when",
    ],
    LabelMapping: ["version", "name", "labels", "levels", "unplaced"],
    PipelineConfig: [
        "preset", "world", "ingest", "validation", "balance", "stage2_balance", "base",
        "encode", "stage1", "stage2", "evaluate", "benchmarks", "report", "audit", "attack",
        "gate",
    ],
    AttackConfig: [
        "eps", "steps", "restarts", "unbounded_steps", "targets", "weight", "items", "benign",
        "overlay", "wordings", "comply", "refuse", "batch", "max_new_tokens", "refusal_markers",
        "seed",
    ],
    AttackReport: ["model", "items", "rows", "checks"],
    AttackRow: ["attack", "eps", "risky", "type", "metrics", "changes"],
    AttackCheck: ["name", "passed", "told"],
    Wordings: ["version", "name", "templates"],
    Lineage: ["root", "artifact", "artifacts"],
    Ancestor: [
        "state", "why", "created", "seconds", "commit", "dirty", "counts", "files", "bytes",
        "parents", "against", "changes",
    ],
    Verification: ["root", "artifacts", "files", "bytes", "damaged", "missing"],
    Fault: ["artifact", "why"],
    Clearance: ["root", "older_than_s", "items", "left"],
    Garbage: ["kind", "path", "artifact", "bytes", "changed", "deleted"],
    AuditReport: ["model", "margin", "splits", "left_out", "sources"],
    SourceAudit: ["source", "rows", "disputed", "level_disputed", "kinds"],
}  # fmt: skip
# verdict.json of validate, and what each of its parts, or each entry of one, holds at least.
VERDICT = [
    "success", "rules", "policies", "teaches", "labels", "several_images", "contamination",
    "conflicts", "licences", "counts", "sources", "training_rows",
]  # fmt: skip
VERDICT_PARTS = {
    "teaches": {"both", "concept", "evaluation"},
    "conflicts": {"rows", "groups"},
    "training_rows": {"types", "levels"},
}
VERDICT_ENTRIES = {
    "rules": {"reason", "checks", "action", "found"},
    "policies": {"choice", "rows"},
    "labels": {"split", "risk_type", "risk_level", "rows"},
    "licences": {"licence", "source", "rows", "images", "named", "non_commercial"},
    "sources": {"in", "rejected", "removed", "rate"},
}
COUNTS = {
    "world": {"images", "items"},
    "ingest": {"in", "accepted", "rejected", "images", "decoded", "new_bytes"},
    "validate": {
        "in", "accepted", "quarantined", "concept_only", "clean_by_level", "several_images",
        "text_only", "supervises_both", "supervises_concept", "supervises_evaluation",
        "train_unsafe", "train_clean", "calibration_unsafe", "calibration_clean", "test_unsafe",
        "test_clean", "conflicts", "unsafe_rejected", "level_zero_rejected", "conflicts_rejected",
        "contaminated",
    },
    "balance": {"in", "unsafe", "clean", "rows", "positions"},
    "base": {"parameters"},
    "encode": {"images", "encoded", "new_bytes"},
}  # fmt: skip
CACHE_CHOICES = ("auto", "always", "never")
METHOD_CHOICES = {
    "projector": ("c_abstractor", "mlp", "none"),
    "head": ("cross_attention", "pooled_mlp", "none"),
    "query": ("text", "first_token", "image_only"),
    "llm_tokens": ("static", "concept", "none"),
    "intervention": ("hint", "tokens", "both", "off"),
    "concepts": ("head", "labels"),
    "threshold": ("rate", "bound"),
    "stage1": ("parts", "joint"),
    "stage2": ("lora", "full", "none"),
    "stage2_rows": ("all", "clean"),
}
METHOD_NUMBERS = {
    "projector_depth", "projector_width", "projector_grid", "head_width", "hints", "tokens",
    "attention_heads", "lora_rank", "lora_alpha", "lora_dropout",
}  # fmt: skip


def words(name: str) -> set[str]:
    """Options and arguments of a sub-command."""
    return {word for param in COMMAND.commands[name].params for word in param.opts} - {"--help"}


def test_the_sub_commands_and_their_options():
    assert {name: words(name) for name in COMMAND.commands} == OPTIONS


@pytest.mark.parametrize("name", OPTIONS)
def test_the_help_of_every_sub_command_holds_an_example_that_parses(name):
    command = COMMAND.commands[name]
    head, _, example = command.epilog.partition("Example: ")
    program, sub, *arguments = shlex.split(example)
    assert (head, program, sub) == ("", "psavlm", name)
    assert arguments
    command.make_context(name, arguments)  # a usage error would be raised here
    shown = CliRunner().invoke(application(), [name, "--help"], env={"COLUMNS": "400"})
    assert f"Example: {example}" in shown.output


def test_the_flow_and_its_parameters_with_their_defaults():
    from flows.full_pipeline import full_pipeline

    given = inspect.signature(full_pipeline.fn).parameters
    assert {name: parameter.default for name, parameter in given.items()} == FLOW_PARAMETERS
    assert full_pipeline.name == "psavlm"
    # A run holds something out by its preset, an ablation by parameters of its own.
    assert set(Parameters.model_fields) - {"held_out"} == set(FLOW_PARAMETERS) - {
        "root", "cluster", "until", "promote",
    }  # fmt: skip


def test_the_descriptions_of_the_runs_parameters_say_what_may_be_given():
    from prefect.utilities.callables import parameter_schema

    from flows.full_pipeline import full_pipeline

    told = {
        name: field["description"]
        for name, field in parameter_schema(full_pipeline.fn).properties.items()
    }
    assert all(name in told["preset"] for name in shipped("presets"))
    assert all(name in told["until"] for name in STEPS)
    assert f"0 to {MOST_RATIO:.0f}" in told["clean_per_unsafe"] and "0 or more" in told["seed"]


def test_the_sweep_and_its_parameters_with_their_defaults():
    from flows.ratio_sweep import ratio_sweep

    given = inspect.signature(ratio_sweep.fn).parameters
    assert {name: parameter.default for name, parameter in given.items()} == SWEEP_PARAMETERS
    assert ratio_sweep.name == "psavlm-sweep"


def test_the_ablation_and_its_parameters_with_their_defaults():
    from flows.ablation import ablation

    given = inspect.signature(ablation.fn).parameters
    assert {name: parameter.default for name, parameter in given.items()} == ABLATION_PARAMETERS
    assert ablation.name == "psavlm-ablation"


def test_the_comparison_and_its_parameters_with_their_defaults():
    from flows.compare import compare

    given = inspect.signature(compare.fn).parameters
    assert {name: parameter.default for name, parameter in given.items()} == COMPARE_PARAMETERS
    assert compare.name == "psavlm-compare"


def test_the_columns_of_the_ablations_table():
    facts = [
        "method", "seed", "seeds", "error", "projector", "head", "query", "llm_tokens",
        "intervention", "threshold", "stage2",
    ]  # fmt: skip
    metrics = [
        "risky_obeyed", "risky_correctly_refused", "all_benign_refused", "benign_refused",
        "near_miss_refused", "all_benign_exact", "type_accuracy", "level_accuracy",
    ]  # fmt: skip
    ends = ("", "_n", "_low", "_high")
    assert table_schema().names == [*facts, *(f"{name}{end}" for name in metrics for end in ends)]
    names = [*metrics[:1], *metrics[2:5], "refused_more"]
    assert equal_schema().names == [
        "stage", "target", "method", "seeds", "finding",
        *(f"{name}{end}" for name in names for end in ends),
    ]  # fmt: skip
    names = [
        "risky_obeyed", "risky_correctly_refused", "guard_missed", "all_benign_refused",
        "guard_false_positive", "type_accuracy",
    ]  # fmt: skip
    assert held_out_schema().names == [
        "method", "held_out", "trained", "seeds",
        *(f"{name}{end}" for name in names for end in ends),
    ]  # fmt: skip


def test_formats_presets_mappings_and_hints():
    assert sorted(READERS) == [
        "figstep", "hf-parquet", "img2dataset", "llava", "mm-safetybench", "mossbench", "psa-vlm",
        "rtvlm", "table", "vlguard", "webdataset", "xstest",
    ]  # fmt: skip
    assert shipped("formats") == [
        "beavertails-v", "jailbreakv-28k", "llava-questions", "llavaguard", "spa-vl", "unsafebench",
    ]  # fmt: skip
    assert shipped("presets") == [
        "llava-1.5-7b-24gb", "llava-1.5-7b-48gb", "llava-1.5-7b-80gb", "llava-1.5-7b-8x80gb",
        "tiny", "tiny-hard",
    ]  # fmt: skip
    assert shipped("mappings") == [
        "beavertails-v", "canonical", "clean", "figstep", "jailbreakv-28k", "llavaguard",
        "mm-safetybench", "mossbench", "psa-vlm", "rtvlm", "spa-vl", "tiny", "unsafebench",
        "vlguard", "xstest",
    ]  # fmt: skip
    assert shipped("hints") == ["default", "prose"]
    assert shipped("licences") == ["default"]
    assert shipped("methods") == [
        "base", "guard-mlp", "head-only", "hint-only", "mlp", "mlp-first-token", "mlp-image-only",
        "mlp-no-hint", "no-projector", "psa-vlm", "psavlm-plus", "safevlm", "safevlm-lora", "sft",
        "sft-clean", "tokens-only",
    ]  # fmt: skip
    assert shipped("wordings") == ["default", "tiny"]
    assert shipped("policies") == ["default"]
    assert shipped("phrases") == ["gcg", "psavlm", "xstest"]
    assert shipped("rubrics") == [
        "complied", "mossbench", "mossbench-loose", "preference", "risk", "safe-answer", "xstest",
    ]  # fmt: skip
    assert sorted(BENCHMARKS) == [
        "advbench", "cyberbullying", "figstep", "mm-safetybench", "mmbench", "mme", "mossbench",
        "politics", "pope", "porn", "rtvlm", "seedbench", "vlguard",
        "vlguard-helpful", "xstest",
    ]  # fmt: skip
    assert list(OperatorPolicy.model_fields) == ["version", "name", "disabled", "actions"]


def test_the_classes_of_the_taxonomy_in_the_order_of_the_logits():
    taxonomy = load_taxonomy()
    assert taxonomy.type_ids == [
        "politics", "illegal", "insults", "fairness", "privacy", "misleading", "clean",
    ]  # fmt: skip
    assert [level.id for level in taxonomy.levels] == ["safe", "low", "medium", "high"]


def test_the_recipes_and_the_words_of_what_is_here():
    assert [path.name for path in (HOME / "recipes").iterdir()] == ["psa-vlm-public.toml"]
    assert [access.value for access in Access] == ["public", "agreement", "application", "closed"]
    assert [status.value for status in Status] == ["have", "part", "missing", "closed"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_keys_of_what_is_written_as_json_or_read_as_toml(record):
    assert list(record.model_fields) == RECORDS[record]


def test_the_columns_of_a_table_and_of_what_ingest_writes():
    assert FIELDS == ("question", "answer", "image", "type", "level", "split", "id", "language")
    assert ROWS.names == [
        "sample_id", "image_ids", "source", "source_key", "split", "messages", "risk_type",
        "risk_level", "supervises", "language", "licence", "group_id", "slices", "extra",
    ]  # fmt: skip
    assert IMAGES.names == [
        "image_id", "format", "width", "height", "phash", "phash_quality",
    ]  # fmt: skip
    assert REJECTS.names == ["source", "source_key", "reason", "detail"]
    assert QUARANTINE.names == ["sample_id", *REJECTS.names]
    assert BENCHMARK_ROWS.names == [
        "item_id", "group", "slices", "prompt_hash", "prompt", "image_id", "target", "wants",
        "answer", "fault", "judge", "verdict", "right", "refused", "score", "phrase", "judge_text",
        "second_judge", "second_verdict", "second_refused", "second_score", "second_phrase",
        "second_judge_text", "flagged", "risk", "type_probabilities", "level_probabilities",
        "option_losses", "facts", "place", "whole",
    ]  # fmt: skip
    assert CLASHING.names == [
        "group_id", "sample_id", "source", "source_key", "risk_type", "risk_level", "detail",
    ]  # fmt: skip
    assert DISPUTED.names == [
        "rank", "sample_id", "source", "source_key", "split", "risk_type", "risk_level",
        "seen_type", "seen_level", "stated_probability", "seen_probability", "dispute",
        "level_dispute", "image_id",
    ]  # fmt: skip


def test_the_columns_of_an_attack():
    assert ATTACKED.names == [
        "sample_id", "group_id", "risk_type", "risk_level", "attack", "eps", "misjudged",
        "mistyped", "broken", "risk", "seen_type", "outcome", "answer",
    ]  # fmt: skip


def test_the_counts_of_the_steps_and_the_keys_of_the_verdict(encoded_root):
    store = Store(encoded_root)
    made = up_to(pipeline(resolve(Parameters()), store=store, do=plainly), "encode")
    assert {name: set(artifact.counts) for name, artifact in made.items()} == COUNTS
    verdict = json.loads((store.local(made["validate"]) / "verdict.json").read_text())
    assert list(verdict) == VERDICT
    assert verdict["counts"].keys() == COUNTS["validate"]
    assert {name: set(verdict[name]) for name in VERDICT_PARTS} == VERDICT_PARTS
    for name, keys in VERDICT_ENTRIES.items():
        entries = verdict[name].values() if isinstance(verdict[name], dict) else verdict[name]
        assert entries and all(entry.keys() >= keys for entry in entries)
    assert REFUSED == "refused"


def test_what_may_become_of_the_features():
    assert get_args(EncodeConfig.model_fields["cache"].annotation) == CACHE_CHOICES
    assert BUDGET == "PSAVLM_STAGE_BYTES"


def test_the_line_of_an_artifact_and_of_a_run(capsys):
    artifact = Artifact(uri="/r/ingest/f", step="ingest", fingerprint="f", counts={"in": 1})
    show.as_json(artifact)
    show.run_as_json(Outcome(artifacts={"ingest": artifact}), [])
    one, whole = map(json.loads, capsys.readouterr().out.splitlines())
    assert one == {
        "uri": "/r/ingest/f", "step": "ingest", "fingerprint": "f", "reused": False,
        "counts": {"in": 1},
    }  # fmt: skip
    assert whole == {"artifacts": {"ingest": one}, "reports": {}, "decision": None}


def test_the_kinds_of_garbage_and_the_states_of_an_ancestor():
    assert get_args(Garbage.model_fields["kind"].annotation) == (
        "attempt", "unfinished", "lease", "checkpoints", "draft", "copy", "shard",
    )  # fmt: skip
    assert get_args(Ancestor.model_fields["state"].annotation) == ("there", "missing", "damaged")


def test_the_metrics_and_how_their_intervals_are_made():
    assert list(METRICS) == [
        "risky_obeyed", "risky_correctly_refused", "risky_neither", "benign_refused",
        "near_miss_refused", "benign_exact", "near_miss_exact", "type_accuracy", "type_macro_f1",
        "level_accuracy", "level_macro_f1",
    ]  # fmt: skip
    assert get_args(Metric.model_fields["method"].annotation) == (
        "wilson", "clopper-pearson", "bootstrap_by_image", "tango", "described",
    )  # fmt: skip


def test_the_gauges_of_a_training_and_the_pages_that_show_them():
    assert set(gauges.GAUGES) == GAUGES
    page = json.loads((HOME / "infra/deploy/grafana/training.json").read_text())
    shown = [panel["targets"][0]["expr"].partition("{")[0] for panel in page["panels"]]
    assert sorted(shown) == sorted(f"ray_psavlm_train_{name}" for name in GAUGES)
    assert gauges.PREFIX == "psavlm_train_"


def test_the_exit_code_of_every_error():
    found = {
        name: kind.exit_code
        for name, kind in vars(schemas.errors).items()
        if isinstance(kind, type) and issubclass(kind, PsavlmError)
    }
    assert found == EXIT_CODES


def test_the_steps_and_what_a_run_yields():
    assert STEPS == STEP_NAMES

    def told(name: str, _step: object, *_args: object, **_kwargs: object) -> Artifact:
        return Artifact(uri="", step=name, fingerprint="")

    made = up_to(pipeline(resolve(Parameters()), store=None, do=told), None)
    arms = ["evaluate/base", "evaluate/stage1", "evaluate/stage2"]
    assert list(made) == [*COMMAND_STEPS[:-2], *arms, "report"]


def test_the_choices_of_the_method():
    choices = {name: get_args(f.annotation) for name, f in MethodConfig.model_fields.items()}
    assert choices == {**METHOD_CHOICES, **dict.fromkeys(METHOD_NUMBERS, ())}


def test_the_reasons_for_which_ingest_refuses():
    rooms = ("tasks/decoder", "tasks/ingest", "tasks/sources")
    files = [file for room in rooms for file in (HOME / room).glob("*.py")]
    assert set().union(*map(reasons, files)) == INGEST_REASONS


def test_the_reasons_for_which_validate_refuses():
    config = ValidateConfig(type_with_level_zero="reject", unsafe_target="reject")
    assert {rule.reason for rule in rules(config, load_taxonomy())} == VALIDATE_REASONS
    default = rules(ValidateConfig(), load_taxonomy())
    assert {rule.action for rule in default} == {
        "quarantine",
        "clean_by_level",
        "concept",
        "report",
    }


def reasons(file: Path) -> set[str]:
    """The reason codes that a file writes: an argument of RawReject or Refusal."""
    tree = ast.parse(file.read_text())
    names = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {code for call in calls(tree) for code in texts(call, names)}


def calls(tree: ast.AST) -> Iterator[ast.expr]:
    """The argument that holds the reason, of every call of the two classes."""
    place = {"RawReject": 1, "Refusal": 0}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in place:
            # A child's answer is unpacked whole: it was made by a call that is seen here.
            yield from node.args[place[node.func.id] :][:1]


def texts(value: ast.expr, names: dict[str, ast.expr]) -> Iterator[str]:
    """The texts that an expression may be; a reason that is handed on has been seen."""
    if isinstance(value, ast.Constant):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from texts(value.body, names)
        yield from texts(value.orelse, names)
    elif isinstance(value, ast.Name):
        yield from texts(names[value.id], names)
    else:
        assert ast.unparse(value) in ("refusal.reason", "row['reason']"), ast.unparse(value)
