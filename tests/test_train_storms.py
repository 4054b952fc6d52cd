"""Training while what it stands on fails, at full length: run by `make prove`.

The head is killed, the disk is full, S3 is away for a minute: it recovers, or fails with one clear
message, and the same command ends with the undisturbed bits.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.files import Files
from tests.benchmarks.record import record
from tests.drivers import begun, files_of, finished, linked, wait_for
from tests.s3_server import BUCKET, Backend, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
OFTEN = """
extends = "tiny"
[stage1]
checkpoint_every = 10
"""
AWAY_S = 60


@pytest.fixture(scope="module")
def often(tmp_path_factory: pytest.TempPathFactory) -> Path:
    preset = tmp_path_factory.mktemp("preset") / "often.toml"
    preset.write_text(OFTEN)
    return preset


@pytest.fixture(scope="module")
def calm(
    encoded_root: str, only_cluster: None, often: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The hashes of stage 1, undisturbed."""
    home = tmp_path_factory.mktemp("calm")
    root = linked(home / "root", encoded_root)
    driver = begun("stage1", "--preset", str(often), "--root", str(root), cwd=home)
    return files_of(finished(driver))


def test_a_killed_head_is_one_message_and_the_same_command_goes_on(
    calm: dict, often: Path, encoded_root: str, tmp_path: Path
) -> None:
    root = linked(tmp_path / "root", encoded_root)
    asked = ("stage1", "--preset", str(often), "--root", str(root))
    driver = begun(*asked, cwd=tmp_path)
    wait_for(driver, root, "stage1", at=("concept", 30))
    children = psutil.Process(driver.pid).children(recursive=True)
    for process in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name() in ("gcs_server", "raylet"):
                process.kill()
    _, err = driver.communicate(timeout=300)
    assert driver.returncode not in (0, None)
    assert "Run the same command: it goes on from the checkpoints under" in err
    psutil.wait_procs(children, timeout=60)
    assert files_of(finished(begun(*asked, cwd=tmp_path))) == calm


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 48 MB."""
    folder = tmp_path / "root" / "runs"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_message_and_the_same_command_goes_on(
    calm: dict, often: Path, encoded_root: str, tmp_path: Path, small_disk: Path
) -> None:
    root = linked(tmp_path / "root", encoded_root)
    asked = ("stage1", "--preset", str(often), "--root", str(root))
    driver = begun(*asked, cwd=tmp_path)
    wait_for(driver, root, "stage1", at=("concept", 30))
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(b"\0" * 65536):
            pass
    out, _ = driver.communicate(timeout=900)
    assert driver.returncode == 1
    told = json.loads(out)
    assert "No space left on device" in told["message"]
    assert "\n" not in told["message"]
    (small_disk / "filler").unlink()
    assert files_of(finished(begun(*asked, cwd=tmp_path))) == calm


def test_s3_that_is_away_for_a_minute_changes_no_bit(
    calm: dict, often: Path, encoded_root: str, tmp_path: Path
) -> None:
    here = linked(tmp_path / "root", encoded_root)
    with s3_server(backend := Backend()) as settings, pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        names = [str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()]
        Files.at(f"s3://{BUCKET}").upload(here, "team", names=names)
        files = Files.at(f"s3://{BUCKET}/team")
        asked = ("stage1", "--preset", str(often), "--root", files.address)
        driver = begun(*asked, cwd=tmp_path)
        _wait_for_checkpoint(driver, files)
        backend.stop()
        time.sleep(AWAY_S)
        backend.start()
        began = time.monotonic()
        out, err = driver.communicate(timeout=1800)
        recovered = driver.returncode == 0
        if not recovered:
            told = json.loads(out)
            assert driver.returncode in (1, 2) and "same command" in told["message"], err[-3000:]
            out = json.dumps(finished(begun(*asked, cwd=tmp_path)))
        seconds = round(time.monotonic() - began, 1)
        record("s3-away", {"away": AWAY_S, "recovered": recovered, "seconds_after": seconds})
        assert files_of(json.loads(out)) == calm
        assert not [path for path in files.found() if path.startswith("runs/")]


def _wait_for_checkpoint(driver: subprocess.Popen, files: Files) -> None:
    deadline = time.monotonic() + 900
    while not any("/checkpoint_" in path for path in files.found()):
        assert driver.poll() is None, driver.communicate()[1][-3000:]
        assert time.monotonic() < deadline, "no checkpoint in the bucket"
        time.sleep(0.5)
