"""A line for every step that ends: what it was, how long it took, what it counted."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from schemas.artifact import Artifact
from schemas.decision import Decision

# Counts that say something where they are zero, too.
ALWAYS = ("in", "accepted", "rejected", "images", "quarantined", "decoded", "encoded")


def told(
    do: Callable[..., Any], *, also: Callable[[str], None] | None = None
) -> Callable[..., Any]:
    """`do` that says on stderr, and to `also`, how each step ended."""
    console = Console(stderr=True, highlight=False)

    def call(name: str, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = do(name, step, *args, **kwargs)
        reused = isinstance(result, Artifact) and result.reused
        how = "cached" if reused else f"{time.perf_counter() - began:.1f} s"
        what = _what(result)
        console.print(f"{name:<20} {how:>8}  [dim]{what}[/dim]", soft_wrap=True)
        if also is not None:
            also(f"{name}: {how}  {what}")
        return result

    return call


def _what(result: Any) -> str:
    if isinstance(result, Artifact):
        return counted(result.counts)
    if isinstance(result, Decision):
        return in_words(result)
    return f"version {result.version}"


def counted(counts: Mapping[str, int]) -> str:
    """An artifact's counts in one line, without zeros that say nothing."""
    return "  ".join(f"{key} {n}" for key, n in counts.items() if n or key in ALWAYS)


def in_words(decision: Decision) -> str:
    """A decision in one line: what was done, with which version, and why."""
    if decision.action == "already_champion":
        return ", ".join(decision.reasons)
    version = decision.candidate.version
    which = f"version {version}" if version else decision.candidate.fingerprint
    return " ".join([f"{decision.action.replace('_', ' ')}: {which}.", *decision.reasons])
