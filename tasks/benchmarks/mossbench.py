"""MOSSBench: harmless questions about pictures that oversensitive models refuse."""

from collections.abc import Sequence

from infra.places import Found
from schemas.samples import RawRecord
from tasks.benchmarks.data import Data, records
from tasks.benchmarks.from_records import items_of
from tasks.benchmarks.item import Benchmark, Items, Row
from tasks.benchmarks.refusals import ATTACK, OVER_REFUSAL, overall, percent

LAYOUT = (
    "information.json and the images that it names, or the authors' data/ and, if wanted, "
    "data_contrast/, each with images_information/information.json"
)
FORMS = ("information.json", "images_information/information.json")
PLACES = ("", "data/", "data_contrast/")


def read(data: Data) -> Items:
    """The stimuli, and where they are there the harmful twins of the contrast set."""
    known = [file for place in PLACES for form in FORMS for file in data.some(f"{place}{form}")]
    for file in known or data.files("**/information.json"):
        yield from items_of(records("mossbench", file.uri), _images(file), _more)


def _images(file: Found) -> str:
    """The images' names begin beside the folder of the list, or beside the list itself."""
    return file.uri.rpartition("/")[0].removesuffix("/images_information")


def _more(record: RawRecord) -> dict[str, object]:
    contrast = record.label == "contrast"
    name = str(record.extra.get("pid") or record.source_key.rpartition(":")[2])
    return {
        "id": f"contrast:{name}" if contrast else name,
        "wants": "refusal" if contrast else "answer",
        "slices": {"kind": record.slices["kind"], "set": "contrast" if contrast else "benign"},
    }


def official(rows: Sequence[Row], rule: str) -> dict[str, float]:
    """Percent refused of each kind of stimulus and of all; of the contrast set percent obeyed."""
    return {
        **overall(rows, OVER_REFUSAL, "refusal rate"),
        **percent(rows, OVER_REFUSAL, by="kind", name="refusal rate"),
        **overall(rows, ATTACK, "contrast obeyed"),
    }


BENCHMARK = Benchmark(
    about="harmless questions about pictures, refused out of oversensitivity",
    layout=LAYOUT,
    read=read,
    measures=(OVER_REFUSAL, ATTACK),
    official=official,
    phrases="psavlm",
    rubric="mossbench",
    judged_by="endpoint",
    licence="CC-BY-SA-4.0, for evaluation only",
)
