"""What reviewers have said, unblinded: who wins, how sure that is, how far they agree."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from schemas.errors import DataError
from schemas.frozen import Frozen
from tasks.compare.lines import two_sided
from tasks.promote.paired import Pairs
from tasks.review.export import CHOICES, Key, read_key

TIE = "tie"
# Item -> old, new or tie, of one reviewer.
Votes = Mapping[str, str]


class Review(Frozen):
    """A review's result.

    Attributes:
        old: the old model.
        new: the new one.
        items: that anybody has judged.
        new_better: items that more reviewers gave to the new model than to the old one.
        old_better: the other way round.
        ties: the rest.
        p: two-sided, exact sign test over groups of items that share an image; ties say nothing.
        difference: share of items for the new model minus that for the old one.
        low: lower end of its 95 % interval (Tango's).
        high: upper end.
        reviewers: name of each file -> how often it said new, old and tie.
        judged_twice: pairs of votes of two reviewers on one item.
        agreement: share of these that are the same; None without any.
        kappa: Cohen's, over all pairs of reviewers; None where it is not defined.
    """

    old: str
    new: str
    items: int
    new_better: int
    old_better: int
    ties: int
    p: float
    difference: float
    low: float
    high: float
    reviewers: dict[str, dict[str, int]]
    judged_twice: int
    agreement: float | None
    kappa: float | None


def reviewed(key: Path, sheets: Sequence[Path]) -> Review:
    """Unblind and count the filled-in sheets, one a reviewer.

    Raises:
        ConfigError: the key is none.
        DataError: a sheet that cannot be read, names an item twice or an unknown one, or holds
            another word than a, b and tie; or nobody has judged anything.
    """
    known = read_key(key)
    votes = {sheet.name: read_votes(sheet, known) for sheet in sheets}
    if len(votes) < len(sheets):
        raise DataError("two sheets have one name: give each reviewer's file a name of its own")
    judged = sorted({item for own in votes.values() for item in own})
    if not judged:
        raise DataError(f"nobody has judged anything: fill in {', '.join(CHOICES)} under `better`")
    won = [_winner([own[item] for own in votes.values() if item in own]) for item in judged]
    groups = np.array([known.items[item]["group_id"] for item in judged])
    pairs = Pairs.of(
        np.array([w == "new" for w in won]), np.array([w == "old" for w in won]), groups
    )
    low, high = pairs.interval(0.025)
    both = [
        (mine[item], theirs[item])
        for mine, theirs in combinations(votes.values(), 2)
        for item in mine
        if item in theirs
    ]
    return Review(
        old=known.old,
        new=known.new,
        items=len(judged),
        new_better=won.count("new"),
        old_better=won.count("old"),
        ties=won.count(TIE),
        p=two_sided(pairs),
        difference=pairs.difference,
        low=low,
        high=high,
        reviewers={
            name: {what: list(own.values()).count(what) for what in ("new", "old", TIE)}
            for name, own in votes.items()
        },
        judged_twice=len(both),
        agreement=sum(a == b for a, b in both) / len(both) if both else None,
        kappa=kappa(both),
    )


def read_votes(sheet: Path, key: Key) -> Votes:
    """One reviewer's votes, unblinded; lines without a choice are left out."""
    try:
        rows = list(csv.DictReader(io.StringIO(sheet.read_text(encoding="utf-8-sig"))))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{str(sheet)!r} cannot be read as a CSV file: {error}") from error
    votes: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        item, word = (str(row.get(name) or "").strip().lower() for name in ("item", "better"))
        if item not in key.items:
            raise DataError(f"{sheet.name}, line {line}: {item!r:.40} is no item of this review")
        if not word:
            continue
        if word not in CHOICES:
            raise DataError(
                f"{sheet.name}, line {line}: better = {word!r:.40}; {', '.join(CHOICES)} or "
                "nothing was expected"
            )
        if item in votes:
            raise DataError(f"{sheet.name}, line {line}: item {item} is judged twice")
        votes[item] = _unblinded(word, key.items[item]["a"])
    return votes


def kappa(both: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of pairs of votes (Educ. Psychol. Meas. 20 (1960) 37-46).

    With more than two reviewers the pairs of all are taken together. None where there are no
    pairs, or where all votes are the same word, so that chance alone would agree.
    """
    if not both:
        return None
    same = sum(a == b for a, b in both) / len(both)
    first, second = Counter(a for a, _ in both), Counter(b for _, b in both)
    chance = sum(first[word] * second[word] for word in first) / len(both) ** 2
    return None if chance == 1 else (same - chance) / (1 - chance)


def _unblinded(word: str, a: str) -> str:
    if word == TIE:
        return TIE
    other = "new" if a == "old" else "old"
    return a if word == "a" else other


def _winner(votes: Sequence[str]) -> str:
    lead = votes.count("new") - votes.count("old")
    return "new" if lead > 0 else "old" if lead < 0 else TIE
