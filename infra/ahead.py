"""Reading ahead: while one part is worked on, other threads decode the next ones.

Decoding Parquet leaves Python's lock alone, and hashing holds it: together they fill two cores.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

PARTS = 2  # that are decoded or wait, beside the one that is worked on: memory
Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    items: Iterable[Item], read: Callable[[Item], Result], *, parts: int = PARTS
) -> Iterator[Result]:
    """`read(item)` of each, in order; what it raises comes when its item's turn does."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(parts) as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > parts:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
