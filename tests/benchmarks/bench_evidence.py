"""What stage 1 has learnt, and what methods do with what they have not learnt from (METHOD.md 7.6).

By the commands as people type them, on the hard tiny world. With PSAVLM_ABLATION_ROOT set, what an
ablation has trained there is taken.
"""

import json
import os
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.store import Store
from schemas.artifact import Artifact
from schemas.probe import TYPE
from tests.benchmarks.record import record
from tests.drivers import PSAVLM

ENDS = ("", "_n", "_low", "_high")
HELD = ("risky_obeyed", "risky_correctly_refused", "all_benign_refused", "type_accuracy")


@pytest.fixture
def root(tmp_path: Path) -> str:
    return os.environ.get("PSAVLM_ABLATION_ROOT") or str(tmp_path / "store")


def told(*words: str, root: str) -> dict:
    """The command's line of JSON."""
    asked = [PSAVLM, *words, "--root", root, "--json"]
    done = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def rows_of(artifact: Artifact, file: str) -> list[dict]:
    root = artifact.uri.rsplit("/", 2)[0]
    return pq.read_table(Store(root).local(artifact) / file).to_pylist()


@pytest.mark.timeout(3600)
def test_what_a_line_reads_of_stage_one(root: str) -> None:
    made = Artifact(**told("probe", "--methods", "psa-vlm,psavlm-plus", root=root))
    rows = rows_of(made, "probe.parquet")
    record(
        "probe",
        {
            f"{row['experiment']}.{row['what']}.{row['measure']}{end}": round(row[f"share{end}"], 4)
            for row in rows
            for end in ENDS
        },
    )
    read = {row["what"]: row["share"] for row in rows if row["measure"] == TYPE}
    assert read and min(read.values()) > 0.5


@pytest.mark.timeout(3600)
def test_what_was_not_learnt_from(root: str) -> None:
    held = ("--hold-out-types", "privacy", "--hold-out-sources", "second-style*")
    line = told("ablate", "--methods", "psa-vlm", "--seeds", "1", *held, root=root)
    rows = rows_of(Artifact(**line["artifacts"]["ablation"]), "held-out.parquet")
    numbers = {
        f"{row['held_out']}.{row['trained']}.{name}{end}": round(row[f"{name}{end}"], 4)
        for row in rows
        for name in HELD
        for end in ENDS
        if row[f"{name}{end}"] is not None
    }
    record("held-out", numbers)
    assert {row["trained"] for row in rows} == {"with it", "without it"}
