"""Who may import what, what a cached run costs, and that no machine's places are written down."""

import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.line import STEPS, pipeline, plainly, up_to
from infra.store import Store
from schemas.presets import Parameters, resolve

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "torch", "transformers", "peft", "great_expectations", "ray", "duckdb", "s3fs", "mlflow",
    "prefect", "scipy", "matplotlib", "jinja2",
}  # fmt: skip


def test_the_layers_and_the_libraries_contracts_hold():
    # A process of its own: import-linter switches off all loggers of the process it runs in.
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def warm(tmp_path, monkeypatch) -> str:
    """A root where every step of the tiny run is done. What lies in an artifact is not looked at
    when it is reused, so that a note stands for weights which would take minutes to train.
    """

    def note(folder: Path) -> dict[str, int]:
        (folder / "note.txt").write_text("done\n")
        return {"calibration_clean": 1}  # the one count that a later step looks at

    make = Store.artifact
    with monkeypatch.context() as patch:
        patch.setattr(Store, "artifact", lambda *a, **k: make(*a, **{**k, "build": note}))
        root = str(tmp_path / "store")
        made = up_to(pipeline(resolve(Parameters()), store=Store(root), do=plainly), None)
    assert {name.partition("/")[0] for name in made} == set(STEPS) - {"promote"}
    assert not any(artifact.reused for artifact in made.values())
    return root


CACHED = """
import json, sys
from flows.line import pipeline, plainly, up_to
from infra.store import Store
from schemas.presets import Parameters, resolve

steps = pipeline(resolve(Parameters()), store=Store(sys.argv[1]), do=plainly)
reused = {name: artifact.reused for name, artifact in up_to(steps, None).items()}
print(json.dumps([reused, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def test_a_fully_cached_run_imports_none_of_the_heavy_libraries(warm):
    done = subprocess.run(
        [sys.executable, "-c", CACHED, warm], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reused, modules = json.loads(done.stdout)
    assert set(reused.values()) == {True} and len(reused) == len(STEPS) - 1 + 2
    assert not HEAVY & set(modules)
    assert {"flows", "tasks", "infra", "schemas", "pyarrow"} <= set(modules)
    assert "model" not in modules


# --- no machine's places ---


def texts() -> dict[str, str]:
    """Every text file that a clone would hold, by its path."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    found = {}
    for file in files:
        if file.is_file() and b"\0" not in (data := file.read_bytes()):
            found[file.relative_to(ROOT).as_posix()] = data.decode()
    return found


def index_hosts() -> set[str]:
    """Hosts and folders that this machine's pip and uv are told to install from."""
    names = ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "DEFAULT_INDEX", "INDEX")
    values = [os.environ.get(f"{tool}_{name}", "") for tool in ("PIP", "UV") for name in names]
    parser = ConfigParser(interpolation=None)
    parser.read(
        ["/etc/pip.conf", Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"]
    )
    for section in parser.sections():
        options = dict(parser.items(section))
        values += [options.get(n, "") for n in ("index-url", "extra-index-url", "find-links")]
    words = {word for value in values for word in value.split()}
    return {urlsplit(word).hostname or urlsplit(word).path for word in words}


# Home folders of Linux and macOS, and addresses that packages are fetched from.
HOME = re.compile(r"(?<![\w}.])/(?:home|Users)/\w|(?<![\w}./])/root/\w")
REGISTRY = re.compile(
    r"https?://[\w.:@-]*(?:pypi|pythonhosted|artifactory|nexus|devpi|mirror)", re.I
)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("see /" + "home/ann/data", HOME),
        ("open('/" + "Users/ann')", HOME),
        ("cd /" + "root/work", HOME),
        ("https://" + "pypi.example/simple", REGISTRY),
    ],
)
def test_the_patterns_find_what_they_are_for(text, pattern):
    assert pattern.search(text)


def test_no_file_names_a_home_folder_a_registry_or_this_checkout():
    files = texts()
    assert {"pyproject.toml", "Makefile", "README.md", "tests/test_layers.py"} <= files.keys()
    here = {str(ROOT), *index_hosts()} - {""}
    if Path.home() != Path("/root"):  # too short a word to look for: `s3://bucket/root`
        here.add(str(Path.home()))
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in files.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if HOME.search(line) or REGISTRY.search(line) or any(place in line for place in here)
    ]
    assert found == []
