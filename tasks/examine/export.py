"""Results in the forms that other tools read: lmms-eval, VLMEvalKit, and the authors' own."""

import csv
import io
import json
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from infra.store import Store
from schemas.artifact import Artifact
from schemas.errors import ConfigError
from tasks.benchmarks.item import Row
from tasks.benchmarks.registry import benchmark_named
from tasks.examine.step import read_report, read_rows
from tasks.examine.work import ITEMS, REJECTED, REPORT

LMMS_EVAL, VLMEVALKIT, OFFICIAL = "lmms-eval", "vlmevalkit", "official"


def export_results(artifact: Artifact, out: Path, *, store: Store) -> None:
    """A new folder with the artifact's files and the results in three forms.

    `lmms-eval/<benchmark>.json` is what its model `from_log` replays; `vlmevalkit/` a prediction
    table; `official/` the authors' own files, for benchmarks that have some.

    Raises:
        ConfigError: `out` exists, or cannot be written.
    """
    if out.exists():
        raise ConfigError(f"--out {str(out)!r} exists already: give a new folder")
    rows, report = read_rows(artifact, store=store), read_report(artifact, store=store)
    name, model = report.benchmark, _plain(report.model)
    limit = store.manifest(artifact).config["limit"]
    files = {
        f"{LMMS_EVAL}/{name}.json": lmms_eval(rows, name, model, limit),
        f"{VLMEVALKIT}/{model}_{name}.tsv": vlmevalkit(rows),
    }
    own = benchmark_named(name).results
    files |= {f"{OFFICIAL}/{file}": text for file, text in (own(rows) if own else {}).items()}
    draft = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        for file, text in files.items():
            (draft / file).parent.mkdir(parents=True, exist_ok=True)
            (draft / file).write_text(text, encoding="utf-8")
        for file in (ITEMS, REJECTED, REPORT):
            shutil.copyfile(store.local(artifact) / file, draft / file)
        draft.rename(out)
    except OSError as error:
        raise ConfigError(
            f"--out {str(out)!r} cannot be written: {error.strerror or error}; give a new folder "
            "where there is room"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def lmms_eval(rows: Sequence[Row], name: str, model: str, limit: int | None) -> str:
    """A log that lmms-eval's `from_log` replays.

    doc_id is the item's place among all records of the files, also those that were not asked:
    `from_log` stops at a document that is not in the log. It passes over a log with a limit: ours
    are no first documents, but chosen by hash.
    """
    logs = [
        {"doc_id": row["place"], "target": row["target"], "resps": [[row["answer"]]]}
        for row in rows
    ]
    told = {"model": model, "model_args": "", "limit": limit}
    return json.dumps({"args": told, "model_configs": {"task": name}, "logs": logs}, indent=1)


def vlmevalkit(rows: Sequence[Row]) -> str:
    """A prediction table: index, question, what the benchmark has beside, answer, prediction."""
    taken = {"index", "question", "answer", "prediction"}
    facts = sorted({fact for row in rows for fact in row["facts"]} - taken)
    file = io.StringIO()
    table = csv.writer(file, delimiter="\t", lineterminator="\n")
    table.writerow(["index", "question", *facts, "answer", "prediction"])
    for row in rows:
        own = row["facts"]
        index, question = own.get("index", row["item_id"]), own.get("question", row["prompt"])
        truth = row["target"] or own.get("answer", "")
        table.writerow([index, question, *(own.get(f, "") for f in facts), truth, row["answer"]])
    return file.getvalue()


def _plain(name: str) -> str:
    """A model's name as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name)
