"""Whole runs without a feature cache, and with one in a bucket that this disk does not hold.

Run by `make prove`: the models are those of a run with all features on this disk, bit by bit.
"""

from pathlib import Path

import pytest

from infra.store import Store, open_artifact
from tests.drivers import DATA, begun, files_of, finished, linked
from tests.s3_server import BUCKET, s3_server
from tests.test_s3_run import copy_to_bucket

pytestmark = [
    pytest.mark.slow, pytest.mark.usefixtures("only_cluster"), pytest.mark.timeout(3600),
]  # fmt: skip
SHORT = """
extends = "tiny"
[stage1]
checkpoint_every = 10
[stage1.parts.concept]
steps = 20
[stage1.parts.tokens]
steps = 10
[stage2]
checkpoint_every = 10
[stage2.parts.lora]
steps = 10
"""


@pytest.fixture
def short(tmp_path: Path) -> Path:
    (tmp_path / "short.toml").write_text(SHORT)
    return tmp_path / "short.toml"


def test_a_run_without_a_feature_cache_ends_with_the_same_bits(
    encoded_root: str, short: Path, tmp_path: Path
) -> None:
    never = tmp_path / "never.toml"
    never.write_text(f"{SHORT}[encode]\ncache = 'never'\n")
    root = linked(tmp_path / "root", encoded_root)
    told = []
    for preset in (short, never):
        asked = ("--preset", str(preset), "--root", str(root), "--until", "evaluate")
        told.append(finished(begun("run", *asked, cwd=tmp_path))["artifacts"])
    kept, fly = told
    assert kept["encode"]["uri"] != fly["encode"]["uri"]
    for stage in ("stage1", "stage2"):
        assert files_of(kept[stage]) == files_of(fly[stage]) and files_of(fly[stage])
        assert kept[stage]["uri"] != fly[stage]["uri"]
        assert items(kept[f"evaluate/{stage}"]) == items(fly[f"evaluate/{stage}"])


def items(artifact: dict) -> str:
    """The hash of an evaluation's answers."""
    made = open_artifact(artifact["uri"])
    files = Store(artifact["uri"].rsplit("/", 2)[0]).manifest(made).files
    (found,) = (file.sha256 for file in files if file.path == "items.parquet")
    return found


def test_a_stage_whose_features_are_read_from_a_bucket_by_rows_ends_with_the_same_bits(
    encoded_root: str, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = linked(tmp_path / "root", encoded_root)
    asked = ("stage1", "--preset", str(short), "--root")
    here = finished(begun(*asked, str(root), cwd=tmp_path))
    budget = 4_000_000  # of 140 MB
    given = {"PSAVLM_CACHE": str(tmp_path / "cache"), "PSAVLM_STAGE_BYTES": str(budget)}
    with s3_server() as server:
        for name, value in {**server, **given}.items():
            monkeypatch.setenv(name, value)
        for step in DATA:
            copy_to_bucket(Path(encoded_root) / step, f"staged/{step}")
        there = finished(begun(*asked, f"s3://{BUCKET}/staged", cwd=tmp_path))
        assert files_of(there) == files_of(here)
    copies = (tmp_path / "cache" / "features").rglob("*")
    assert sum(path.stat().st_size for path in copies if path.is_file()) == 0
