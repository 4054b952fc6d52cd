"""A place to type a document's commands in: an empty folder, a shell, a repository to clone."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from flows.parameters import configured
from flows.plan import planned
from infra.port import spare_port
from schemas.mapping import load_mapping
from tests.documents import HOME, Command
from tests.shelf import LIBRARIES

# What the tests set for themselves, and no reader has.
OURS = ("PREFECT_", "PSAVLM_", "RAY_", "MLFLOW_", "OMP_")
INSTALLED = ".installed"  # the stamp of `make install`


class Desk:
    """A shell in which commands are typed one after another.

    Its folder and its exported settings last from one command to the next. A clone that is entered
    gets what its reader has by then: an environment, the artifacts of `store` that the tiny run
    would reuse, a table and images of one's own, and in `.env` ports that nobody else has.
    """

    def __init__(self, folder: Path, store: str) -> None:
        self.store = store
        self.here = folder
        self.origin = snapshot(folder / "origin")
        self.state = folder / "state.sh"
        self.state.write_text("")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}

    def type(self, command: Command, *, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command; its output as text. What it leaves running must not hold the output."""
        script = f"""
            . '{self.state}'
            {self.filled(command.text)}
            code=$?
            declare -px > '{self.state}'
            pwd > '{self.state}.pwd'
            exit $code
        """
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.here,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        self.here = Path(Path(f"{self.state}.pwd").read_text().strip())
        if (self.here / "pyproject.toml").exists() and not (self.here / "my.csv").exists():
            self._furnish()
        return done

    def filled(self, text: str) -> str:
        """The command with a value for each placeholder; ValueError for an unknown one."""
        text = text.replace("<this repository>", shlex.quote(str(self.origin)))
        text = re.sub(r"([\w./-]+)/<fingerprint>", self._newest, text)
        if "<run-id>" in text:
            text = text.replace("<run-id>", self._last_run())
        if unknown := re.search(r"<[a-z][^<>|&]*>", text):
            raise ValueError(f"no value for {unknown[0]} in {text!r}")
        return text

    def _newest(self, match: re.Match[str]) -> str:
        made = sorted(self.here.glob(f"{match[1]}/*/manifest.json"), key=os.path.getmtime)
        if not made:
            raise ValueError(f"no artifact in {match[1]}")
        return str(made[-1].parent.relative_to(self.here))

    def _last_run(self) -> str:
        listing = [".venv/bin/prefect", "flow-run", "ls", "--limit", "1", "-o", "json"]
        told = subprocess.run(
            listing, cwd=self.here, env=self.environment, capture_output=True, check=True
        )
        (run,) = json.loads(told.stdout)
        return str(run["id"])

    def _furnish(self) -> None:
        environment = self.here / ".venv"
        environment.mkdir()
        for part in Path(sys.prefix).iterdir():
            if part.name != INSTALLED:
                (environment / part.name).symlink_to(part)
        # Newer than the clone: `make` must not install the clone into the environment of the tests.
        (environment / INSTALLED).touch()
        for name in LIBRARIES:
            shutil.copytree(f"{self.store}/{name}", self.here / ".psavlm/store" / name,
                            copy_function=_link, dirs_exist_ok=True)  # fmt: skip
        for step in planned(configured({"preset": "tiny"}), root=self.store).steps:
            target = self.here / ".psavlm/store" / Path(step.uri).relative_to(self.store)
            if step.reused and not target.exists():
                shutil.copytree(step.uri, target, copy_function=_link)
        (self.here / ".env").write_text(own_ports())
        own_files(self.here)


def own_ports() -> str:
    """A `.env` of free ports, so that nobody else's servers are in the way."""
    names = ("PSAVLM_MLFLOW_PORT", "PSAVLM_RAY_PORT", "PSAVLM_RAY_DASHBOARD_PORT")
    ports = [f"{name}={spare_port()}" for name in names]
    return "\n".join([*ports, f"PREFECT_API_URL=http://127.0.0.1:{spare_port()}/api\n"])


def snapshot(folder: Path) -> Path:
    """A repository of the working tree as it is, to be cloned."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=HOME, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (HOME / name).exists():  # a removed file is still listed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(HOME / name, folder / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "as it is"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    return folder


def own_files(folder: Path) -> None:
    """`my.csv` and `my/images`, of which the README speaks: the tiny world's signs as a table."""
    (world,) = folder.glob(".psavlm/store/tiny_world/*/attempts/*/vlguard/train.json")
    shutil.copytree(world.parent / "images", folder / "my" / "images", copy_function=_link)
    labels = load_mapping("tiny").labels
    with (folder / "my.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "question", "answer", "type", "level"])
        records = json.loads(world.read_text())
        risky = [record for record in records if not record["safe"]]
        # Half of the risky ones, so that there are as many clean rows as the ratio asks for.
        for record in [r for r in records if r["safe"]] + risky[::2]:
            label = labels["safe" if record["safe"] else record["harmful_subcategory"]]
            for pair in record["instr-resp"]:
                question = next(text for key, text in pair.items() if key.endswith("instruction"))
                table.writerow(
                    [record["image"], question, pair["response"], label.type, label.level]
                )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)
