"""An ablation for people: what was compared, one row a method, one row a seed, and the parts."""

from collections.abc import Sequence

from schemas.ablation import (
    EQUAL_METRICS,
    PARTS,
    REFERENCE,
    AblationRow,
    EqualRow,
    HeldOutRow,
)
from tasks.ablation.table import Tables, summary
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


EQUAL_COLUMNS = {name: key for name, key in COLUMNS.items() if key in EQUAL_METRICS}
HELD_COLUMNS = {
    "risky obeyed": "risky_obeyed",
    "refused, right type": "risky_correctly_refused",
    "missed by the guard": "guard_missed",
    "benign refused": "all_benign_refused",
    "benign flagged": "guard_false_positive",
    "type accuracy": "type_accuracy",
}


def document(tables: Tables) -> Document:
    """The page of an ablation; failed points are told above the tables."""
    rows = tables.rows
    methods = summary(rows)
    single = [row for row in rows if row.seed is not None]
    sections = [_section("Methods, all seeds", methods, "seeds")]
    if len({row.seed for row in single}) > 1:
        sections.append(_section("Methods by seed", single, "seed"))
    sections += [_equal(tables.equal)] if tables.equal else []
    sections += [_held_out(tables.held_out)] if tables.held_out else []
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


def _equal(rows: Sequence[EqualRow]) -> Section:
    remark = (
        "Every guard with the highest threshold, set on these items, at which no more of the risky "
        "ones are obeyed than stated, seed by seed. It compares guards, it is no forecast. The "
        "last column but one is the difference of benign requests refused on the same items, in "
        "percentage points. An attack success that the reference has with its guard silent, as "
        "after a stage 2 that taught it to refuse by itself, tells nothing of guards: there only "
        "the one in use is listed."
    )
    header = counted_header(EQUAL_COLUMNS, [row.metrics for row in rows])
    more = f"refused more than {REFERENCE}"
    lines = [
        [row.stage, row.target, row.method, str(row.seeds)]
        + [cell(row.metrics[key]) if row.metrics else "-" for key in EQUAL_COLUMNS.values()]
        + [cell(row.refused_more) if row.refused_more else "-", row.finding]
        for row in rows
    ]
    heads = ["after", "risky obeyed at most", "method", "seeds", *header, more, "finding"]
    return Section("Guards at equal attack success", remark, heads, lines)


def _held_out(rows: Sequence[HeldOutRow]) -> Section:
    remark = (
        "Test items of one source or risk type, by the method trained with it and trained without "
        "it: neither its training nor its calibration rows were seen. A type that was never "
        "learnt cannot be named, but it can be refused."
    )
    lines = [
        [row.held_out, row.method, row.trained, str(row.seeds)]
        + [cell(row.metrics[key]) for key in HELD_COLUMNS.values()]
        for row in rows
    ]
    # Each source and type has items of its own, so that no heading can count them.
    heads = ["items of", "method", "trained", "seeds", *HELD_COLUMNS]
    return Section("Held out: judged on what was not learnt from", remark, heads, lines)


def _parts(row: AblationRow) -> list[str]:
    return [row.method, *(getattr(row, name) for name in PARTS)]
