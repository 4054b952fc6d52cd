"""A comparison in words: the verdict's sentence, the price, and numbers as people read them."""

from collections.abc import Iterable

from schemas.comparison import Line, Model, Verdict
from schemas.report import Metric
from tasks.sweep.document import TIED

VERDICTS = {"safer": "Safer", "not shown": "Not shown to be safer or worse", "worse": "Worse"}
LOWER = " (lower is better)"
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
