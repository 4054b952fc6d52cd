"""The longer proof on a bucket, run by `make prove`: a whole run in bad weather, its traces."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from infra.files import Files
from infra.servers.ask import ask
from infra.servers.temporary import temporary
from infra.store import Store
from tests.benchmarks.record import record
from tests.s3_faults import Weather, faulty
from tests.s3_server import BUCKET, s3_server
from tests.s3_traces import IN_URL, leaks, made, planted, psavlm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# Few steps: what is proved here is the storage, not the result.
SHORT = """
extends = "tiny"
[stage1]
checkpoint_every = 5
[stage1.parts.concept]
steps = 10
[stage1.parts.tokens]
steps = 5
[stage2]
checkpoint_every = 5
[stage2.parts.lora]
steps = 10
"""


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray's session logs go; its sockets ask for a short path."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="ray-"))
    yield folder
    shutil.rmtree(folder)


def test_a_whole_run_in_bad_weather_ends_with_the_bytes_of_one_on_disk(
    only_cluster: None, tiny_root: str, tmp_path: Path, ray_folder: Path
) -> None:
    """5 % of requests fail in eight ways; no key is in anything that the run has written."""
    preset = tmp_path / "short.toml"
    preset.write_text(SHORT)
    disk, there = Store(str(tmp_path / "disk")), Store(f"s3://{BUCKET}/team")
    shutil.copytree(f"{tiny_root}/base_model", f"{disk.root}/base_model")
    run = ["run", "--preset", str(preset), "--json", "--root"]
    here = {name: tmp_path / name for name in ("on-disk", "in-weather", "refused")}
    for folder in here.values():
        folder.mkdir()
    done = psavlm(here["on-disk"], *run, disk.root)
    assert done.returncode == 0, done.stderr[-3000:]
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in planted(server["AWS_ENDPOINT_URL"], tmp_path).items():
            patch.setenv(name, value)
        copy_to_bucket(Path(disk.root) / "base_model", "team/base_model")
        with faulty(server["AWS_ENDPOINT_URL"], Weather(0.05, seed=7)) as proxy:
            bad = {"AWS_ENDPOINT_URL": proxy.address, "RAY_TMPDIR": str(ray_folder)}
            stormy = psavlm(here["in-weather"], *run, there.root, **bad)
            met = dict(proxy.met)
        assert stormy.returncode == 0, stormy.stderr[-3000:]
        url = server["AWS_ENDPOINT_URL"].replace("//", f"//somebody:{IN_URL}@")
        refused = [
            psavlm(here["refused"], *run, "s3://no-such-bucket/x"),
            psavlm(here["refused"], *run, there.root, AWS_ENDPOINT_URL=url),
            psavlm(here["refused"], *run, there.root, AWS_ENDPOINT_URL="http://127.0.0.1:9"),
        ]
        assert [one.returncode for one in refused] == [2, 2, 2]
        assert made(there) == made(Store(disk.root))
        stored = Files.at(there.root)
        texts = {path: stored.read(path) or b"" for path in stored.found()}
        assert not [path for path in texts if path.startswith("runs/")]
    said = {str(n): (one.stdout + one.stderr).encode() for n, one in enumerate([stormy, *refused])}
    assert leaks(*here.values(), ray_folder, also={**texts, **said}) == []
    assert list(ray_folder.rglob("*.log"))
    asked, failed = sum(met.values()), sum(met.values()) - met[""]
    assert failed > 0.03 * asked
    record(
        "s3_weather",
        {
            "requests": asked,
            "failed": failed,
            "artifacts": len(made(disk)),
            **{kind: n for kind, n in met.items() if kind},
        },
    )


FLOW = """
import sys
from flows.full_pipeline import full_pipeline
full_pipeline(root=sys.argv[1], sources=[{"format": "table", "uri": sys.argv[2]}], until="ingest")
"""


def test_the_log_of_a_flow_tells_a_store_that_ignores_if_none_match(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "t.csv"
    table.write_text("question,type\nwhy ?,clean\n")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    root = f"s3://{BUCKET}/log"
    with s3_server() as server, temporary(tmp_path) as prefect:
        prefect.wait()
        with faulty(server["AWS_ENDPOINT_URL"], deaf=("if-none-match",)) as proxy:
            given = {**planted(proxy.address, tmp_path), "PREFECT_API_URL": prefect.url}
            given |= {"PREFECT_LOGGING_LEVEL": "INFO"}
            command = [sys.executable, "-c", FLOW, root, str(table)]
            done = subprocess.run(
                command, cwd=tmp_path, env={**os.environ, **given}, capture_output=True, text=True
            )
        assert done.returncode == 0, done.stderr[-3000:]
        told = [line["message"] for line in ask(f"{prefect.url}/logs/filter", {})]
    assert any(f"{root} ignores If-None-Match" in line for line in told)


def copy_to_bucket(folder: Path, prefix: str) -> None:
    client = boto3.client("s3")
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder)}")
