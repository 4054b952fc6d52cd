"""Steps that repeat to the bit, so that a run that goes on ends as one that was never stopped.

Where torch only warns, its attention kernels on a GPU sum in any order in their backward pass: it
takes those that repeat only where it would raise otherwise. So a step's passes raise, and where an
operation has no kernel that repeats, the part goes on with a warning instead.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from tasks.train.worker import Worker

Found = TypeVar("Found")
UNABLE = "does not have a deterministic implementation"
log = logging.getLogger(__name__)


class UnrepeatableError(Exception):
    """An operation of some worker has no kernel that repeats; raised by all workers together."""


def choose_kernels() -> None:
    """Let torch take kernels that repeat where it has them; before the process's first product."""
    # Read by cuBLAS when it is first used: of its workspaces, only fixed ones repeat.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


@contextmanager
def strictly(strict: bool) -> Iterator[None]:
    """If `strict`, what has no kernel that repeats raises in here, and warns again afterwards."""
    if not strict:
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


def unable(error: RuntimeError) -> str:
    """The operation that torch says has no kernel that repeats; raises any other error again."""
    before, found, _ = str(error).partition(UNABLE)
    if not found:
        raise error
    return before.split()[-1]


def repeatably(worker: "Worker", attempt: Callable[[], Found]) -> Found:
    """What an attempt at a step gives, strictly if that can be; all workers must ask.

    Where it cannot, the attempt is made again, and the part is not strict any more.
    """
    try:
        return attempt()
    except UnrepeatableError as error:
        operation = str(error)
    worker.strict = False
    worker.model.unrepeatable.add(operation)
    if worker.rank == 0:
        log.warning(
            "%s has no kernel here that repeats: the part trains with one that does not, and after "
            "a resume it may end with other last bits", operation
        )  # fmt: skip
    worker.model.zero_grad(set_to_none=True)
    return attempt()
