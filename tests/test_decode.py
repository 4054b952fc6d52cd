"""What a child that decodes does when an image crashes it, holds it up or fills its memory."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from infra.servers.run import lingering
from schemas.errors import ConfigError
from tasks.decoder import children, gate
from tasks.decoder.children import Children, decode_all
from tasks.decoder.strict import MANY_PIXELS, Facts, Refusal
from tests.hostile import encoded

ROOT = Path(__file__).parents[1]
MOST = 50_000_000
SMALL = [encoded("PNG", seed=seed) for seed in range(3)]
# Seconds of work after which a child is past its start (0.2) and in mid `slow` (2.0).
SLOW = 1.0


def slow() -> bytes:
    """A JPEG of 90 scans over 4 megapixels: seconds of work, and within all limits."""
    data = encoded("JPEG", mode="L", size=(2_000, 2_000), progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * 90 + data[-2:]


def plain(side: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def own(monkeypatch) -> Children:
    """Children of the test's own, which end with it."""
    mine = Children()
    monkeypatch.setattr(children, "_children", lambda: mine)
    yield mine
    mine._end()


def at_work(parent: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(parent).children() if "tasks.decoder.child" in p.cmdline()]


def signalled(number: int, *, times: int) -> threading.Thread:
    """Sends a signal to a child that is in mid-image, then to the one that comes after it."""

    def watch() -> None:
        left = times
        while left:
            for child in at_work(os.getpid()):
                if child.status() != psutil.STATUS_ZOMBIE and child.cpu_times().user > SLOW:
                    child.send_signal(number)
                    lingering([child], 10)  # it is its parent's, who asks how it ended
                    left -= 1
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def is_good(found: Facts | Refusal) -> bool:
    return isinstance(found, Facts) and (found.format, found.width) == ("PNG", 40)


def test_facts_come_in_order_from_children_that_are_kept(own):
    first = decode_all([*SMALL, b"words", encoded("GIF")], max_pixels=MOST)
    kept = at_work(os.getpid())
    again = decode_all([*SMALL, b"words", encoded("GIF")], max_pixels=MOST)
    assert first == again
    assert [is_good(f) for f in first] == [True] * 3 + [False] * 2
    assert first[3] == Refusal(
        "image_unreadable", "UnidentifiedImageError: cannot identify image file"
    )
    assert first[4].format == "GIF"
    assert len({f.phash for f in first[:3]}) == 3
    assert at_work(os.getpid()) == kept


def test_an_image_that_ends_two_children_is_refused_and_no_other(own):
    thread = signalled(signal.SIGSEGV, times=2)
    found = decode_all([SMALL[0], slow(), *SMALL[1:]], max_pixels=MOST)
    thread.join(10)
    assert found[1] == Refusal("image_unreadable", "the decoder died (signal 11)")
    assert [is_good(f) for f in found] == [True, False, True, True]


def test_any_number_of_images_may_be_given_at_once(own):
    found = decode_all(SMALL * 500, max_pixels=MOST)  # their answers would fill a pipe
    assert len(found) == 1_500
    assert all(map(is_good, found))


def test_a_stray_signal_refuses_nothing(own):
    thread = signalled(signal.SIGKILL, times=1)
    found = decode_all([SMALL[0], slow(), SMALL[1]], max_pixels=MOST)
    thread.join(10)
    assert [is_good(f) for f in found] == [True, False, True]
    assert found[1].format == "JPEG"


def test_an_image_that_takes_too_long_is_refused_and_no_other(own, monkeypatch):
    monkeypatch.setattr(children, "SECONDS", 0.5)
    found = decode_all([SMALL[0], slow(), *SMALL[1:]], max_pixels=MOST)
    assert found[1] == Refusal("image_unreadable", "took more than 0.5 s")
    assert [is_good(f) for f in found] == [True, False, True, True]


def test_an_image_that_needs_too_much_memory_is_refused_and_no_other(own, monkeypatch):
    monkeypatch.setattr(children, "MEMORY", 120 << 20)
    monkeypatch.setattr(children, "MEMORY_PER_PIXEL", 0)
    found = decode_all([SMALL[0], plain(5_000), *SMALL[1:]], max_pixels=MOST)
    assert found[1] == Refusal("image_unreadable", "needs more than 120 MiB")
    assert [is_good(f) for f in found] == [True, False, True, True]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_the_memory_of_a_child_is_enough_for_all_legal_pixels(own, monkeypatch, form):
    monkeypatch.setattr(children, "MEMORY", 80 << 20)  # hardly more than it starts with
    mode = {"PNG": "RGBA", "JPEG": "CMYK", "WEBP": "RGBA"}.get(form, "RGB")
    image, out = (
        Image.effect_noise((200, 200), 99).convert("RGB").resize((2_000, 2_000)),
        io.BytesIO(),
    )
    image.convert(mode).save(out, form, progressive=True, lossless=True, method=0)
    (found,) = decode_all([out.getvalue()], max_pixels=4_000_000)
    assert isinstance(found, Facts), found


def test_images_of_many_pixels_wait_for_each_other_and_the_wait_is_not_counted(own, monkeypatch):
    monkeypatch.setattr(children, "SECONDS", 1.0)
    large = plain(int(MANY_PIXELS**0.5) + 1)
    file = gate.opened()
    fcntl.lockf(file, fcntl.LOCK_EX)  # as another process's children would, at all places
    found = []
    asked = threading.Thread(target=lambda: found.extend(decode_all([large], max_pixels=MOST)))
    asked.start()
    asked.join(2)
    assert found == []
    os.close(file)
    asked.join(20)
    assert isinstance(found[0], Facts)


def test_the_gate_is_one_that_no_other_user_has_put_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = gate.opened()
    (path,) = tmp_path.iterdir()
    assert os.path.samestat(os.fstat(mine), path.stat()) and path.stat().st_mode & 0o077 == 0
    again = gate.opened()
    assert os.path.samestat(os.fstat(mine), os.fstat(again))
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    alone = gate.opened()
    assert not (tmp_path / "elsewhere").exists() and os.fstat(alone).st_nlink == 0
    for file in (mine, again, alone):
        os.close(file)


def test_no_child_outlives_a_parent_that_is_killed(tmp_path):
    (tmp_path / "slow.jpg").write_bytes(slow())
    code = (
        "import sys; from pathlib import Path; from tasks.decoder import children\n"
        "children.SECONDS = 1.0\n"
        "children.decode_all([Path(sys.argv[1]).read_bytes()], max_pixels=10**8)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "slow.jpg")]
    with subprocess.Popen(command, cwd=ROOT) as parent:
        while not (found := at_work(parent.pid)):
            time.sleep(0.05)
        time.sleep(0.5)  # it decodes, and does not see that nobody is there any more
        parent.kill()
    gone, alive = psutil.wait_procs(found, timeout=10)
    assert (len(gone), alive) == (1, [])


def test_a_decoder_that_does_not_start_is_an_error_and_no_refusal(own, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match=r"does not start \(exit status 1\).*psavlm doctor"):
        decode_all(SMALL, max_pixels=MOST)


def test_a_child_imports_little():
    code = (
        "import json, sys, tasks.decoder.child\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported = set(json.loads(done.stdout))
    assert {"PIL", "numpy", "pdqhash", "tasks"} <= imported
    assert imported.isdisjoint({"pyarrow", "pydantic", "schemas", "infra", "pandas", "fsspec"})
