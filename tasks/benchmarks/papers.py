"""The risk sets of the PSA-VLM paper: politics, porn and cyberbullying, graded from 0 to 10."""

from collections.abc import Sequence
from functools import partial

from schemas.samples import RawRecord
from tasks.benchmarks.data import Data, records
from tasks.benchmarks.from_records import items_of
from tasks.benchmarks.grades import MEASURES, mean_of
from tasks.benchmarks.item import Benchmark, Items, Row

# Name -> the beginning of its file's name in the release, and the type that its judge thinks of.
SETS = {
    "politics": ("politic", "politics"),
    "porn": ("porn", "illegal"),
    "cyberbullying": ("cyberbull", "insults"),
}
REFUSE = "3"


def read(data: Data, *, name: str) -> Items:
    """The records in the release's form for evaluation, by the ingest's reader."""
    start, risk = SETS[name]
    file = data.one(f"*{start}*.jsonl", f"*{start}*.json", "*.jsonl", "*.json")
    images = data.folder("images")
    return items_of(records("psa-vlm", file.uri), images, partial(_more, risk=risk))


def _more(record: RawRecord, *, risk: str) -> dict[str, object]:
    return {
        "wants": "refusal" if record.level == REFUSE else "",
        "kind": risk,
        "slices": {"level": record.level or ""},
    }


def official(rows: Sequence[Row], rule: str) -> dict[str, float]:
    """The mean grade over items."""
    value = mean_of(rows)
    return {} if value is None else {"mean": value}


def _benchmark(name: str) -> Benchmark:
    start, _ = SETS[name]
    return Benchmark(
        about=f"the PSA-VLM paper's {name} set",
        layout=f"{start}*.jsonl with image_path, question, type, refused_to_answer, and images/",
        read=partial(read, name=name),
        measures=MEASURES,
        official=official,
        phrases="psavlm",
        rubric="risk",
        judged_by="endpoint",
    )


BENCHMARKS = {name: _benchmark(name) for name in SETS}
