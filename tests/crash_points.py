"""Every point at which a process may die: it dies there, and the same command is run again.

    python -m tests.crash_points FOLDER artifact library=20 [--bucket s3://...] [--orders rerun gc]

prints a line of JSON; `library=20` tries twenty points, `library=20-40` these. Processes are forked
from this one, which has read the libraries and has no threads. Either the same command is run again
at once and `psavlm gc` comes after it, or before.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from infra.provenance import provenance
from tests import crash_data, crash_gate
from tests.crash_scenario import ORDERS, Scenario
from tests.crash_sight import Sight, difference
from tests.mortal import arm

SCENARIOS = {**crash_data.SCENARIOS, **crash_gate.SCENARIOS}
TWO_DAYS_S = 2 * 86400
# They take seconds: read before the first process is forked.
LIBRARIES = ("mlflow", "alembic", "mlflow.store.tracking.sqlalchemy_store")


class Died(Exception):
    """A process that should have lived ended."""


class Trials:
    """The trials of one scenario in a working folder; a root in a bucket is emptied for each."""

    def __init__(self, name: str, work: Path, *, root: str = "") -> None:
        self.scenario: Scenario = SCENARIOS[name]
        self.work = work.resolve()
        self.here, self.first = self.work / "here", self.work / "first"
        self.root = root or str(self.here / "store")
        self.also = (*self.scenario.also, *(["bucket"] if root else []))
        self.sight = Sight(self.scenario, self.root, self.here / "cache")
        for name in LIBRARIES if "registry" in self.also else ():
            importlib.import_module(name)
        provenance()  # asks git and others, once
        self.here.mkdir(parents=True)
        self.lived(lambda: self.scenario.start(self.root))
        _age(self.here)
        shutil.copytree(self.here, self.first)

    def undisturbed(self) -> list[str]:
        """Run to the end; returns the acts. What is there then is what must always be there."""
        self.afresh()
        assert self.run() == 0, self.said()
        acts = (self.work / "acts").read_text().splitlines()
        self.lived(self.sight.clear)
        self.expected = self.lived(self.sight.found)
        self.afresh()
        for name in self.lived(self.modules):
            with contextlib.suppress(ImportError):  # made by hand, or by a package's own ways
                importlib.import_module(name)
        return acts

    def modules(self) -> list[str]:
        """Run, look and clear; what had to be imported for it, and need not be in every process."""
        known = set(sys.modules)
        self.scenario.run(self.root)
        self.sight.found()
        self.sight.sound(missing=True)
        self.sight.garbage(delete=True)
        return sorted(sys.modules.keys() - known)

    def afresh(self) -> None:
        """Go back to the start."""
        shutil.rmtree(self.here)
        shutil.copytree(self.first, self.here)
        if "bucket" in self.also:
            self.lived(self.sight.emptied)
            self.lived(lambda: self.scenario.start(self.root))

    def run(self, *, at: int = 0) -> int:
        """The scenario in a process of its own that dies at an act; returns its wait status."""

        def mortal() -> None:
            arm([self.here], at=at, log=self.work / "acts", also=self.also)
            self.rerun()

        return self._child(mortal)

    def rerun(self) -> None:
        """The scenario in this process."""
        self.scenario.run(self.root)

    def trial(self, at: int, order: str) -> dict[str, Any]:
        """Let it die, look, and let it be run again."""
        self.afresh()
        told: dict[str, Any] = {"at": at, "order": order, "faults": []}
        status = self.run(at=at)
        if status != signal.SIGKILL:
            return {**told, "survived": True, "faults": [] if status == 0 else [self.said()]}
        told["act"] = (self.work / "acts").read_text().splitlines()[-1]
        try:
            told |= self._aftermath(order)
        except Died as error:
            told["faults"] = [str(error)]
        return told

    def _aftermath(self, order: str) -> dict[str, Any]:
        _age(self.here)
        faults, garbage = self.lived(self.sight.look)
        if order == "gc":
            self.lived(self.sight.clear)
            rest = Counter(map(tuple, self.lived(self.sight.tree)))
            strange = rest - Counter(map(tuple, self.expected["tree"]))
            if self.scenario.whole and strange:
                faults.append(f"after gc there is {sorted(strange)[:5]}")
        began = time.monotonic()
        if not self.lived(lambda: self.scenario.finished(self.root)):
            self.lived(self.rerun)
        seconds = time.monotonic() - began
        _age(self.here)
        faults += self.lived(lambda: self.sight.sound(missing=True))
        if order == "rerun":
            self.lived(self.sight.clear)
        found = self.lived(self.sight.found)
        if found != self.expected:
            faults.append(difference(found, self.expected))
        return {"faults": faults, "garbage": garbage, "seconds": seconds}

    def lived(self, task: Callable[[], Any]) -> Any:
        """What a task tells, in a process of its own."""
        if self._child(task) != 0:
            raise Died(self.said())
        return json.loads((self.work / "told").read_text())

    def said(self) -> str:
        """The end of what the last process has printed."""
        return (self.work / "said").read_text()[-2000:]

    def _child(self, task: Callable[[], Any]) -> int:
        assert threading.active_count() == 1, "a process with threads cannot be forked"
        if child := os.fork():
            return os.waitpid(child, 0)[1]
        code = 1
        try:
            said = os.open(self.work / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            os.chdir(self.here)
            os.environ["PSAVLM_CACHE"] = str(self.here / "cache")
            os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{self.here}/mlflow.db"
            told = task()
            (self.work / "told").write_text(json.dumps(told))
            code = 0
        except Exception:  # noqa: BLE001 - of whatever kind, it is told by the parent
            traceback.print_exc()
        finally:
            os._exit(code)


def _age(folder: Path) -> None:
    """Let all below a folder be two days old: what a write leaves is garbage after an hour."""
    then = time.time() - TWO_DAYS_S
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then), follow_symlinks=False)


def tried(trials: Trials, *, some: str, orders: Sequence[str]) -> dict[str, Any]:
    """Try all points, or some; in these orders, or in one each."""
    acts = trials.undisturbed()
    points = _chosen(some, range(1, len(acts) + 1))
    here = [order for order in trials.scenario.orders if order in (orders or ORDERS)]
    ways = [(at, order) for at in points for order in (here if orders else [here[at % len(here)]])]
    results = [trials.trial(at, order) for at, order in ways]
    ran = [one for one in results if "seconds" in one]
    return {
        "acts": len(acts),
        "trials": len(results),
        "survived": sum("survived" in one for one in results),
        "slowest": round(max((one["seconds"] for one in ran), default=0.0), 2),
        "garbage": Counter(kind for one in ran for kind in one["garbage"]),
        "faults": [one for one in results if one["faults"]],
    }


def _chosen(some: str, points: Sequence[int]) -> Sequence[int]:
    """All points, as many as a number says, or those from one to another."""
    first, to, last = some.partition("-")
    if to:
        return points[int(first) - 1 : int(last)]
    return sorted(random.Random(0).sample(points, min(int(some), len(points)))) if some else points


def main() -> None:
    """Try the scenarios that are named."""
    words = argparse.ArgumentParser()
    words.add_argument("folder", type=Path)
    words.add_argument("scenarios", nargs="+", metavar="NAME[=POINTS|=FIRST-LAST]")
    words.add_argument("--bucket", default="", help="s3://bucket/prefix of the roots")
    words.add_argument("--orders", nargs="*", choices=ORDERS, default=())
    given = words.parse_args()
    told = {}
    for text in given.scenarios:
        name, _, some = text.partition("=")
        root = f"{given.bucket}/{name}" if given.bucket else ""
        trials = Trials(name, given.folder / name, root=root)
        told[name] = tried(trials, some=some, orders=given.orders)
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
