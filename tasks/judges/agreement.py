"""How far two judges agree about the same answers."""

from collections.abc import Hashable, Sequence
from statistics import fmean

from schemas.benchmark import Agreement
from tasks.benchmarks.item import Verdict
from tasks.judges.preference import OTHER, PREFERRED

NEAR = 1.0  # points of ten


def agreement(first: Sequence[Verdict], second: Sequence[Verdict], *, judge: str) -> Agreement:
    """Over what both have judged: the same word with Cohen's kappa, or the distance of scores.

    The word is refused or not, or which of two answers is preferred.

    Args:
        first: of the judge that the report counts.
        second: of the other, in the same order.
        judge: the other's name.
    """
    pairs = list(zip(first, second, strict=True))
    words = [
        (told, other)
        for a, b in pairs
        if (told := _word(a)) is not None and (other := _word(b)) is not None
    ]
    scores = [(a.score, b.score) for a, b in pairs if a.score is not None and b.score is not None]
    gaps = [abs(a - b) for a, b in scores]
    return Agreement(
        judge=judge,
        n=len(words) or len(scores),
        same=fmean(a == b for a, b in words) if words else None,
        kappa=kappa(words) if words else None,
        mean_distance=fmean(gaps) if gaps else None,
        within_one=fmean(gap <= NEAR for gap in gaps) if gaps else None,
    )


def _word(verdict: Verdict) -> Hashable:
    """What a judge of words means by its verdict; None where it is a grade, or nothing."""
    if verdict.refused is not None:
        return verdict.refused
    return verdict.word if verdict.word in (PREFERRED, OTHER) else None


def kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Cohen's kappa; None where both judges know one word only, so that chance explains all."""
    words = {word for pair in pairs for word in pair}
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    chance = sum(firsts.count(w) * seconds.count(w) for w in words) / len(pairs) ** 2
    if chance == 1:
        return None
    return (fmean(a == b for a, b in pairs) - chance) / (1 - chance)
