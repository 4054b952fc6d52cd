"""`psavlm plan`: tells what a run would do, and writes nothing."""

import json
import subprocess
import sys
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli.main import application
from flows.cli.plan import duration, size, summary
from flows.line import pipeline, plainly, up_to
from flows.parameters import configured
from flows.plan import planned
from infra.planning import PlanningStore
from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.config import WorldConfig
from schemas.errors import ConfigError
from schemas.plan import Plan, PlannedStep
from tasks.tiny_world.records import count_records, make_records
from tasks.tiny_world.world import tiny_world
from tests.s3_server import BUCKET, s3_server

SMALL = """
extends = "tiny"
[world]
risky_train = 48
clean_train = 48
risky_test = 24
clean_test = 24
near_miss_test = 4
second_style = 8
"""
XSTEST = """
[[benchmarks]]
name = "xstest"
data = "tests/data/xstest"
limit = 6
"""
REAL = ("images", "tiny_world", "ingest", "validate", "balance")
COUNTS = {"encode": {"images": 180}, "evaluate": {"items": 90}}
WEIGHTS = 1000
LINE = [
    "world", "ingest", "validate", "balance", "balance for stage 2", "base", "encode", "stage1",
    "stage2", "evaluate base", "evaluate stage1", "evaluate stage2", "report",
]  # fmt: skip


class Untrained(Store):
    """Real data steps; for what takes minutes to train, an artifact of some bytes in its place."""

    def artifact(self, step: str, version: int, **given: Any) -> Artifact:
        def some_bytes(folder: Path) -> Mapping[str, int]:
            (folder / "weights").write_bytes(bytes(WEIGHTS))
            return COUNTS.get(step, {})

        changed = {} if step in REAL else {"build": some_bytes}
        return super().artifact(step, version, **{**given, **changed})


@pytest.fixture(scope="module")
def preset(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("preset") / "small.toml"
    path.write_text(SMALL)
    return str(path)


@pytest.fixture(scope="module")
def done(preset, tmp_path_factory) -> dict[str, Artifact]:
    """The artifacts of a finished run."""
    store = Untrained(str(tmp_path_factory.mktemp("done")))
    made = {}

    def do(name: str, *step: Any, **given: Any) -> Artifact:
        made[name] = plainly(name, *step, **given)
        return made[name]

    up_to(pipeline(configured({"preset": preset}), store=store, do=do), None)
    return made


@pytest.fixture(scope="module")
def root(done) -> str:
    return done["world"].uri.rsplit("/", 2)[0]


def plan(root: str, **asked: Any) -> Plan:
    return planned(configured(asked), root=root)


def steps(plan: Plan) -> dict[str, PlannedStep]:
    return {step.name: step for step in plan.steps}


def due(plan: Plan) -> set[str]:
    return {step.name for step in plan.steps if not step.reused}


def tree(folder: str | Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and time of change."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in Path(folder).rglob("*")
    }


def took(artifact: Artifact, seconds: float) -> None:
    """Note in an artifact's manifest how long it took."""
    path = Path(artifact.uri) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["provenance"]["seconds"] = seconds
    path.write_text(json.dumps(manifest))


def own(preset: str, folder: Path, text: str) -> str:
    """A preset that changes another."""
    path = folder / "own.toml"
    path.write_text(f'extends = "{preset}"\n{text}')
    return str(path)


# --- what would run ---


def test_in_an_empty_root_every_step_runs_and_nothing_is_invented(preset, tmp_path):
    told = plan(str(tmp_path / "none" / "store"), preset=preset)
    assert [step.name for step in told.steps] == LINE
    assert due(told) == set(LINE)
    assert {(s.seconds, s.bytes, s.measured) for s in told.steps} == {(None, None, "")}
    assert (told.totals.seconds, told.totals.bytes) == (None, None)
    assert told.totals.not_known == tuple(LINE)
    assert list(tmp_path.iterdir()) == []


def test_training_is_told_in_steps_and_items_seen(preset, tmp_path):
    told = plan(str(tmp_path), preset=preset, clean_per_unsafe=2.0)
    concept, tokens = steps(told)["stage1"].training
    assert (concept.part, concept.steps, concept.global_batch, concept.samples) == (
        "concept", 300, 64, 19200,
    )  # fmt: skip
    assert tokens.samples == 80 * 32
    assert (told.totals.training_steps, told.totals.samples) == (540, 26880)
    assert {s.clean_per_unsafe for s in told.steps} == {None, 2.0}


def test_after_a_finished_run_every_step_is_reused_at_its_address(done, root, preset):
    before = tree(root)
    told = plan(root, preset=preset)
    assert due(told) == set()
    assert {step.name: step.uri for step in told.steps} == {n: a.uri for n, a in done.items()}
    assert (told.totals.run, told.totals.reused) == (0, len(LINE))
    assert (told.totals.seconds, told.totals.bytes, told.totals.not_known) == (0, 0, ())
    assert tree(root) == before


def test_another_ratio_runs_from_balance_on(root, preset):
    told = plan(root, preset=preset, clean_per_unsafe=0.5)
    reused = {"world", "ingest", "validate", "base", "encode", "evaluate base"}
    assert due(told) == set(LINE) - reused
    assert told.gate == "default"


def test_until_ends_the_plan(root, preset):
    told = planned(configured({"preset": preset, "seed": 7}), root=root, until="encode")
    assert [step.name for step in told.steps] == LINE[: LINE.index("encode") + 1]
    assert told.gate == ""
    with pytest.raises(ConfigError, match="until 'encoded' is no step"):
        planned(configured({"preset": preset}), root=root, until="encoded")


def test_the_benchmarks_of_a_preset_are_steps_after_the_arms(done, root, preset, tmp_path):
    asked = own(preset, tmp_path, XSTEST)
    told = plan(root, preset=asked)
    steps = ["benchmark xstest base", "benchmark xstest stage2"]
    assert [step.name for step in told.steps] == [*LINE[:-1], *steps, "report"]
    assert due(told) == {*steps, "report"}
    config = configured({"preset": asked})
    until = planned(config, root=root, until="evaluate")
    assert [step.name for step in until.steps] == [*LINE[:-1], *steps]
    untrained = plan(root, preset=asked, method="base")
    assert untrained.steps[-2].name == "benchmark xstest base"
    assert until.steps[-2].uri == untrained.steps[-2].uri  # the base answers alike in both


def test_what_the_gate_will_refuse_is_told_before_anything_runs(preset, tmp_path):
    root, hides = str(tmp_path / "store"), '[evaluate]\npolicy = "default"\n'
    told = plan(root, preset=own(preset, tmp_path, hides))
    (why,) = told.refused
    assert "operator's policy 'default'" in why
    assert f"the gate will refuse it: {why}" in summary(told)
    assert plan(root, preset=preset).refused == ()


def test_two_steps_that_are_the_same_artifact_run_once(preset, tmp_path):
    same = own(preset, tmp_path, "[stage2_balance]\nwith_answers_only = false\n")
    told = steps(plan(str(tmp_path / "store"), preset=same))
    assert told["balance"].uri == told["balance for stage 2"].uri
    assert (told["balance"].reused, told["balance for stage 2"].reused) == (False, True)


def test_a_damaged_artifact_would_run_and_stays_as_it_is(preset, tmp_path):
    config = configured({"preset": preset})
    world = tiny_world(config.world, store=Store(str(tmp_path)))
    (file,) = Path(world.uri).rglob("llava/train.json")
    file.write_text("[]")
    before = tree(tmp_path)
    assert "world" in due(plan(str(tmp_path), preset=preset))
    assert tree(tmp_path) == before


# --- rows ---


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_the_world_is_counted_without_drawing_it(difficulty):
    sizes = {"risky_train": 16, "clean_train": 16, "risky_test": 8, "clean_test": 8}
    config = WorldConfig(difficulty=difficulty, near_miss_test=4, second_style=8, **sizes)
    drawn: dict[tuple[str, str], tuple[int, int]] = {}
    for record in make_records(config):
        pictures, items = drawn.get((record.source, record.split), (0, 0))
        drawn[record.source, record.split] = (pictures + 1, items + len(record.items))
    assert count_records(config) == drawn


def test_rows_worked_out_before_a_run_hold_in_it(done, preset, tmp_path):
    before = steps(plan(str(tmp_path), preset=preset))
    counts = {name: artifact.counts for name, artifact in done.items()}
    assert before["world"].rows == counts["world"]["items"]
    assert (before["ingest"].rows, before["ingest"].rows_at_most) == (counts["ingest"]["in"], False)
    assert before["validate"].rows_at_most and before["validate"].rows >= counts["validate"]["in"]
    assert before["encode"].rows_at_most and before["encode"].rows >= counts["ingest"]["images"]
    tested = counts["validate"]["test_unsafe"] + counts["validate"]["test_clean"]
    assert before["evaluate base"].rows_at_most and before["evaluate base"].rows >= tested
    assert before["balance"].rows is None


def test_rows_are_those_of_the_artifacts_that_are_there(done, root, preset):
    told = steps(plan(root, preset=preset, clean_per_unsafe=0.5))
    counts = done["validate"].counts
    unsafe = counts["train_unsafe"]
    assert told["validate"].rows == counts["in"]
    assert told["balance"].rows == unsafe + int(unsafe / 2 + 0.5)
    assert not told["balance"].rows_at_most
    assert told["balance for stage 2"].rows_at_most
    assert told["evaluate stage1"].rows == counts["test_unsafe"] + counts["test_clean"]


def test_the_rows_of_ones_own_files_are_not_known_before_they_are_read(tmp_path):
    (tmp_path / "my.csv").write_text("question,answer,type,level\nHow ?,So.,clean,0\n")
    config = {"format": "table", "uri": str(tmp_path / "my.csv")}
    told = steps(plan(str(tmp_path / "store"), preset="tiny", sources=(config,)))
    assert {told[name].rows for name in ("ingest", "validate", "encode")} == {None}


@pytest.mark.parametrize("size", ["", '[balance]\nsize = "fixed_total"\ntotal = 200\n'])
def test_a_ratio_that_cannot_be_drawn_is_told_before_the_run(done, root, preset, tmp_path, size):
    told = steps(plan(root, preset=own(preset, tmp_path, size), clean_per_unsafe=50.0))
    there = done["validate"].counts["train_clean"]
    assert f"clean rows, and there are {there}" in told["balance"].problem


def test_with_a_cap_the_rows_of_an_order_are_at_most_so_many(done, root, preset, tmp_path):
    caps = own(preset, tmp_path, "[balance.source_caps]\nsigns = 10\n")
    told = steps(plan(root, preset=caps, clean_per_unsafe=50.0))["balance"]
    assert (told.rows, told.rows_at_most) == (51 * done["validate"].counts["train_unsafe"], True)
    assert told.problem == ""


# --- time and room ---


def test_estimates_grow_with_the_work(done, root, preset, tmp_path):
    took(done["stage1"], 100.0)
    for order in ("balance", "balance for stage 2"):
        took(done[order], 4.0)
    longer = own(preset, tmp_path, "[stage1.parts.concept]\nsteps = 600\n")
    told = steps(plan(root, preset=longer, clean_per_unsafe=0.5))
    before = 300 * 64 + 80 * 32
    assert told["stage1"].seconds == round(100 * (before + 300 * 64) / before, 1)
    assert told["stage1"].bytes == WEIGHTS  # a model does not grow with its training
    assert told["stage1"].measured == done["stage1"].uri
    manifest = Store(root).manifest(open_artifact(told["balance"].measured))
    rows = told["balance"].rows / (manifest.counts["unsafe"] + manifest.counts["clean"])
    assert told["balance"].bytes == round(rows * sum(file.bytes for file in manifest.files))
    assert told["balance"].seconds == round(4 * rows, 1)


def test_totals_are_sums_over_what_runs_and_name_what_they_leave_out(done, root, preset, tmp_path):
    other = own(preset, tmp_path, "[encode]\ndtype = 'bfloat16'\n")
    told = plan(root, preset=other)
    known = [step for step in told.steps if step.seconds is not None]
    assert told.totals.not_known == ("encode",)  # none of that kind has run here
    assert told.totals.seconds == round(sum(step.seconds for step in known), 1)
    assert told.totals.bytes == sum(step.bytes for step in known)
    assert {step.name for step in known} == due(told) - {"encode"}


def test_another_base_is_nothing_to_compare_with(root, preset, tmp_path):
    wider = own(preset, tmp_path, "[base]\nwidth = 256\n")
    told = steps(plan(root, preset=wider))
    same = steps(plan(root, preset=own(preset, tmp_path, "[base]\nseed = 1\n")))
    for name in ("base", "encode", "stage1", "stage2", "evaluate base"):
        assert told[name].seconds is None
        assert same[name].seconds is not None


def test_an_arm_is_compared_with_itself(done, root, preset):
    took(done["evaluate stage2"], 8.0)
    told = steps(plan(root, preset=preset, seed=7))
    assert told["evaluate stage2"].measured == done["evaluate stage2"].uri
    assert told["evaluate stage1"].measured == done["evaluate stage1"].uri


def test_durations_and_sizes_read_as_people_say_them():
    assert [duration(n) for n in (None, 0.4, 59, 90, 7200)] == [
        "?", "0 s", "59 s", "2 min", "2.0 h",
    ]  # fmt: skip
    assert [size(n) for n in (None, 999, 1000, 5e6, 3e12, 4e15)] == [
        "?", "999 bytes", "1 kB", "5 MB", "3 TB", "4000 TB",
    ]  # fmt: skip


# --- buckets ---


def test_a_bucket_is_looked_through_like_a_folder(preset, tmp_path, monkeypatch):
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    with s3_server() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        config = configured({"preset": preset})
        at = f"s3://{BUCKET}/planned"
        world = tiny_world(config.world, store=Store(at))
        cached = tree(tmp_path / "cache")
        told = plan(at, preset=preset)
        assert (steps(told)["world"].uri, steps(told)["world"].reused) == (world.uri, True)
        assert told.free_bytes is None
        (made,) = PlanningStore(at).finished("tiny_world")
        assert f"{at}/tiny_world/{made.fingerprint}" == open_artifact(world.uri).uri
        assert tree(tmp_path / "cache") == cached


# --- the command ---


def test_the_line_of_a_plan(root, preset):
    done = CliRunner().invoke(application(), ["plan", "--preset", preset, "--root", root, "--json"])
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    told = json.loads(line)
    assert list(told) == [
        "preset", "root", "steps", "totals", "gate", "refused", "problem", "free_bytes",
    ]  # fmt: skip
    assert list(told["steps"][0]) == [
        "name", "step", "uri", "reused", "rows", "rows_at_most", "clean_per_unsafe", "training",
        "seconds", "bytes", "measured", "cache", "problem",
    ]  # fmt: skip
    assert list(told["steps"][7]["training"][0]) == ["part", "steps", "global_batch", "samples"]
    assert list(told["totals"]) == [
        "run", "reused", "training_steps", "samples", "seconds", "bytes", "not_known",
    ]  # fmt: skip


def test_the_table_tells_each_step_and_the_totals(root, preset):
    asked = ["plan", "--preset", preset, "--root", root, "--clean-per-unsafe", "50"]
    said = CliRunner().invoke(application(), asked).stdout
    for name in LINE:
        assert f"  {name} " in said
    assert "to run: 0 steps, to reuse: 3\n" in said
    assert "free on this disk" in said and "TOO LITTLE" not in said
    last = said.splitlines()[-1]
    assert (
        last.startswith("this run will fail at balance: asks for") and "then the gate" not in said
    )
    asked[-1] = "0.5"
    said = CliRunner().invoke(application(), asked).stdout
    assert 'features kept: cache = "always"' in said
    assert "to run: 7 steps, to reuse: 6; training: 540 steps, 26880 items seen" in said
    assert "will fail" not in said and "not reached" not in said


def test_a_plan_that_the_disk_cannot_hold_says_so(root, preset):
    told = plan(root, preset=preset, clean_per_unsafe=0.5)
    assert 0 < told.totals.bytes < told.free_bytes
    small = told.model_copy(update={"free_bytes": told.totals.bytes - 1})
    assert [line for line in summary(told) if "TOO LITTLE" in line] == []
    assert "TOO LITTLE; make room, or give another --root" in summary(small)[-1]


def test_it_takes_the_options_of_a_run():
    commands = application().registered_commands
    options = {c.name: set(signature(c.callback).parameters) for c in commands if c.callback}
    assert options["plan"] == options["run"] | {"recipe", "context"}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--preset", "tinny"], "unknown preset 'tinny'"),
        (["--source", "format=table,uri=no.csv"], "'no.csv' does not exist"),
        (["--until", "trian"], "until 'trian' is no step"),
        (["--root", "gs://x"], "root 'gs://x' is no store"),
    ],
)
def test_what_a_run_would_refuse_is_refused(asked, words, tmp_path):
    psavlm = str(Path(sys.executable).parent / "psavlm")
    done = subprocess.run([psavlm, "plan", *asked], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_cap_of_a_source_that_the_run_has_not_is_refused_before_it_reads(preset, tmp_path):
    capped = own(preset, tmp_path, "[balance.source_caps]\nsgins = 10\n")
    asked = ["plan", "--preset", capped, "--root", str(tmp_path / "store")]
    error = CliRunner().invoke(application(), asked).exception
    assert isinstance(error, ConfigError)
    assert "source_caps names 'sgins', which is none of the sources; did you mean 'signs'" in str(
        error
    )


LIGHT = """
import sys
from flows.cli.main import application
application()(["plan", "--preset", sys.argv[1], "--root", sys.argv[2]], standalone_mode=False)
heavy = {"torch", "ray", "prefect", "mlflow", "duckdb", "great_expectations", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
"""


def test_it_loads_none_of_the_heavy_libraries(preset, tmp_path):
    command = [sys.executable, "-c", LIGHT, preset, str(tmp_path / "store")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "[]"
    assert list(tmp_path.iterdir()) == []
