"""All registered versions on common items: one table and one plot over time."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version as library
from pathlib import Path

import pyarrow.parquet as pq

from infra.fingerprint import content_hash
from infra.store import Store
from schemas.artifact import Artifact
from schemas.comparison import CompareConfig, Line, Past, VersionLine
from schemas.decision import Version
from schemas.errors import DataError
from schemas.report import METRICS
from tasks.compare.fair import learnt, without
from tasks.compare.lines import Asked, holm, lines
from tasks.compare.step import check_same, read_rows
from tasks.evaluate.step import ITEMS, read_report
from tasks.promote.evidence import ITEM
from tasks.promote.questions import QUESTIONS

STEP, VERSION = "history", 3
JSON, TEXT, PAGE = "history.json", "history.md", "history.html"
FIRST = "risky_obeyed"


def history_table(
    config: CompareConfig,
    versions: Sequence[Version],
    evaluated: Mapping[int, Artifact],
    labelled: Artifact,
    *,
    store: Store,
    trained_on: Mapping[int, Artifact | None],
) -> Artifact:
    """`history.json` (Past), `.md`, `.html`, and the plot as PNG and SVG.

    Args:
        config: level of the tests between neighbours.
        versions: as registered, in order.
        evaluated: the judged answers of those whose model is still there, by version.
        labelled: the snapshot of the items.
        store: where artifacts live.
        trained_on: by version the labelled snapshot that it learnt from, where that is known.

    Raises:
        DataError: no version could be asked.
    """
    if not evaluated:
        raise DataError("no registered version is there to be asked: psavlm registry shows them")
    told = [one.model_dump(mode="json", exclude={"uri", "root", "run"}) for one in versions]

    def build(folder: Path) -> dict[str, int]:
        known = {number: learnt(one, labelled) for number, one in trained_on.items()}
        past = _past(config, versions, evaluated, labelled, store, known)
        write_past(past, folder)
        return {"versions": len(versions), "asked": len(evaluated)}

    return store.artifact(
        STEP,
        VERSION,
        config={**config.model_dump(), "versions": told},
        parents={"labelled": labelled, **{str(n): one for n, one in evaluated.items()}},
        inputs={name: library(name) for name in ("matplotlib", "numpy", "scipy")}
        | {f"trained_on_{n}": one.fingerprint for n, one in trained_on.items() if one},
        build=build,
    )


def read_past(artifact: Artifact, *, store: Store) -> Past:
    """What a history artifact says."""
    return Past.model_validate_json((store.local(artifact) / JSON).read_bytes())


def write_past(past: Past, folder: Path) -> None:
    """All files of the artifact into an empty folder."""
    from tasks.compare.page import past_document
    from tasks.compare.plot import draw_past, past_layouts
    from tasks.sweep.document import as_html, as_markdown

    draw_past(past, folder)
    page = past_document(past)
    (folder / JSON).write_text(past.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / TEXT).write_text(as_markdown(page), encoding="utf-8")
    (folder / PAGE).write_text(as_html(page, past_layouts(), folder), encoding="utf-8")


def _past(
    config: CompareConfig,
    versions: Sequence[Version],
    evaluated: Mapping[int, Artifact],
    labelled: Artifact,
    store: Store,
    known: Mapping[int, set[str] | None],
) -> Past:
    before = _neighbours(config, evaluated, store, known)
    reports = {one: read_report(artifact, store=store) for one, artifact in evaluated.items()}
    items = pq.read_table(store.local(next(iter(evaluated.values()))) / ITEMS, columns=[*ITEM])
    rows = items.sort_by("sample_id").to_pylist()
    asked = {row["sample_id"] for row in rows}
    found = []
    for one in versions:
        mine, own = evaluated.get(one.version), known.get(one.version)
        found.append(
            VersionLine(
                version=one.version,
                aliases=one.aliases,
                created=one.created,
                model=f"{one.step} {one.fingerprint[:10]}",
                error="" if mine else "its artifact is gone",
                metrics=reports[one.version].metrics if mine else {},
                before=before.get(one.version),
                learnt=None if own is None else len(own & asked),
            )
        )
    return Past(
        labelled=f"{labelled.step}/{labelled.fingerprint}",
        items=content_hash([list(row.values()) for row in rows]),
        n=len(rows),
        judges=next(iter(reports.values())).judges,
        interval=config.interval,
        versions=tuple(found),
    )


def _neighbours(
    config: CompareConfig,
    evaluated: Mapping[int, Artifact],
    store: Store,
    known: Mapping[int, set[str] | None],
) -> dict[int, Line]:
    """Each version against the one above it, on what neither learnt; p corrected by Holm.

    Of several judges' numbers those of the one with most items.
    """
    rows = {number: read_rows(one, store=store) for number, one in sorted(evaluated.items())}
    numbers, found = list(rows), {}
    asked = [Asked(FIRST, METRICS[FIRST], QUESTIONS[FIRST])]
    for old, new in zip(numbers, numbers[1:], strict=False):
        check_same(rows[old], rows[new])
        left = (known.get(old) or set()) | (known.get(new) or set())
        both = [without(rows[number], left) for number in (old, new)]
        by_judge = lines(asked, *both, config)
        if by_judge:
            found[new] = max(by_judge, key=lambda line: line.n)
    corrected = holm([line.p for line in found.values()])
    return {
        number: Line.model_validate({**dict(line), "p_holm": p, "mark": ""})
        for (number, line), p in zip(found.items(), corrected, strict=True)
    }
