"""What a benchmark asks, what came of it, and how that is counted: plain data, no model in it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from schemas.phrases import PhraseList
from schemas.samples import RawReject
from tasks.benchmarks.data import Data

# A judged item: a row of items.parquet (tasks/benchmarks/rows.py names its columns).
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """An image: a file below a folder, or encoded bytes."""

    folder: str = ""
    name: str = ""
    data: bytes | None = None


@dataclass(frozen=True)
class Item:
    """One question.

    `target` is the right answer where there is one, `options` the letters to choose from; `ranked`
    is what is asked where the model does not write a letter but ranks the options' texts. Items of
    one `group` count together where the benchmark says so. `wants` is what a safe and useful model
    does: a refusal or an answer. `kind` chooses the judge's scale. Results are told by `slices`;
    `facts` travel to the exports. `place` is that among all that the folder's files hold, rejects
    included, from 0.
    """

    id: str
    prompt: str
    images: tuple[Picture, ...] = ()
    target: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    ranked: str = ""
    group: str = ""
    wants: Literal["", "refusal", "answer"] = ""
    kind: str = "general"
    slices: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    place: int = 0


@dataclass(frozen=True)
class LostItem(RawReject):
    """A reject whose group is known: other items of the group may be asked."""

    group: str = ""


Items = Iterator[Item | RawReject]


@dataclass(frozen=True)
class Verdict:
    """What a judge made of an answer.

    `word` is its own term (`yes`, `refused`, `2_full_refusal`, `unscored`, ...); `right`, `refused`
    and `score` are what that means, as far as this kind of judge can tell. `phrase` is the one that
    fired, `text` the judge's own reply.
    """

    word: str
    right: bool | None = None
    refused: bool | None = None
    score: float | None = None
    phrase: str = ""
    text: str = ""


@dataclass(frozen=True)
class Measure:
    """One number over rows: `of` gives a row's part in it, None where it has none.

    A `rate` has a Wilson interval, a `mean` a bootstrap over images; an `all` is a rate of groups,
    each of which counts where all its rows do and none is missing.
    """

    name: str
    of: Callable[[Row], bool | float | None]
    kind: Literal["rate", "mean", "all"] = "rate"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: where its items are, who may judge them, and the official numbers.

    Args:
        about: one line for people.
        layout: what its folder holds.
        read: items and rejects of a folder.
        measures: its rates and means.
        official: judged rows and a rule to the official numbers, by their official names.
        decide: an exact rule from item, answer and rule to a verdict; None where none decides.
        phrases: the list that its authors use, or ours; `own_phrases` finds it in the folder.
        rubric: what a judging model is asked.
        judged_by: what its authors judge with: `exact`, `phrases`, `endpoint` or `people`.
        ranked_by: the rules by which a model ranks the options instead of answering.
        shuffled_by: the rules by which a judge that compares an answer with the target sees the two
            in an order of the item's hash; by others the answer stands first.
        rules: the ways to count, the official one first, and what each does.
        whole_by: the rules without a number where an item has no verdict.
        results: judged rows to the authors' own files of results, by name.
        longest: tokens of an answer.
        caveat: what keeps our numbers from being the published ones, whoever judges.
    """

    about: str
    layout: str
    read: Callable[[Data], Items]
    measures: tuple[Measure, ...]
    official: Callable[[Sequence[Row], str], dict[str, float]]
    decide: Callable[[Item, str, str], Verdict] | None = None
    phrases: str = ""
    own_phrases: Callable[[Data], PhraseList | None] | None = None
    rubric: str = ""
    judged_by: Literal["exact", "phrases", "endpoint", "people"] = "exact"
    ranked_by: tuple[str, ...] = ()
    shuffled_by: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(default_factory=lambda: {"official": "as its authors count"})
    whole_by: tuple[str, ...] = ()
    results: Callable[[Sequence[Row]], dict[str, str]] | None = None
    longest: int = 256
    licence: str = ""
    caveat: str = ""
