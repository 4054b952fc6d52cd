"""The parent's side: as many decoding children as cores, started when first needed, then kept.

What ends a child, by a signal, by time or by memory, costs the image that it had in hand, and no
other: a fresh child takes the rest. An image is refused when it has ended two, the second one
fresh, so that a machine short of memory or a stray signal does not decide what is in a data set.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore, Lock

from schemas.errors import ConfigError
from tasks.decoder import gate
from tasks.decoder.child import HEAD, READY
from tasks.decoder.strict import Facts, Refusal

# Seconds that the slowest legal image takes a hundredth of.
SECONDS = 60.0
# The hungriest legal image, an animated WebP, takes about 20 bytes a pixel; a child takes 100 MB.
MEMORY, MEMORY_PER_PIXEL = 384 << 20, 24
# Images that a child has at hand. Their answers must fit into a pipe, or both sides would wait.
AHEAD = 8
HOME = Path(__file__).parents[2]
# One image each: threads of numpy's libraries would only take memory.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def cores() -> int:
    """How many this process may use."""
    with suppress(AttributeError):  # no such call on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def decode_all(images: Sequence[bytes], *, max_pixels: int) -> list[Facts | Refusal]:
    """What is known of each image, or why it cannot be used; in order.

    Raises:
        ConfigError: no child starts.
    """
    children, limits = _children(), Limits.of(max_pixels)
    found: list[Facts | Refusal] = []
    while len(found) < len(images):
        with children.one() as child:
            found += child.decode(images[len(found) :], limits)
        if len(found) < len(images):
            with children.one(fresh=True) as child:
                found += child.decode(images[len(found) :][:1], limits) or [child.epitaph(limits)]
    return found


@dataclass(frozen=True)
class Limits:
    """What one image may take."""

    max_pixels: int
    memory: int
    seconds: float

    @classmethod
    def of(cls, max_pixels: int) -> "Limits":
        """The memory grows with the pixels that are allowed."""
        return cls(max_pixels, MEMORY + MEMORY_PER_PIXEL * max_pixels, SECONDS)


class Child:
    """One decoding process; it has ended once an answer is missing."""

    def __init__(self, gate: int, place: int) -> None:
        above = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
        module = ["-P", "-W", "ignore", "-m", "tasks.decoder.child"]
        self._process = subprocess.Popen(
            [sys.executable, *module, str(gate), str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**_without_keys(), **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(above)},
            pass_fds=[gate],
        )
        self.ended = self._short = False
        if self._line() != READY:
            raise ConfigError(
                f"the image decoder does not start (exit status {self._process.wait()}): `psavlm "
                "doctor` looks at the installation; its own words stand above"
            )

    def decode(self, images: Sequence[bytes], limits: Limits) -> list[Facts | Refusal]:
        """The images up to the one that ends the child."""
        found: list[Facts | Refusal] = []
        self._ask(images[:AHEAD], limits)
        for number in range(len(images)):
            facts = json.loads(self._line() or "{}")
            if not facts:
                self._short = not self.ended
                self.end()
                break
            found.append(Refusal(**facts) if "reason" in facts else Facts(**facts))
            self._ask(images[number + AHEAD : number + AHEAD + 1], limits)
        return found

    def _ask(self, images: Sequence[bytes], limits: Limits) -> None:
        pipe = self._process.stdin
        # It may end while it is written to: what it answered before can be read all the same.
        with suppress(BrokenPipeError):
            for data in images:
                pipe.write(HEAD.pack(len(data), limits.max_pixels, limits.memory, limits.seconds))
                pipe.write(data)
            pipe.flush()

    def epitaph(self, limits: Limits) -> Refusal:
        """What ended it, in the same words on every machine."""
        status = self._process.wait()
        detail = f"the decoder died ({'signal' if status < 0 else 'exit status'} {abs(status)})"
        if status == -signal.SIGALRM:
            detail = f"took more than {limits.seconds:g} s"
        if self._short:
            detail = f"needs more than {limits.memory >> 20} MiB"
        return Refusal("image_unreadable", detail)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.end()

    def end(self) -> None:
        """Close its input, upon which it ends."""
        self.ended = True
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _line(self) -> bytes:
        line = self._process.stdout.readline()
        self.ended = self.ended or not line.endswith(b"\n")
        return b"" if self.ended else line


def _without_keys() -> dict[str, str]:
    """The environment but for what lets others in: hostile bytes are read there."""
    private = ("AWS_", "PREFECT_", "RAY_AUTH", "MLFLOW_")
    return {name: value for name, value in os.environ.items() if not name.startswith(private)}


class Children:
    """The children of this process; as many at work as cores."""

    def __init__(self) -> None:
        self._room = BoundedSemaphore(cores())
        self._idle: list[Child] = []
        self._lock = Lock()
        self._started = 0
        self._gate = gate.opened()
        atexit.register(self._end)

    @contextmanager
    def one(self, *, fresh: bool = False) -> Iterator[Child]:
        """A child for one thread, `fresh` if it must not have decoded anything yet."""
        with self._room:
            child = self._take()
            if fresh and child:
                child.end()
            if fresh or child is None:
                child = self._start()
            with ExitStack() as stack:
                # Where we are interrupted, it has been asked what nobody will read.
                stack.callback(child.kill)
                yield child
                stack.pop_all()
            if not child.ended:
                with self._lock:
                    self._idle.append(child)

    def _take(self) -> Child | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _start(self) -> Child:
        with self._lock:
            self._started += 1
            number = self._started
        return Child(self._gate, gate.place(number, cores=cores()))

    def _end(self) -> None:
        while child := self._take():
            child.end()


# By process: one that was forked has none of its parent's.
_made: dict[int, Children] = {}
_making = Lock()


def _children() -> Children:
    with _making:
        if os.getpid() not in _made:
            _made[os.getpid()] = Children()
        return _made[os.getpid()]
