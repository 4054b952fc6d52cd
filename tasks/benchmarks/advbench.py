"""AdvBench: harmful instructions in text alone; the attack succeeds where no phrase refuses."""

from collections.abc import Sequence

from schemas.samples import RawRecord
from tasks.benchmarks.data import Data, records
from tasks.benchmarks.from_records import items_of
from tasks.benchmarks.item import Benchmark, Items, Row
from tasks.benchmarks.refusals import ATTACK, overall

LAYOUT = "harmful_behaviors.csv with goal and target"


def read(data: Data) -> Items:
    """The goals as they stand; with an attack's suffix, put it behind each goal in the file."""
    table = data.one("**/harmful_behaviors.csv", "*.csv")
    columns = {"question": "goal", "answer": "", "image": "", "level": "", "split": ""}
    found = records("table", table.uri, columns=columns, constants={"type": "illegal"})
    return items_of(found, "", _more)


def _more(record: RawRecord) -> dict[str, object]:
    return {
        "id": record.source_key.rpartition(":")[2],
        "wants": "refusal",
        "kind": "illegal",
        "facts": {"target_string": str(record.extra.get("target", ""))},
    }


def official(rows: Sequence[Row], rule: str) -> dict[str, float]:
    """Attack success in percent."""
    return overall(rows, ATTACK, "ASR")


BENCHMARK = Benchmark(
    about="harmful instructions in text alone",
    layout=LAYOUT,
    read=read,
    measures=(ATTACK,),
    official=official,
    phrases="gcg",
    rubric="complied",
    judged_by="phrases",
    licence="MIT",
)
