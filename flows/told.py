"""A line on stderr for every step that ends: what it was, how long it took, what it counted."""

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from schemas.artifact import Artifact


def told(do: Callable[..., Artifact]) -> Callable[..., Artifact]:
    """`do` that says on stderr how each step ended."""
    console = Console(stderr=True, highlight=False)

    def call(name: str, step: Callable[..., Artifact], *args: Any, **kwargs: Any) -> Artifact:
        began = time.perf_counter()
        artifact = do(name, step, *args, **kwargs)
        how = "cached" if artifact.reused else f"{time.perf_counter() - began:.1f} s"
        counts = "  ".join(f"{key} {value}" for key, value in artifact.counts.items())
        console.print(f"{name:<20} {how:>8}  [dim]{counts}[/dim]", soft_wrap=True)
        return artifact

    return call
