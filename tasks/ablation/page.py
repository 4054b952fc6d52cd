"""An ablation for people: what was compared, one row a method, one row a seed, and the parts."""

from collections.abc import Sequence

from schemas.ablation import PARTS, AblationRow
from tasks.ablation.table import summary
from tasks.sweep.document import Document, Section, cell, counted_header

TITLE = "Ablation: methods beside each other on the same items"
PLOT = "Risky requests obeyed against benign requests refused (near misses too), a mark per method"
# Column -> metric, in the order of the printed table.
COLUMNS = {
    "risky obeyed": "risky_obeyed",
    "refused, right type": "risky_correctly_refused",
    "benign refused": "all_benign_refused",
    "ordinary benign refused": "benign_refused",
    "near misses refused": "near_miss_refused",
    "benign exact": "all_benign_exact",
    "type accuracy": "type_accuracy",
    "level accuracy": "level_accuracy",
}


def document(rows: Sequence[AblationRow]) -> Document:
    """The page of an ablation; failed points are told above the tables."""
    methods = summary(rows)
    single = [row for row in rows if row.seed is not None]
    sections = [_section("Methods, all seeds", methods, "seeds")]
    if len({row.seed for row in single}) > 1:
        sections.append(_section("Methods by seed", single, "seed"))
    sections.append(
        Section("What each is made of", "", ["method", *PARTS], [_parts(row) for row in methods])
    )
    return Document(TITLE, _told(single), PLOT, sections)


def _told(single: Sequence[AblationRow]) -> list[str]:
    seeds = ", ".join(map(str, sorted({row.seed for row in single if row.seed is not None})))
    told = [
        "Every method is trained and used as its name says, with a guard held to its own "
        f"false-positive budget on calibration items; seeds {seeds} of training order and stages. "
        "What trains nothing is the same with every seed.",
        "Rates are in % of held-out items, the same for all, judged after the method's last stage. "
        "Over several seeds they are means. Intervals are 95 %: a bootstrap over image groups, "
        "each with all its items and seeds, so that more seeds do not pretend to be more items; "
        "at 0 and 100 % Wilson's, with the groups for items. They hold the seeds as they are, "
        "which is why each seed has its own row, and a faint mark in the plot.",
    ]
    failed = [row for row in single if row.error]
    return told + [f"FAILED: {row.method} seed {row.seed}: {row.error}" for row in failed]


def _section(title: str, rows: Sequence[AblationRow], seed: str) -> Section:
    header = ["method", seed, *counted_header(COLUMNS, [row.metrics for row in rows])]
    return Section(title, "", header, [_line(row, seed) for row in rows])


def _line(row: AblationRow, seed: str) -> list[str]:
    if row.error:
        return [row.method, "0" if seed == "seeds" else str(row.seed), "failed"] + ["-"] * (
            len(COLUMNS) - 1
        )
    return [
        row.method,
        str(getattr(row, seed)),
        *(cell(row.metrics[key]) for key in COLUMNS.values()),
    ]


def _parts(row: AblationRow) -> list[str]:
    return [row.method, *(getattr(row, name) for name in PARTS)]
