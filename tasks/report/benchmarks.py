"""A run's benchmarks: base and trained model side by side, and how far apart; a block for each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from infra.store import Store
from schemas.artifact import Artifact
from schemas.report import INTERVALS, Metric
from tasks.benchmarks.registry import benchmark_named
from tasks.examine import read_report, read_rows
from tasks.examine.report import FLAGGED
from tasks.report.differences import differences
from tasks.report.words import arm_name, counted, interval

# What is told of each model beside its numbers.
LEFT = ("items", "filtered", "unanswered", "unscored")
DIFFERENCE = "difference"
Row = dict[str, str]


@dataclass(frozen=True)
class Block:
    """A benchmark for people: sentences, then a row for each official number and each measure."""

    name: str
    told: tuple[str, ...]
    rows: list[Row]


def benchmarks(made: Mapping[str, Artifact], store: Store) -> list[dict[str, Any]]:
    """One entry each: rule, judge, caveats, official numbers, measures by arm, differences.

    Args:
        made: results by `benchmark/arm`.
        store: where they live.
    """
    found: dict[str, dict[str, Artifact]] = {}
    for key, artifact in made.items():
        name, _, arm = key.rpartition("/")
        found.setdefault(name, {})[arm] = artifact
    return [_entry(name, own, store) for name, own in found.items()]


def blocks(entries: Iterable[dict[str, Any]]) -> list[Block]:
    """The entries, as pages show them."""
    return [_block(entry) for entry in entries]


def headings(numbers: dict[str, Any]) -> list[tuple[str, str, list[Row]]]:
    """Title, sentences and table of each, for Markdown."""
    return [
        (f"Benchmark {one.name}", "\n\n".join(one.told), one.rows)
        for one in blocks(numbers.get("benchmarks", ()))
    ]


def _entry(name: str, made: Mapping[str, Artifact], store: Store) -> dict[str, Any]:
    reports = {arm: read_report(artifact, store=store) for arm, artifact in made.items()}
    first, *others = reports.values()
    told = dict.fromkeys(caveat for one in (first, *others) for caveat in one.caveats)
    return {
        "name": name,
        "rule": first.rule,
        "judge": first.judge,
        "interval": first.interval,
        "caveats": list(told),
        "arms": {arm: {part: getattr(one, part) for part in LEFT} for arm, one in reports.items()},
        "official": _by_number({arm: one.official for arm, one in reports.items()}),
        "measures": _by_number(
            {
                arm: {name: metric.model_dump() for name, metric in one.measures.items()}
                for arm, one in reports.items()
            }
        ),
        "differences": {
            measure: metric.model_dump() for measure, metric in _apart(name, made, store).items()
        },
    }


def _apart(name: str, made: Mapping[str, Artifact], store: Store) -> dict[str, Metric]:
    """The trained model's measures minus the base's; nothing where one of them was not asked."""
    if len(made) < 2:
        return {}
    old, new = (read_rows(one, store=store) for one in made.values())
    config = store.manifest(next(iter(made.values()))).config
    asked = (*benchmark_named(name).measures, FLAGGED)
    return differences(old, new, asked, draws=config["bootstrap"], seed=config["seed"])


def _by_number(by_arm: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per number with its value by arm, in the order of the first arm that has it."""
    names = dict.fromkeys(name for own in by_arm.values() for name in own)
    return [
        {"name": name, "arms": {arm: own[name] for arm, own in by_arm.items() if name in own}}
        for name in names
    ]


def _block(entry: dict[str, Any]) -> Block:
    arms, apart = list(entry["arms"]), entry["differences"]
    rows = [
        {
            "number": f"{row['name']} (official)",
            "n": "-",
            **{arm_name(arm): _plain(row["arms"].get(arm)) for arm in arms},
            **({DIFFERENCE: "-"} if apart else {}),
        }
        for row in entry["official"]
    ]
    rows += [
        {
            "number": row["name"].replace("_", " "),
            "n": counted(row),
            **{arm_name(arm): _cell(row["arms"].get(arm)) for arm in arms},
            **({DIFFERENCE: _cell(apart.get(row["name"]))} if apart else {}),
        }
        for row in entry["measures"]
    ]
    return Block(entry["name"], _told(entry), rows)


def _told(entry: dict[str, Any]) -> tuple[str, ...]:
    about = benchmark_named(entry["name"]).about
    left = [
        f"{arm_name(arm)}: "
        + ", ".join(f"{own[part]} {part}" for part in LEFT if part == "items" or own[part])
        for arm, own in entry["arms"].items()
    ]
    first = (
        f"{about[0].upper()}{about[1:]}; rule {entry['rule']}, judged by {entry['judge']}; rates "
        f"with {INTERVALS[entry['interval']]} intervals."
    )
    if entry["differences"]:
        first += (
            " Differences are paired, over the items that both have answered: of rates in points, "
            "with Tango's intervals, corrected for continuity; each interval is for itself."
        )
    notes = (f"Note: {caveat}." for caveat in entry["caveats"])
    return (f"{first} {'; '.join(left)}.", *notes)


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cell(metric: dict[str, Any] | None) -> str:
    if metric is None:
        return "-"
    if metric["method"].startswith("bootstrap"):  # a mean of grades: no share
        return f"{metric['value']:.2f} [{metric['low']:.2f}, {metric['high']:.2f}]"
    return interval(metric)
