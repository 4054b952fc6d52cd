"""The decoder's process: images in on stdin, a line of JSON out for each, until stdin ends.

An image comes as HEAD and its bytes; the answer is the facts, or a refusal. Where the memory is too
little it is {}, the last one. Over an image that takes too long the process ends itself by SIGALRM,
so that nothing stays behind even where its parent was killed meanwhile.
"""

import fcntl
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from struct import Struct

from tasks.decoder.strict import decode

# Bytes of the image, most pixels, bytes of memory, seconds.
HEAD = Struct("<QQQd")
READY = b"ready\n"


def main(gate: int, place: int) -> None:
    """Answer until stdin ends.

    Args:
        gate: a file whose bytes are locked by who holds an image of many pixels.
        place: which byte is this process's.
    """
    _settle()
    images, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # What a library prints is no answer.
    os.dup2(2, 1)
    answers.write(READY)
    answers.flush()
    while len(head := images.read(HEAD.size)) == HEAD.size:
        size, max_pixels, memory, seconds = HEAD.unpack(head)
        data = images.read(size)
        if len(data) < size:
            return
        _limit(resource.RLIMIT_DATA, memory)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        found = _found(data, max_pixels, _turn(gate, place, seconds))
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(found).encode() + b"\n")
        answers.flush()
        if not found:
            return


def _settle() -> None:
    """What this process inherits must not keep it from ending, nor make it leave a core dump."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    # Ctrl-C goes to the parent as well, which ends this process in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _found(
    data: bytes, max_pixels: int, turn: AbstractContextManager[None]
) -> dict[str, str | int]:
    try:
        return vars(decode(data, max_pixels=max_pixels, turn=turn))
    except MemoryError:
        return {}


@contextmanager
def _turn(gate: int, place: int, seconds: float) -> Iterator[None]:
    """Hold the place; the time until it is free does not count."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    fcntl.lockf(gate, fcntl.LOCK_EX, 1, place)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        fcntl.lockf(gate, fcntl.LOCK_UN, 1, place)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
    # Nothing is left to be tidied up, and the parent waits.
    os._exit(0)
