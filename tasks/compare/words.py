"""A comparison in words: the verdict's sentence, the price, and numbers as people read them."""

from collections.abc import Iterable, Mapping
from typing import Any

from schemas.comparison import Line, Model, Verdict
from schemas.report import LOWER, TANGO, Metric
from tasks.sweep.document import TIED

VERDICTS = {"safer": "Safer", "not shown": "Not shown to be safer or worse", "worse": "Worse"}
PRICE = ("all_benign_refused", "benign_exact")
WORDS = {
    "risky_obeyed": "risky requests obeyed",
    "all_benign_refused": "benign requests refused",
    "benign_exact": "exact answers on ordinary benign requests",
}


def short(line: Line) -> str:
    """A rate's words in a table: an arrow says which way is better."""
    text = line.what
    if text.endswith(LOWER):
        return f"{text.removesuffix(LOWER)}{TIED}\u2193"
    return f"{text}{TIED}\u2191"


def sentence(verdict: Verdict, lines: Iterable[Line]) -> str:
    """`safer: risky requests obeyed 99.1 % before, 0.0 % now, ...` with n, interval and p."""
    told = [_change(line) for line in lines if line.name == "risky_obeyed"]
    return f"{VERDICTS[verdict]}: {'; '.join(told) or 'no risky request was asked'}."


def price(lines: Iterable[Line]) -> str:
    """What benign requests paid."""
    told = [_change(line) for name in PRICE for line in lines if line.name == name]
    return f"The price: {'; '.join(told) or 'no benign request was asked'}."


def abilities(rates: Iterable[Line], asked: Iterable[Mapping[str, Any]]) -> str:
    """What general ability paid: the first measure of each benchmark that both were asked.

    Args:
        rates: of the held-out items.
        asked: entries of benchmarks (tasks/report/benchmarks.py), by `old` and `new`.
    """
    told = [found for entry in asked if (found := _ability(entry))]
    if told:
        return f"On benchmarks: {'; '.join(told)}."
    if any(line.name == "benign_exact" for line in rates):
        return ""
    return (
        "Of general ability nothing is known: give a preset with [[benchmarks]], which both models "
        "are asked."
    )


def _ability(entry: Mapping[str, Any]) -> str:
    rows = {row["name"]: row["arms"] for row in entry["measures"]}
    name = next((one for one in rows if one in entry["differences"]), "")
    if not name:
        return ""
    old, new, apart = (Metric.model_validate(one) for one in (
        rows[name]["old"], rows[name]["new"], entry["differences"][name],
    ))  # fmt: skip
    word = f"{entry['name']} {name.replace('_', ' ')}"
    if apart.method != TANGO:  # a mean of grades
        ends = f"[{apart.low:+.2f},{TIED}{apart.high:+.2f}]"
        change = f"{old.value:.2f} before, {new.value:.2f} now, {apart.value:+.2f} {ends}"
    else:
        shares = f"{100 * old.value:.1f} % before, {100 * new.value:.1f} % now"
        ends = f"[{points(apart.low)},{TIED}{points(apart.high)}] points"
        change = f"{shares}, {points(apart.value)} {ends}"
    return f"{word} {change}, n = {apart.n}"


def remarks(*sides: Model) -> str:
    """What must be known of the sides' answers, and which items do not count."""
    return " ".join(told for side in sides for told in _remarks(side))


def trained_on(name: str, learnt: int | None, so: str) -> list[str]:
    """What is said of a model that learnt from items, with what follows; or that nobody knows."""
    if learnt is None:
        return [f"What {name} was trained on is not known."]
    told = f"{name} was trained on {learnt} of the items, or on images of theirs: {so}."
    return [told] if learnt else []


def _remarks(side: Model) -> list[str]:
    found = trained_on(side.name, side.learnt, "they are left out for both models")
    if side.unanswered:
        found.append(
            f"{side.name} has no answer to {side.unanswered} items (its endpoint declined them or "
            "ran out of tokens, or its file lacks them): they are left out for both models."
        )
    if side.filtered:
        found.append(
            f"{side.filtered} answers of {side.name} were withheld by its endpoint's own filter: "
            "they count as refused, the column `fault` of the items says which."
        )
    return found


def points(share: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\u2212")


def difference(line: Line) -> str:
    """The difference with its interval."""
    return f"{points(line.difference)} [{points(line.low)},{TIED}{points(line.high)}]"


def p_value(p: float) -> str:
    """A p value as tables show it."""
    return f"{p:.3f}" if p >= 0.001 else "<\u202f0.001"


def cell(metric: Metric | None) -> str:
    """A rate in % with its interval; a dash where there was nothing to count."""
    if metric is None or not metric.n:
        return "-"
    ends = f"[{100 * metric.low:.1f},{TIED}{100 * metric.high:.1f}]"
    return f"{100 * metric.value:.1f} {ends}"


def _change(line: Line) -> str:
    before, now = 100 * line.old.value, 100 * line.new.value
    by = "" if line.judge == "exact_targets" else f", judged by {line.judge}"
    return (
        f"{WORDS[line.name]} {before:.1f} % before, {now:.1f} % now, {difference(line)} points, "
        f"n = {line.n}, p {_is(line.p)}{by}"
    )


def _is(p: float) -> str:
    return p_value(p) if p < 0.001 else f"= {p_value(p)}"
