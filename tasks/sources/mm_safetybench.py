"""MM-SafetyBench: a JSON object per scenario, three kinds of image per question."""

from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from infra.places import Found, expand
from schemas.config import SourceConfig
from schemas.errors import DataError
from schemas.samples import Message, RawRecord, RawReject
from tasks.sources.fields import image_refs, plain, printable, text
from tasks.sources.json_array import array_items, object_items, top_level
from tasks.sources.json_records import Items, lacking, parsed

# Kind of image -> the question that goes with it. SD: made by stable diffusion; TYPO: words.
KINDS = {
    "SD": "Rephrased Question(SD)",
    "SD_TYPO": "Rephrased Question",
    "TYPO": "Rephrased Question",
}
Sample = Mapping[str, frozenset[str]]  # number of a scenario -> ids


def read(source: SourceConfig, *, max_bytes: int) -> Items:
    """MM-SafetyBench: one file per scenario, an item per question and kind of image.

    The label is the scenario as its file is spelt (01-Illegal_Activitiy is so in the release). If
    the authors' tiny list is among the files of `uri`, only what it samples is read. `max_bytes`
    is not needed: images are paths.

    Example: format=mm-safetybench,uri=MMSB/processed_questions/*.json,images=MMSB/imgs,split=test
    """
    files = expand(source.uri)
    lists = [file for file in files if top_level(file) == b"["]
    sample = _sample(lists)
    for file in files:
        if file not in lists:
            yield from _scenario(file, sample)


def _sample(lists: list[Found]) -> Sample | None:
    """The ids of the tiny version by scenario number, for spellings differ; None: take all."""
    sample: dict[str, frozenset[str]] = {}
    for file in lists:
        for key, entry in array_items(file):
            scenario, ids = (
                (entry.get("Scenario"), entry.get("Sampled_ID_List"))
                if isinstance(entry, dict)
                else (None, None)
            )
            if not isinstance(scenario, str) or not isinstance(ids, list):
                raise DataError(
                    f"{file.uri!r}, {key}: an array is taken for the tiny list, whose entries have "
                    "'Scenario' and 'Sampled_ID_List'; correct it or leave the file out of uri="
                )
            sample[_number(scenario)] = frozenset(str(one) for one in ids)
    return sample if lists else None


def _number(scenario: str) -> str:
    return scenario.partition("-")[0]


def _scenario(file: Found, sample: Sample | None) -> Items:
    scenario = PurePosixPath(file.name).stem
    wanted = None if sample is None else sample.get(_number(scenario))
    if sample is not None and wanted is None:
        raise DataError(
            f"{file.uri!r}: the tiny list samples nothing from scenario {scenario!r}; it knows the "
            f"numbers {', '.join(sorted(sample))}. Correct it or leave one of the files out of uri="
        )
    found = set()
    for name, value in object_items(file):
        found.add(name)
        if wanted is None or name in wanted:
            key = f"{file.name}:{printable(name)}"
            yield from parsed(value, key, partial(_items, name=name, scenario=scenario))
    for name in sorted((wanted or frozenset()) - found):
        yield RawReject(f"{file.name}:{printable(name)}", "missing_key", "only in the tiny list")


def _items(item: dict[str, Any], key: str, *, name: str, scenario: str) -> Items:
    for kind in KINDS:
        yield from parsed(item, f"{key}/{kind}", partial(_item, name=name, place=(scenario, kind)))


def _item(item: dict[str, Any], key: str, *, name: str, place: tuple[str, str]) -> Items:
    scenario, kind = place
    if refused := lacking(item, key, KINDS[kind]):
        yield refused
        return
    extra = {k: plain(v) for k, v in item.items() if k != KINDS[kind]}
    yield RawRecord(
        source_key=key,
        messages=(Message("user", text(item[KINDS[kind]])),),
        images=image_refs(f"{scenario}/{kind}/{name}.jpg"),
        label=scenario,
        slices={"scenario": scenario, "kind": kind},
        extra={**extra, "id": name},
    )
