"""A sweep for people: the same tables as Markdown and as one self-contained HTML page."""

from collections.abc import Sequence
from pathlib import Path

from schemas.sweep import MATCHED, POINTS, STAGES, SweepParameters, SweepRow
from tasks.sweep.document import (
    TIED,
    Document,
    Section,
    as_html,
    as_markdown,
    cell,
    counted_header,
)
from tasks.sweep.papers import BENCHMARKS, REMARK, RISKY, papers_rows
from tasks.sweep.plot import LAYOUTS, STAGE_NAMES, point_title

TITLE = "Ratio sweep: clean to unsafe items in training"
PLOT = (
    "Risky requests obeyed and benign requests refused over the ratio, by stage and operating point"
)
# Column -> metric, in the order of the printed table.
COLUMNS = {
    "risky obeyed": "risky_obeyed",
    "benign refused": "all_benign_refused",
    "ordinary benign refused": "benign_refused",
    "near misses refused": "near_miss_refused",
    "benign exact": "all_benign_exact",
    "refused, right type": "risky_correctly_refused",
    "guard false positives": "guard_false_positive",
    "guard misses": "guard_missed",
    "type accuracy": "type_accuracy",
}


def markdown_page(rows: Sequence[SweepRow], sweep: SweepParameters) -> str:
    """Title, what was compared, the plot beside the page, a table per stage and operating point."""
    return as_markdown(_document(rows, sweep))


def html_page(rows: Sequence[SweepRow], sweep: SweepParameters, folder: Path) -> str:
    """The page with the plots of `folder` inside it; nothing is loaded from elsewhere."""
    return as_html(_document(rows, sweep), LAYOUTS, folder)


def _document(rows: Sequence[SweepRow], sweep: SweepParameters) -> Document:
    return Document(TITLE, _told(rows, sweep), PLOT, _sections(rows, sweep))


def _told(rows: Sequence[SweepRow], sweep: SweepParameters) -> list[str]:
    """What was compared, in sentences; failed points last."""
    whole = [row for row in rows if row.seed is None]
    sizes = sorted({(row.unsafe_items or 0) + (row.clean_items or 0) for row in whole})
    steps = ", ".join(
        f"{row.steps} in stage {row.stage[-1]}"
        for row in {row.stage: row for row in whole}.values()
    )
    rate = f"{100 * sweep.false_positive_rate:g} %"
    told = [
        f"Every ratio trains on equally many items ({'/'.join(map(str, sizes))} an epoch) and for "
        f"equally many steps ({steps}); seeds {', '.join(map(str, sweep.seeds))}. Rates are in % "
        "of held-out items, which are the same for all, with 95 % intervals.",
        "Two operating points. Uncalibrated: the papers' way, temperatures 1 and threshold 0.5; it "
        "shows what the ratio does. Matched: the guard's threshold is set so that it flags at most "
        f"{rate} of the benign items, the same for every ratio; it is set on the evaluated items "
        "themselves, so it compares models and is no forecast of a rate in use.",
    ]
    failed = [row for row in rows if row.error]
    return told + [f"FAILED: ratio {r.ratio:g} seed {r.seed}: {r.error}" for r in failed]


def _sections(rows: Sequence[SweepRow], sweep: SweepParameters) -> list[Section]:
    sections = []
    for stage in STAGES:
        for point in POINTS:
            own = [r for r in rows if (r.stage, r.point) == (stage, point) and r.seed is None]
            if own:
                title = f"{STAGE_NAMES[stage]}, {point_title(point, sweep)}"
                sections.append(
                    _section(title[0].upper() + title[1:], own, matched=point == MATCHED)
                )
    title = "Not comparable: the papers' own sweep of stage 1"
    header = ["clean items", f"per unsafe ({RISKY:,})", *BENCHMARKS]
    return [*sections, Section(title, REMARK, header, papers_rows())]


def _section(title: str, rows: Sequence[SweepRow], *, matched: bool) -> Section:
    header = ["clean : unsafe", "items", "Pareto"]
    header += counted_header(COLUMNS, [row.metrics for row in rows])
    lines = [
        [
            f"{row.ratio:g} ({row.ratio_achieved:.3g})",
            f"{row.clean_items}{TIED}:{TIED}{row.unsafe_items}",
            "yes" if row.pareto else "no",
            *(cell(row.metrics[key]) for key in COLUMNS.values()),
        ]
        for row in rows
    ]
    seeds = sorted({row.seeds for row in rows})
    remark = "Ratio asked (and achieved)."
    if seeds != [1]:
        remark += f" Means over {'/'.join(map(str, seeds))} seeds; each seed is in sweep.csv."
    elif matched:
        remark += (
            " Thresholds: " + ", ".join(f"{r.ratio:g} at {r.threshold:.3g}" for r in rows) + "."
        )
    return Section(title, remark, header, lines)
