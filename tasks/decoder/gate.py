"""The places for images of many pixels: the bytes of a file that all decoders of a user share.

A node of a cluster runs a worker on each of its cores, and each worker has decoders of its own:
one for every four cores of the machine may have such an image in hand, whoever started it.
"""

import os
from contextlib import suppress
from tempfile import gettempdir, mkstemp

FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def opened() -> int:
    """The file, whose bytes a decoder locks; one of this process alone where there is no other."""
    path = os.path.join(gettempdir(), f"psavlm-decoders-{os.getuid()}")
    with suppress(OSError):  # another user's, or no file
        file = os.open(path, FLAGS, 0o600)
        if os.fstat(file).st_uid == os.getuid():
            return file
        os.close(file)
    file, path = mkstemp()
    os.unlink(path)
    return file


def place(number: int, *, cores: int) -> int:
    """Which byte is that of this process's child of a number: they are spread over all places."""
    return (os.getpid() + number) % max(1, cores // 4)
