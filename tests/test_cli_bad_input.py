"""Bad input on the command line: one clear message, exit code 2, and nothing left behind."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from prefect.exceptions import ParameterTypeError

from flows.cli.main import main
from flows.cli.settings import prefect_api
from infra.store import Store
from schemas.errors import ConfigError

PSAVLM = str(Path(sys.executable).parent / "psavlm")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; the default root lies in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    # Whatever starts Prefect makes this folder: so "nothing on disk" also says "before Prefect".
    monkeypatch.setenv("PREFECT_HOME", str(folder / ".psavlm/prefect"))
    monkeypatch.setenv("COLUMNS", "400")  # typer's box must not cut words
    return folder


@pytest.fixture
def psavlm(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """The command in this process, as the installed script calls it."""

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["psavlm", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Said(end.value.code or 0, *capsys.readouterr())

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with good and bad sources, and presets of one's own."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "header.csv").write_text("question,type,image,level\n")
    (folder / "blank.jsonl").write_bytes(b"")
    (folder / "none.json").write_text("[]")
    rows(folder / "clean.jsonl", [{}] * 4)
    rows(folder / "label.jsonl", [{}, {"type": "sunny"}])
    rows(folder / "level.jsonl", [{"type": "privacy", "level": 9}])
    rows(folder / "pathless.jsonl", [{"image": "1.png"}])
    (folder / "key.toml").write_text('extends = "tiny"\n[balance]\nclean_per_unsave = 2\n')
    (folder / "method.toml").write_text('extends = "tiny"\n[method]\nlora_rnk = 2\n')
    (folder / "table.toml").write_text('extends = "tiny"\n[ballance]\nepochs = 2\n')
    (folder / "value.toml").write_text('extends = "tiny"\n[stage1.parts.concept]\nlr = 0\n')
    (folder / "shape.toml").write_text('extends = "tiny"\nbalance = 3\n')
    (folder / "broken.toml").write_text("balance = [\n")
    (folder / "bytes.toml").write_bytes(b"\xff\xfe")
    (folder / "loop.toml").write_text('extends = "loop.toml"\n')
    (folder / "renamed.toml").write_text('preset = "tiny"\n')
    (folder / "number.toml").write_text("extends = 3\n")
    return folder


def rows(path: Path, changes: list[dict]) -> str:
    """JSON Lines of clean rows with changes; returns the source as one types it."""
    full = [{"question": f"q{i}", "type": "clean", **own} for i, own in enumerate(changes)]
    path.write_text("".join(json.dumps(row) + "\n" for row in full))
    return f"format=table,uri={path}"


def refused(said: Said, here: Path, *words: str) -> None:
    """One line on stderr with these words, exit code 2, nothing on disk."""
    assert said.code == 2, said.err
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith(("ConfigError: ", "DataError: ", "StorageError: "))
    for word in words:
        assert word in said.err
    assert list(here.rglob("*")) == []


# --- parameters ---


@pytest.mark.parametrize("command", ["run", "ingest"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--preset", "tinny"],
            "unknown preset 'tinny'; did you mean 'tiny'? give one of llava-1.5-7b-24gb,",
        ),
        (["--preset", ""], "or the path of a .toml file"),
        (["--preset", "../taxonomy"], "unknown preset '../taxonomy'"),
        (["--preset", "no.toml"], "'no.toml' cannot be read: No such file or directory"),
        (["--clean-per-unsafe", "-1"], "clean_per_unsafe = -1.0: must be greater than or equal"),
        (["--clean-per-unsafe", "nan"], "clean_per_unsafe = nan: must be a finite number"),
        (["--clean-per-unsafe", "inf"], "clean_per_unsafe = inf: must be a finite number"),
        (["--clean-per-unsafe=-inf"], "clean_per_unsafe = -inf: must be a finite number"),
        (["--clean-per-unsafe", "2000000"], "clean_per_unsafe = 2000000.0: must be less than or"),
        (["--cluster", "foo"], "cluster 'foo' is no address of a Ray cluster: give one such as"),
        (["--stage2-clean-per-unsafe", "-1"], "stage2_clean_per_unsafe = -1.0: must be"),
        (["--seed", "-1"], "seed = -1: must be greater than or equal to 0"),
        (["--root", ""], "give a folder or s3://bucket/prefix"),
        (["--root", "http://127.0.0.1/x"], "root 'http://127.0.0.1/x' is no store"),
        (["--root", "s3://key:secret@bucket/x"], "must not hold credentials"),
        (["--base", "nowhere"], "base 'nowhere' is neither a folder nor a hub model"),
    ],
)
def test_a_value_that_no_run_can_have_is_refused(psavlm, here, command, arguments, words):
    refused(psavlm(command, *arguments), here, words)


@pytest.mark.parametrize("command", ["plan", "ablate", "sweep", "promote"])
def test_other_commands_check_the_cluster_before_any_work(psavlm, here, command):
    refused(psavlm(command, "--cluster", "foo"), here, "cluster 'foo' is no address")


def test_what_only_the_flow_refuses_is_one_message(monkeypatch, here):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    refusal = ParameterTypeError("Flow run received invalid parameters:\n - old: too short")
    told = "invalid parameters: - old: too short; see --help"
    with pytest.raises(ConfigError, match=told), prefect_api():
        raise refusal


def test_two_wrong_values_are_told_together(psavlm, here):
    said = psavlm("ingest", "--seed", "-1", "--clean-per-unsafe", "nan")
    refused(said, here, "clean_per_unsafe = nan", "seed = -1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--clean-per-unsafe", "much"], "Invalid value for '--clean-per-unsafe'"),
        (["run", "--seed", "1.5"], "Invalid value for '--seed'"),
        (["run", "--clean-per-unsave", "1"], "Possible options: --clean-per-unsafe"),
        (["ingest", "--prest", "tiny"], "Possible options: --preset"),
        (["run", "tiny"], "unexpected extra argument"),
        (["rum"], "No such command 'rum'. Did you mean 'run'?"),
        (["stage3"], "No such command 'stage3'. Did you mean 'stage2', 'stage1'?"),
        (["answer", "what ?", "--artifact", "x"], "Missing option '--image'"),
    ],
)
def test_a_misspelt_option_or_command_is_met_with_the_right_one(psavlm, here, arguments, words):
    said = psavlm(*arguments)
    assert said.code == 2
    assert words in said.err
    assert "--help" in said.err
    assert said.out == ""
    assert list(here.rglob("*")) == []


def test_an_unknown_last_step_is_refused_with_all_that_there_are(psavlm, here):
    refused(psavlm("run", "--until", "stge1"), here, "until 'stge1' is no step; steps: world, inge")


@pytest.mark.parametrize("arguments", [["run", "--until", "world"], ["world"]])
def test_a_step_that_the_run_lacks_is_refused_and_not_run_past(psavlm, here, data, arguments):
    said = psavlm(*arguments, "--source", f"format=table,uri={data / 'clean.jsonl'}")
    refused(said, here, "no step 'world' in this run", "begin with 'ingest'")


# --- presets of one's own ---


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("key", "unknown key 'balance.clean_per_unsave'; did you mean 'clean_per_unsafe'?"),
        ("method", "unknown key 'stage1.method.lora_rnk'; did you mean 'lora_rank'?"),
        ("table", "unknown key 'ballance'; did you mean 'balance'?"),
        ("value", "stage1.parts.concept.lr = 0: must be greater than 0"),
        ("shape", "balance = 3: a table [balance] was expected"),
        ("broken", "is not valid TOML"),
        ("bytes", "is no UTF-8 text"),
        ("loop", "extends itself"),
        ("renamed", "unknown key 'preset'; to build on another one write extends = 'tiny'"),
        ("number", "extends = 3: one name or path was expected"),
    ],
)
def test_a_fault_in_a_preset_is_told_once_with_file_and_place(psavlm, here, data, name, words):
    said = psavlm("run", "--preset", data / f"{name}.toml")
    refused(said, here, f"{name}.toml", words)
    assert said.err.count("unknown key") <= 1


# --- sources ---


@pytest.mark.parametrize("command", ["run", "ingest"])
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("format=table,uri={}/no.csv", "no.csv' does not exist; correct uri="),
        ("format=table,uri={}/*.parquet", "*.parquet' does not exist; correct uri="),
        ("format=table,uri={}/clean.jsonl,images={}/no", "/no' does not exist; correct images="),
        ("format=table,uri={}/clean.jsonl,imags=x", "key 'imags'; did you mean 'images'?"),
        ("format=table,uri={}/clean.jsonl,columns.qestion=q", "did you mean 'question'?"),
        ("format=tabel,uri={}/clean.jsonl", "unknown format 'tabel'; did you mean 'table'?"),
        ("format=table", "'uri' is missing; write it like format=table,uri="),
        ("mine.csv", "'mine.csv' is not key=value; write it like format=table,uri="),
        ("", "is not key=value; write it like format=table,uri="),
        ("format=table,uri={}/clean.jsonl,limit=0", "limit = '0': must be greater than"),
        ("format=table,uri={}/clean.jsonl,split=dev", "split = 'dev': must be 'train',"),
        ("format=table,uri={}/clean.jsonl,labels=vlgard", "did you mean 'vlguard'?"),
        ("format=table,uri=http://127.0.0.1/x.csv", "only local paths and s3:// are read"),
    ],
)
def test_a_wrong_source_is_told_before_any_work(psavlm, here, data, command, source, words):
    refused(psavlm(command, "--source", source.format(data, data)), here, words)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("format=table,uri={}/header.csv", "empty source 'table-header'"),
        ("format=table,uri={}/blank.jsonl", "empty source 'table-blank'"),
        ("format=llava,uri={}/none.json", "empty source 'llava-none'"),
        ("format=vlguard,uri={}/none.json,images={}/images", "empty source 'vlguard-none'"),
        ("format=table,uri={}/label.jsonl", "label.jsonl:2: unknown label 'sunny'; known to"),
        ("format=table,uri={}/level.jsonl", "level.jsonl:1: unknown risk level '9'; known: 0, 1,"),
        ("format=table,uri={}/pathless.jsonl", "add images=<folder> to the source"),
        ("format=table,uri={}/key.toml", "key.toml': a table ends in .csv, .jsonl, .parquet"),
        ("format=webdataset,uri={}/clean.jsonl", "clean.jsonl' is not a whole tar"),
        ("format=llava,uri={}/clean.jsonl", "for JSON Lines use format=table"),
        ("format=table,uri={}", "Is a directory"),
    ],
)
def test_a_source_that_cannot_be_read_leaves_nothing(psavlm, here, data, source, words):
    refused(psavlm("ingest", "--source", source.format(data, data)), here, words)


def test_an_empty_source_is_told_with_the_remedy(psavlm, here, data):
    said = psavlm("ingest", "--source", f"format=table,uri={data / 'header.csv'}")
    refused(said, here, "no item accepted, 0 rejected. Fill the file, or leave the source out")


def test_only_clean_rows_fail_at_balance_and_the_good_steps_stay(psavlm, here, data):
    said = psavlm("balance", "--source", f"format=table,uri={data / 'clean.jsonl'}")
    assert said.code == 2
    last = said.err.splitlines()[-1]
    assert last.startswith("DataError: no unsafe row in the training split")
    assert "add a source with labelled risks" in last
    assert "Traceback" not in said.err
    # What ingest and validate made is sound, and a corrected run reuses what it can.
    assert sorted(p.name for p in (here / ".psavlm/store").iterdir()) == ["ingest", "validate"]


def pictured(data: Path, count: int, *, bad: int) -> str:
    """A table of images, of which the first `bad` hold no image."""
    for i in range(count):
        path = data / "images" / f"{i}.png"
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path)
        if i < bad:
            path.write_bytes(path.read_bytes()[:40])
    source = rows(data / "seen.jsonl", [{"image": f"{i}.png"} for i in range(count)])
    return f"{source},images={data / 'images'}"


def test_a_corrupt_image_is_a_rejected_row_below_the_limit(psavlm, here, data):
    source = pictured(data, 30, bad=1)
    said = psavlm("validate", "--source", source, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["counts"]["accepted"] == 29
    samples = json.loads(psavlm("ingest", "--source", source, "--json").out)
    assert samples["reused"]
    assert {**samples["counts"], "new_bytes": 0} == {
        "in": 30, "accepted": 29, "rejected": 1, "images": 29, "decoded": 29, "new_bytes": 0,
    }  # fmt: skip


def test_too_many_corrupt_images_stop_the_run_with_count_and_place(psavlm, here, data):
    said = psavlm("validate", "--source", pictured(data, 10, bad=3))
    assert said.code == 2
    last = said.err.splitlines()[-1]
    assert last.startswith("DataError: source 'table-seen': 3 of 10 rows are bad, 30.0%, limit 5.0")
    for words in ("{'image_unreadable': 3}", "seen.jsonl:1 ", "rejects/ in "):
        assert words in last
    assert not (here / ".psavlm/store/validate").exists()


# --- roots ---


def test_a_root_below_a_file_is_refused(psavlm, here, data):
    for root in (data / "clean.jsonl", data / "clean.jsonl/store"):
        said = psavlm("run", "--root", root)
        refused(said, here, "StorageError", str(root), "give another root, or make it writable")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
def test_a_root_that_cannot_be_made_is_refused(psavlm, here):
    refused(psavlm("run", "--root", "/proc/x"), here, "/proc/x", "give another root")


def test_an_endpoint_that_refuses_is_told_within_seconds(psavlm, here, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and never listening: connections are refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "not-a-key")
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        began = time.monotonic()
        said = psavlm("run", "--root", "s3://bucket/prefix")
        assert time.monotonic() - began < 15
    refused(said, here, "s3://bucket/prefix", "is AWS_ENDPOINT_URL right?", address)
    assert "not-a-key" not in said.err


# --- answer ---


def made(root: Path, step: str) -> str:
    """The address of a small sound artifact of a step."""

    def build(folder: Path) -> dict[str, int]:
        (folder / "card.json").write_text("{}")
        return {}

    return Store(str(root)).artifact(step, 1, config={}, build=build).uri


def asked(psavlm: Callable[..., Said], artifact: str, image: Path) -> Said:
    return psavlm("answer", "what ?", "--artifact", artifact, "--image", image)


def test_an_address_that_is_no_trained_artifact_is_refused(psavlm, here, tmp_path):
    nowhere = f"{tmp_path}/store/stage1/{'a' * 24}"
    for artifact, words in (
        ("stage1", "'stage1' is no artifact: give the address root/step/fingerprint"),
        (f"{nowhere}/attempts/{'b' * 32}/model", "is no artifact ('model' is no fingerprint"),
        (nowhere, f"no sound artifact at {nowhere}; check the address, or run its step"),
        (made(tmp_path / "store", "ingest"), "an artifact of step 'ingest'; give one of stage1 or"),
    ):
        refused(asked(psavlm, artifact, tmp_path / "x.png"), here, words)


@pytest.mark.parametrize("command", ["answer", "explain"])
def test_a_question_without_a_word_is_refused(psavlm, here, tmp_path, command):
    artifact = f"{tmp_path}/store/stage1/{'a' * 24}"
    said = psavlm(command, " ", "--artifact", artifact, "--image", tmp_path / "x.png")
    refused(said, here, "the question ' ' is empty")


def test_a_damaged_artifact_is_refused_with_the_file_that_is(psavlm, here, tmp_path):
    artifact = made(tmp_path / "store", "stage1")
    (card,) = (tmp_path / "store").rglob("card.json")
    card.write_text("{ }")
    said = asked(psavlm, artifact, tmp_path / "x.png")
    refused(said, here, f"no sound artifact at {artifact}", "card.json has 3 bytes instead of 2")


def test_a_file_that_is_no_image_is_refused(psavlm, here, tmp_path):
    artifact = made(tmp_path / "store", "stage1")
    Image.new("RGB", (64, 64)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    (tmp_path / "words.png").write_text("these are words")
    for image in (tmp_path / "no.png", tmp_path, tmp_path / "cut.png", tmp_path / "words.png"):
        refused(asked(psavlm, artifact, image), here, f"'{image}' is not a readable image")


# --- how it is told ---


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["run", "--preset", "tinny"], "ConfigError", "unknown preset 'tinny'"),
        (["ingest", "--source", "format=table,uri=no.csv"], "DataError", "'no.csv' does not exist"),
        (["stage2", "--root", "/dev/null/x"], "StorageError", "/dev/null/x"),
        (["run", "--clean-per-unsafe", "much"], "ConfigError", "'--clean-per-unsafe'"),
        (["run", "--clean-per-unsave", "1"], "ConfigError", "--clean-per-unsafe"),
        (["rum"], "ConfigError", "Did you mean 'run'?"),
    ],
)
def test_with_json_an_error_is_one_line_of_json(psavlm, here, arguments, error, words):
    said = psavlm(*arguments, "--json")
    assert (said.code, said.err) == (2, "")
    (line,) = said.out.splitlines()
    told = json.loads(line)
    assert set(told) == {"error", "message"}
    assert told["error"] == error
    assert words in told["message"]
    assert list(here.rglob("*")) == []


def test_a_traceback_comes_only_when_asked_for(psavlm, monkeypatch):
    monkeypatch.setenv("PSAVLM_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["psavlm", "run", "--preset", "tinny"])
    with pytest.raises(ConfigError, match="unknown preset 'tinny'"):
        main()


def test_the_installed_command_has_the_same_exit_code_and_message(tmp_path):
    done = subprocess.run(
        [PSAVLM, "run", "--preset", "tinny"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ConfigError: unknown preset 'tinny'")
    assert (len(done.stderr.splitlines()), done.stdout) == (1, "")
    assert list(tmp_path.rglob("*")) == []
