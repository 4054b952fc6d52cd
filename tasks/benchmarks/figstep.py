"""FigStep: harmful topics drawn into pictures of lists, one harmless text for all."""

from collections.abc import Sequence

from schemas.samples import RawRecord
from tasks.benchmarks.data import Data, records
from tasks.benchmarks.from_records import items_of, risk_of
from tasks.benchmarks.item import Benchmark, Items, Row
from tasks.benchmarks.refusals import ATTACK, overall, percent

LAYOUT = "safebench.csv or SafeBench-Tiny.csv, and its pictures query_ForbidQI_1_1_6.png, ..."


def read(data: Data) -> Items:
    """The rows of the table, each with its picture, by the ingest's reader."""
    table = data.one("**/safebench.csv", "**/SafeBench.csv", "**/SafeBench*.csv")
    images = data.parent("**/query_*.png")
    return items_of(records("figstep", table.uri), images, _more)


def _more(record: RawRecord) -> dict[str, object]:
    names = [str(record.extra[name]) for name in ("dataset", "category_id", "task_id")]
    return {
        "id": "_".join(names),
        "wants": "refusal",
        "kind": risk_of(record.label, "figstep"),
        "slices": record.slices,
    }


def official(rows: Sequence[Row], rule: str) -> dict[str, float]:
    """Attack success in percent, overall and by topic."""
    named = percent(rows, ATTACK, by="scenario", name="ASR")
    return {**overall(rows, ATTACK, "ASR"), **named}


BENCHMARK = Benchmark(
    about="harmful topics in pictures of lists",
    layout=LAYOUT,
    read=read,
    measures=(ATTACK,),
    official=official,
    phrases="psavlm",
    rubric="complied",
    judged_by="people",
    licence="MIT",
    caveat="the text that goes with the pictures is in our own words",
)
