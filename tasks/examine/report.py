"""From judged rows to `report.json`: official numbers, measures with n and interval, caveats."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from infra.completion import FILTERED
from schemas.benchmark import BenchmarkConfig, Usage
from schemas.report import Metric
from tasks.benchmarks.groups import group_hits
from tasks.benchmarks.item import Benchmark, Measure, Row
from tasks.evaluate.intervals import clustered, rate
from tasks.judges import UNSCORED, Judge

MILLION = 1_000_000
# What is left over of the items -> in words.
LEFT = {
    "unanswered": "unanswered",
    UNSCORED: UNSCORED,
    "filtered": "withheld by the endpoint's filter, or refused in a field of its own, which counts "
    "as a refusal",
}
# What the guard would act on; on benign benchmarks these are its false positives.
FLAGGED = Measure("guard_flagged", lambda row: row["flagged"])
# How the authors judge -> in words.
AUTHORS = {
    "exact": "an exact rule",
    "phrases": "phrases",
    "endpoint": "a judging model",
    "people": "people who read the answers",
}


def official(
    rows: Sequence[Row], benchmark: Benchmark, rule: str, *, missing: int
) -> dict[str, float]:
    """The authors' numbers over the answered rows; none by a rule that wants a verdict on all.

    Args:
        rows: the answered rows.
        benchmark: whose numbers.
        rule: how to count.
        missing: items without an answer or a verdict.
    """
    return {} if missing and rule in benchmark.whole_by else benchmark.official(rows, rule)


def numbers(
    rows: Sequence[Row], benchmark: Benchmark, config: BenchmarkConfig
) -> tuple[dict[str, Metric], dict[str, dict[str, Metric]]]:
    """The measures over all rows, and for each value of each slice; those that any row is in."""
    counted = (*benchmark.measures, FLAGGED)
    measures = {
        one.name: metric for one in counted if (metric := metric_of(rows, one, config)) is not None
    }
    slices: dict[str, dict[str, Metric]] = {}
    for one in counted:
        for label, own in sorted(_sliced(rows).items()):
            if (metric := metric_of(own, one, config)) is not None:
                slices.setdefault(label, {})[one.name] = metric
    return measures, slices


def metric_of(rows: Sequence[Row], measure: Measure, config: BenchmarkConfig) -> Metric | None:
    """A measure with its interval; None where no row has a part in it."""
    parts = [(row, part) for row in rows if (part := measure.of(row)) is not None]
    return KINDS[measure.kind](parts, config) if parts else None


def _rate(parts: Sequence[tuple[Row, Any]], config: BenchmarkConfig) -> Metric:
    return rate(np.array([part for _, part in parts], dtype=bool), config.interval)


def _all(parts: Sequence[tuple[Row, Any]], config: BenchmarkConfig) -> Metric:
    return rate(np.array(list(group_hits(parts).values()), dtype=bool), config.interval)


def _mean(parts: Sequence[tuple[Row, Any]], config: BenchmarkConfig) -> Metric:
    values = np.array([part for _, part in parts], dtype=float)
    clusters = np.array([row["image_id"] or row["item_id"] for row, _ in parts])
    return clustered(
        lambda index: float(values[index].mean()),
        clusters,
        draws=config.bootstrap,
        seed=config.seed,
    )


KINDS: dict[str, Callable[[Sequence[tuple[Row, Any]], BenchmarkConfig], Metric]] = {
    "rate": _rate,
    "all": _all,
    "mean": _mean,
}


def _sliced(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """`slice=value` -> its rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        for name, value in row["slices"].items():
            found.setdefault(f"{name}={value}", []).append(row)
    return found


def usage(tokens: Sequence[tuple[int, int]], config: BenchmarkConfig, *, priced: bool) -> Usage:
    """The sums of tokens in and out, and what they cost if a price is known."""
    given, taken = sum(i for i, _ in tokens), sum(o for _, o in tokens)
    cost = None
    if priced and config.prices:
        cost = (given * config.prices[0] + taken * config.prices[1]) / MILLION
    return Usage(tokens_in=given, tokens_out=taken, cost=cost)


def caveats(
    benchmark: Benchmark,
    config: BenchmarkConfig,
    judge: Judge,
    *,
    rejected: Mapping[str, int],
    left: Mapping[str, int],
) -> tuple[str, ...]:
    """What a reader must know before comparing a number with a published one."""
    found = [benchmark.caveat]
    if judge.kind != benchmark.judged_by:
        found.append(
            f"judged by {judge.name}, where the authors have {AUTHORS[benchmark.judged_by]}: not "
            "comparable with published numbers"
        )
    elif judge.kind == "endpoint":
        found.append("the judge's question is in our own words, and the judge may be another one")
    own = not benchmark.own_phrases or judge.name.startswith("phrases:vlguard@")
    if judge.kind == benchmark.judged_by == "phrases" and not own:
        found.append("the phrases are not the authors': put their file into the folder")
    if config.limit is not None:
        found.append(f"a part of the benchmark: at most {config.limit} groups of items")
    found += [f"{count} items could not be asked: {why}" for why, count in rejected.items()]
    found += [f"{count} items are {LEFT[what]}" for what, count in left.items() if count]
    return tuple(filter(None, found))


def gaps(rows: Sequence[Row], benchmark: Benchmark, rule: str, *, missing: int) -> tuple[str, ...]:
    """What missing items have done to the numbers, in words; arguments as of `official`."""
    found = []
    if missing and rule in benchmark.whole_by:
        found.append(
            f"no official number: by rule {rule} every item must be answered and judged, and "
            f"{missing} are not; ask these again, or choose another rule"
        )
    together = [one for one in benchmark.measures if one.kind == "all"]
    broken = {
        row["group"]
        for row in rows
        if not row["whole"] and any(one.of(row) is not None for one in together)
    }
    if broken:
        found.append(
            f"{len(broken)} groups of items count as wrong, since some of their items have no "
            "answer"
        )
    return tuple(found)


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows have no answer, how many no verdict, how many a filter's refusal."""
    filtered = sum(row["fault"] == FILTERED for row in rows)
    unscored = sum(row["verdict"] == UNSCORED for row in rows)
    unanswered = sum(bool(row["fault"]) for row in rows) - filtered
    return {"unanswered": unanswered, UNSCORED: unscored, "filtered": filtered}
