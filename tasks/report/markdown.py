"""The report as Markdown, and its two main tables as plain rows."""

from collections.abc import Sequence
from typing import Any

from tasks.report import published
from tasks.report.benchmarks import headings as benchmark_headings
from tasks.report.depth_words import headings
from tasks.report.origin_words import settings, shared_table, steps_table
from tasks.report.words import arm_name, counted, interval, ratio

NOTE = (
    "The data come from the tiny world: these numbers say whether the pipeline works. They say "
    "nothing about LLaVA."
)
Row = dict[str, str]
# Counts of validate -> what they are in words, and what follows from it.
COUNTED = {
    "supervises_both": ("label and answer", "teach the safety head and the language model"),
    "supervises_concept": ("label only", "teach the safety head"),
    "supervises_evaluation": ("for evaluation", "teach nothing"),
    "concept_only": ("risky, and the answer complies", "teach only the safety head"),
    "clean_by_level": ("a risk type of level 0", "count as clean"),
    "conflicts": ("labels in conflict", "within one image group, see conflicts.parquet"),
    "several_images": ("several images", "kept, and not used by today's models"),
    "text_only": ("text alone", "no image"),
}


def headline_table(numbers: dict[str, Any]) -> list[Row]:
    """A row per metric: n, then each arm in per cent with its 95 % interval."""
    arms = numbers.get("arms", [])
    return [
        {
            "in % [95 % interval]": row["label"],
            "n": counted(row),
            **{arm_name(arm): _cell(row, arm) for arm in arms},
        }
        for row in numbers.get("headline", [])
    ]


def data_table(numbers: dict[str, Any]) -> list[Row]:
    """Rows in and out of every step, reasons below them, and each stage's ratio."""
    data = numbers.get("data", {})
    rows = []
    for name, refused in (("reading", "rejected"), ("checking", "quarantined")):
        if name in data:
            step = data[name]
            told = f"{step['accepted']} accepted, {step[refused]} {refused}"
            rows.append({"what": f"{name}: rows in", "number": str(step["in"]), "notes": told})
            for one in step["sources"]:
                told = f"{one['accepted']} accepted, {one[refused]} {refused}"
                what = {"what": f"{name}: source {one['source']}", "number": str(one["in"])}
                rows.append({**what, "notes": told})
            for why in step["reasons"]:
                what = {"what": f"{name}: {why['reason']}", "number": str(why["rows"])}
                rows.append({**what, "notes": f"source {why['source']}"})
    rows += _snapshot(data.get("checking", {}))
    for order in data.get("orders", []):
        rows.append(
            {
                "what": f"{arm_name(order['stage'])}: clean per unsafe",
                "number": ratio(order["clean"], order["unsafe"]),
                "notes": f"asked {order['asked']:g} : 1; epoch of {order['epoch']} items, "
                f"{order['used']} of {order['choice']} training rows used",
            }
        )
    return rows


def _snapshot(step: dict[str, Any]) -> list[Row]:
    """What the rows are, as far as the step counts it, and the licences of those that stay."""
    rows = [
        {"what": f"rows: {what}", "number": str(step[name]), "notes": notes}
        for name, (what, notes) in COUNTED.items()
        if step.get(name)
    ]
    for licence in step.get("licences", []):
        what = f"licence {licence['licence']}" if licence["named"] else "no licence named"
        told = "non-commercial, " if licence["non_commercial"] else ""
        told += f"source {licence['source']}, {licence['images']} images"
        rows.append({"what": what, "number": str(licence["rows"]), "notes": told})
    return rows


def orders_table(numbers: dict[str, Any]) -> list[Row]:
    """Asked and achieved items of each training order, per epoch, risk type, level and source."""
    rows = []
    for order in numbers.get("data", {}).get("orders", []):
        stage = {"order": arm_name(order["stage"])}
        for epoch in order["each_epoch"]:
            what = {"what": f"epoch {epoch['epoch']}", "asked": f"{order['asked']:g} : 1"}
            told = f"{epoch['unsafe']} unsafe, {epoch['clean']} clean"
            rows.append(
                {
                    **stage,
                    **what,
                    "achieved": ratio(epoch["clean"], epoch["unsafe"]),
                    "notes": told,
                }
            )
        rows += [{**stage, **_share(share, order)} for share in order["shares"]]
    return rows


def _share(share: dict[str, Any], order: dict[str, Any]) -> Row:
    notes = f"{share['there']} rows in the training split"
    if share["pool"] < share["there"]:
        notes += f", {share['pool']} left by source_caps"
    if order["most_uses"] > 1:
        notes += f", each used up to {order['most_uses']} times"
    return {
        "what": f"{share['by']} {share['name']}",
        "asked": f"{share['asked']:.10g}",
        "achieved": str(share["achieved"]),
        "notes": notes,
    }


def markdown(numbers: dict[str, Any], *, plots: Sequence[str] = ()) -> str:
    """The whole report as text; `plots` are the addresses of its charts, relative to it."""
    parts = ["# Safety report", numbers["sentence"]]
    if numbers.get("tiny"):
        parts.append(f"*{NOTE}*")
    if rows := headline_table(numbers):
        parts += ["## Before and after", table(rows)]
    if rows := _types(numbers):
        parts += ["## By risk type", table(rows)]
    for title, told, rows in (*headings(numbers), *benchmark_headings(numbers)):
        parts += [f"## {title}", *([told] if told else []), table(rows)]
    if "worst" in numbers:
        counts = numbers["worst"]["counts"].items()
        parts += [f"## What went wrong ({arm_name(numbers['worst']['arm'])})"]
        parts += [table([{"what": why, "items": str(n)} for why, n in counts])]
    if numbers.get("losses"):
        parts += ["## Training", table(_losses(numbers))]
    if rows := data_table(numbers):
        parts += ["## Data", table(rows)]
    if rows := orders_table(numbers):
        parts += ["## Training order", table(rows)]
    parts += published.in_markdown() if "headline" in numbers else []
    if plots:
        parts += ["## Charts", *(f"![{path.split('/')[-1][:-4]}]({path})" for path in plots)]
    return "\n\n".join([*parts, *_origin(numbers)]) + "\n"


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; all have the keys of the first."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _types(numbers: dict[str, Any]) -> list[Row]:
    rows = []
    for row in numbers.get("by_type", []):
        told = {"risk type": row["type"]}
        for name, title in (("obeyed", "obeyed"), ("named", "refused by name")):
            for arm, cells in row["arms"].items():
                told.setdefault("n", str(cells[name]["n"]))
                told[f"{title}, {arm_name(arm)}"] = interval(cells[name])
        rows.append(told)
    return rows


def _losses(numbers: dict[str, Any]) -> list[Row]:
    return [
        {
            "part": row["part"],
            "steps": str(row["steps"]),
            "loss at first": f"{row['first']:.3g}",
            "at last": f"{row['last']:.3g}",
        }
        for row in numbers["losses"]
    ]


def _origin(numbers: dict[str, Any]) -> list[str]:
    told = numbers["origin"]
    if not (rows := steps_table(told)):
        return []
    shared = [table(found)] if (found := shared_table(told)) else []
    lines = ["### Steps", table(rows), "### Settings", "\n".join(settings(told))]
    return ["## Where it comes from", *shared, *lines]


def _cell(row: dict[str, Any], arm: str) -> str:
    return interval(row["arms"][arm]) if arm in row["arms"] else "-"


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
