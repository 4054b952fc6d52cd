"""A comparison for people: verdict and price first, then every table behind them."""

from collections.abc import Sequence
from typing import Any

from infra.store import Store
from schemas.artifact import Artifact
from schemas.comparison import Comparison, Line, Past
from schemas.report import INTERVALS
from tasks.compare.words import (
    VERDICTS,
    cell,
    difference,
    p_value,
    points,
    remarks,
    short,
    trained_on,
)
from tasks.report.benchmarks import blocks
from tasks.sweep.document import Document, Section
from tasks.sweep.files import percent

PLOT = (
    "Differences between the two models in points, each with its 95 % interval; an arrow says "
    "which way is better"
)
JSON = "compare.json"
PAST_PLOT = "Risky requests obeyed and benign ones refused by version, with 95 % intervals"
HEADER = [
    "rate", "n", "old, %", "new, %", "difference, points", "p", "p, Holm", "shown",
]  # fmt: skip
COLUMNS = {
    "risky obeyed": "risky_obeyed",
    "refused, right type": "risky_correctly_refused",
    "benign refused": "benign_refused",
    "near misses refused": "near_miss_refused",
    "benign exact": "benign_exact",
}


def document(told: Comparison) -> Document:
    """The page of two models."""
    title = f"{told.verdict}: {told.new.name} against {told.old.name}"
    return Document(title, _told(told), PLOT, _sections(told))


def table_for_page(artifact: Artifact, *, store: Store) -> list[dict[str, Any]]:
    """The rates of all items, in %, a dict each."""
    found = Comparison.model_validate_json((store.local(artifact) / JSON).read_bytes())
    return [
        {
            "rate": line.what,
            "n": line.n,
            "old": percent(line.old.value),
            "new": percent(line.new.value),
            "difference": difference(line),
            "p, Holm": p_value(line.p_holm),
            "shown": line.mark or "no",
        }
        for line in found.rates
    ]


def past_document(past: Past) -> Document:
    """The page of all registered versions."""
    there = [version for version in past.versions if version.metrics]
    header = ["version", "registered", "model", *(f"{name}, %" for name in COLUMNS)]
    header += ["risky obeyed against the version above, points", "p, Holm"]
    lines = []
    for version in past.versions:
        name = f"{version.version} {' '.join(version.aliases)}".strip()
        head = [name, version.created[:16].replace("T", " "), version.model]
        if not version.metrics:
            lines.append([*head, version.error or "-", *["-"] * (len(COLUMNS) + 1)])
            continue
        rates = [cell(version.metrics.get(key)) for key in COLUMNS.values()]
        before = version.before
        lines.append(
            [*head, *rates, *([difference(before), p_value(before.p_holm)] if before else "--")]
        )
    told = [
        f"{len(there)} of {len(past.versions)} registered versions answered the same {past.n} "
        f"held-out items of {past.labelled}. Rates have {INTERVALS[past.interval]} intervals, "
        "exact answers a bootstrap over images; differences between neighbours are paired "
        "(Tango's interval, exact sign test), p corrected by Holm for their number.",
    ]
    told += _judges(past)
    so = "its rates may flatter it, the differences leave these items out"
    told += [
        remark for one in there for remark in trained_on(f"version {one.version}", one.learnt, so)
    ]
    title = "All registered versions on common items"
    return Document(title, told, PAST_PLOT, [Section("Versions", "", header, lines)])


def _judges(past: Past) -> list[str]:
    """Whose numbers a page of versions shows, where several have judged."""
    first, *others = past.judges.items()
    if not others:
        return []
    listed = " and ".join(f"{count} judged by {name}" for name, count in others)
    return [f"The numbers are those of the {first[1]} items judged by {first[0]}; {listed} are not "
            "among them."]  # fmt: skip


def _told(told: Comparison) -> list[str]:
    return [
        told.sentence,
        told.price,
        f"Old: {told.old.name} ({told.old.answers}). New: {told.new.name} ({told.new.answers}). "
        f"Both answered the same {told.n} held-out items of {told.labelled}. "
        f"{remarks(told.old, told.new)}".rstrip(),
        f"{VERDICTS['safer']} or worse is said of risky requests obeyed alone, the one question "
        f"fixed beforehand, where the exact sign test (two-sided, level {told.alpha:g}) and the "
        f"whole interval agree. Rates have {INTERVALS[told.interval]} intervals; differences are "
        "paired, with Tango's score interval; items that share an image count for fewer by their "
        "design effect. In each table p is corrected by Holm for all its lines, and only what "
        "remains is marked; intervals are 95 % each, uncorrected.",
    ]


def _sections(told: Comparison) -> list[Section]:
    few = f" {told.left_out} slices with too few items are left out." if told.left_out else ""
    found = [
        _section("All items", "", told.rates),
        _section("Risky requests obeyed, by risk type", "Lower is better.", told.types),
        _section("By slice", f"Lower is better in all of them.{few}", told.slices),
    ]
    if told.means:
        lines = [
            [
                mean.what,
                str(mean.n),
                *_mean(mean.old, mean.new, macro=mean.name.startswith("macro")),
                *_mean(mean.difference, mean.low, mean.high, macro=mean.name.startswith("macro")),
            ]
            for mean in told.means
        ]
        remark = (
            "The first table weighs every item alike; the macro mean weighs every risk type alike, "
            "its 95 % interval combined from the types' own (MOVER). Lengths have a paired "
            "bootstrap over groups of items that share an image."
        )
        header = ["mean", "n", "old", "new", "difference", "low", "high"]
        found.append(Section("Means", remark, header, lines))
    header = ["items", "old answer", "new answer", "number"]
    lines = [[change.kind, change.old, change.new, str(change.n)] for change in told.changes]
    found.append(Section("What changed", "", header, lines))
    for one in blocks(told.benchmarks):
        title, told_of = f"Benchmark {one.name}", " ".join(one.told)
        found.append(Section(title, told_of, [*one.rows[0]], [[*row.values()] for row in one.rows]))
    return [section for section in found if section.lines]


def _section(title: str, remark: str, lines: Sequence[Line]) -> Section:
    judges = sorted({line.judge for line in lines})
    told = f"Judged by {' and by '.join(judges)}. {remark}".strip()
    rows = [
        [
            (line.what if "/" in line.name else short(line))
            + (f" ({line.judge})" if len(judges) > 1 else ""),
            str(line.n),
            cell(line.old),
            cell(line.new),
            difference(line),
            p_value(line.p),
            p_value(line.p_holm),
            line.mark or "no",
        ]
        for line in lines
    ]
    return Section(title, told, HEADER, rows)


def _mean(*values: float, macro: bool) -> list[str]:
    return [points(v).removeprefix("+") + " %" if macro else f"{v:.2f}" for v in values]
