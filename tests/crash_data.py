"""Interrupted: artifacts, libraries, the data steps, the removal of garbage."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra import identity
from infra.clearing import clearance
from infra.decisions import add_decision, deciding, read_decisions
from infra.files import Files
from infra.fingerprint import content_hash
from infra.holder import Lease
from infra.library import Library
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import BalanceConfig, IngestConfig, SourceConfig, ValidateConfig
from schemas.decision import Decision, ModelRef
from tasks.balance import balance
from tasks.ingest import ingest
from tasks.references import REFERENCES
from tasks.validate import validate
from tests.crash_scenario import Scenario
from tests.squares import COLOURS, squares

INPUTS = Path("../inputs")
OWNER = "a" * 32


def _write(folder: Path, *, deadly: bool = False) -> dict[str, int]:
    """Files as steps write them: by Arrow, numpy and Python, in folders, renamed."""
    (folder / "rows").mkdir()
    pq.write_table(pa.table({"a": [1, 2, 3]}), folder / "rows" / "part.parquet")
    (folder / "text.json").write_text('{"a": 1}')
    np.save(folder / "dense.npy", np.zeros((4, 4), np.float32))
    (folder / "half").write_bytes(b"12345678")
    if deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "half").rename(folder / "whole")
    return {"in": 3}


def artifact(root: str) -> None:
    """One artifact and a child of it, both reused and read."""
    store = Store(root)
    for _ in range(2):
        first = store.artifact("first", 1, config={}, build=_write)
        second = store.artifact("second", 1, config={}, parents={"first": first}, build=_write)
        assert (store.local(second) / "whole").read_bytes() == b"12345678"


def builder_killed(root: str) -> None:
    """What a builder of the first artifact leaves that died in mid-work."""
    if (child := os.fork()) == 0:
        build = partial(_write, deadly=True)
        Store(root).artifact("first", 1, config={}, build=build)
    os.waitpid(child, 0)


def damaged(root: str) -> None:
    """Both artifacts, the first with a changed file."""
    artifact(root)
    files = Files.at(root)
    (path,) = [p for p in files.found() if p.startswith("first/") and p.endswith("/whole")]
    files.put(path, b"87654321", fresh=False)


def library(root: str) -> None:
    """Two shards; what lies in both is kept once for each."""
    ids = sorted(content_hash(number) for number in range(6))
    for some in (ids[:4], ids[3:]):
        things = Library(Store(root), "things", 1, key="a")
        if things.missing(some):
            things.add(pa.table({"id": some}), lambda folder: (folder / "x").write_bytes(b"things"))
    assert Library(Store(root), "things", 1, key="a").missing(ids) == []


def decisions(root: str) -> None:
    """Two decisions, each once."""
    model = ModelRef(step="stage2", fingerprint="a", uri="a")
    with deciding(root):
        for number in range(len(read_decisions(root)) + 1, 3):
            refused = Decision(number=number, time="", action="refused", candidate=model,
                               reference=model, opponent="base")  # fmt: skip
            assert add_decision(root, refused)


def source() -> SourceConfig:
    """Twelve rows and one without its image; nine images, 64 x 64."""
    if not INPUTS.exists():
        (INPUTS / "images").mkdir(parents=True)
        rows = []
        for number in range(12):
            image = squares(number % 9, colour=COLOURS[number % 3], count=2)
            image.save(INPUTS / "images" / f"{number}.png")
            kind = {"type": "clean"} if number % 3 else {"type": "privacy", "level": 2}
            question, answer = f"what is {number} ?", "Sorry, no." if number % 3 else "two squares"
            rows.append({"image": f"{number}.png", "question": question, "answer": answer, **kind})
        rows.append({**rows[1], "image": "not-there.png"})
        (INPUTS / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    place = INPUTS.resolve()
    return SourceConfig(
        format="table", uri=str(place / "rows.jsonl"), images=str(place / "images"), name="t"
    )


def ingested(root: str) -> Artifact:
    """The samples; their folder of images is known by size and time, so that notes are kept."""
    identity.HASH_UP_TO = 0
    return ingest(IngestConfig(sources=(source(),), test=0, calibration=0.2), store=Store(root))


def snapshot(root: str) -> None:
    """Ingest, validate, balance."""
    config = ValidateConfig(max_reject_rate=0.5)
    labelled = validate(config, ingested(root), store=Store(root))
    balance(BalanceConfig(), labelled, store=Store(root))


def littered(root: str) -> None:
    """What is needed, and beside it garbage of every kind."""
    builder_killed(root)
    store, files = Store(root), Files.at(root)
    kept = store.artifact("kept", 1, config={}, build=_write)
    home = f"kept/{kept.fingerprint}"
    for path in (f"{home}/attempts/{OWNER}/x", f"runs/kept-{kept.fingerprint}/1/x"):
        files.put(path, b"something", fresh=True)
    files.put(f"{home}/lease.json", _dead_lease(OWNER), fresh=True)
    files.put(f"{home}/lease-{OWNER}.json", _dead_lease("b" * 32), fresh=True)
    samples = ingested(root)
    files.remove(f"ingest/{samples.fingerprint}/manifest.json")
    if files.local:
        files.put(f"seen/.name.{OWNER}", b"half", fresh=True)


def _dead_lease(owner: str) -> bytes:
    mine = Lease.mine()
    return mine.model_copy(update={"owner": owner, "started": "before the last boot"}).data()


def cleared(root: str) -> None:
    """All garbage goes, unused images as well."""
    clearance(root, older_than_s=0, references=REFERENCES, delete=True, shards=True)


SCENARIOS = {
    "artifact": Scenario(artifact),
    "recovery": Scenario(artifact, start=builder_killed),
    "rebuild": Scenario(artifact, start=damaged, orders=("rerun",), whole=False),
    "library": Scenario(library),
    "decisions": Scenario(decisions, state=lambda root: len(read_decisions(root))),
    "samples": Scenario(ingested),
    "snapshot": Scenario(snapshot),
    "clearing": Scenario(cleared, start=littered, orders=("rerun",)),
}
