"""One run of a benchmark: read, ask, judge, count, write."""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.completion import ANSWERED, FILTERED, PASSING
from schemas.benchmark import Agreement, BenchmarkConfig, BenchmarkReport
from schemas.errors import DataError
from schemas.samples import RawReject
from tasks.benchmarks.data import Data
from tasks.benchmarks.groups import whole_told
from tasks.benchmarks.item import Benchmark, Item, LostItem, Row, Verdict
from tasks.examine.answers import Answered, Answerer
from tasks.examine.report import caveats, counts, gaps, numbers, official, usage
from tasks.examine.rows import REJECTS, SECOND, judged, row_of, table
from tasks.judges import UNSCORED, Given, Judge, agreement
from tasks.respond import DECLINED, Responder

ITEMS, REJECTED, REPORT = "items.parquet", "rejects.parquet", "report.json"
Tokens = dict[str, list[tuple[int, int]]]


@dataclass(frozen=True)
class Examination:
    """All that one run of a benchmark needs."""

    config: BenchmarkConfig
    benchmark: Benchmark
    data: Data
    rule: str
    responder: Responder
    judge: Judge
    second: Judge | None
    workers: int = 1
    cluster: str = ""

    @property
    def longest(self) -> int:
        """Tokens of an answer."""
        return self.config.max_new_tokens or self.benchmark.longest


def chosen(items: list[Item], limit: int | None, seed: int) -> list[Item]:
    """At most `limit` groups, by the hash of their names: the same in every order of reading."""
    groups = {item.group or item.id for item in items}
    if limit is None or len(groups) <= limit:
        return items
    ranked = sorted(groups, key=lambda name: hashlib.sha256(f"{seed}\t{name}".encode()).digest())
    kept = set(ranked[:limit])
    return [item for item in items if (item.group or item.id) in kept]


def work(exam: Examination, folder: Path) -> dict[str, int]:
    """All files of the artifact into an empty folder; its counts.

    Raises:
        DataError: the folder is not laid out as the benchmark's, or none of its items can be asked.
        ServerError: an endpoint that fails, try after try.
    """
    items, rejects = _read(exam)
    rows, tokens = _rows(exam, items, rejects)
    report = _report(exam, rows, rejects, tokens)
    pq.write_table(table(rows), folder / ITEMS)
    told = [{"key": r.source_key, "reason": r.reason, "detail": r.detail} for r in rejects]
    pq.write_table(pa.Table.from_pylist(told, schema=REJECTS), folder / REJECTED)
    (folder / REPORT).write_text(report.model_dump_json(indent=1), encoding="utf-8")
    asked = {"items": len(rows), "rejected": len(rejects), "filtered": report.filtered}
    left = {"unanswered": report.unanswered, "unscored": report.unscored}
    return {**asked, **left, DECLINED: sum(map(_declined, rows))}


def _declined(row: Row) -> bool:
    """Whether the model's endpoint or a judge's took no question, as it may tomorrow."""
    unscored = [place for place in ("", SECOND) if row[f"{place}verdict"] == UNSCORED]
    return bool(PASSING & {row["fault"], *(row[f"{place}judge_text"] for place in unscored)})


def _read(exam: Examination) -> tuple[list[Item], list[RawReject]]:
    found = list(exam.benchmark.read(exam.data))
    rejects = [one for one in found if isinstance(one, RawReject)]
    items = [replace(one, place=n) for n, one in enumerate(found) if isinstance(one, Item)]
    twice = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        raise DataError(
            f"{exam.config.name}: item {twice[0]!r:.80} is there twice: give a folder with one copy"
        )
    items = chosen(items, exam.config.limit, exam.config.seed)
    if not items:
        raise DataError(f"{exam.config.name}: no item can be asked{_why(rejects)}")
    return items, rejects


def _why(rejects: list[RawReject]) -> str:
    """The first reject in words; it names a place, never a prompt."""
    if not rejects:
        return f": the files hold none; {ITEMS} would be empty"
    one = rejects[0]
    return f"; {len(rejects)} are no items, such as {one.source_key}: {one.reason} ({one.detail})"


def _rows(
    exam: Examination, items: list[Item], rejects: list[RawReject]
) -> tuple[list[dict[str, Any]], Tokens]:
    """Judged rows in the benchmark's order, and the tokens of model and judges."""
    answerer = Answerer(
        exam.responder,
        batch=exam.config.batch,
        longest=exam.longest,
        ranked=exam.rule in exam.benchmark.ranked_by,
        workers=exam.workers,
        cluster=exam.cluster,
    )
    tokens: Tokens = {"model": [], "judge": []}
    rows: dict[str, dict[str, Any]] = {}
    for batch in answerer.answers(items):
        rejects += [one for one in batch if isinstance(one, RawReject)]
        answered = [one for one in batch if isinstance(one, Answered)]
        tokens["model"] += [(one.told.tokens_in, one.told.tokens_out) for one in answered]
        own = {one.item.id: row_of(one.item, one.image_id, one.told) for one in answered}
        _judge(exam, answered, own, tokens)
        rows |= own
    if not rows:
        raise DataError(f"{exam.config.name}: no item can be asked{_why(rejects)}")
    faults = Counter(row["fault"] for row in rows.values())
    if not faults[""] + faults[FILTERED]:
        raise DataError(
            f"{exam.config.name}: {exam.responder.name} answered none of {len(rows)} questions "
            f"({', '.join(faults)}): see whether it reads questions and images of this size, "
            "whether it needs more tokens (--max-new-tokens), or whether the file of answers "
            "belongs to this benchmark"
        )
    lost = {item.group or item.id for item in items if item.id not in rows}
    lost |= {one.group for one in rejects if isinstance(one, LostItem)}
    return whole_told([rows[item.id] for item in items if item.id in rows], lost), tokens


def _judge(
    exam: Examination, answered: list[Answered], rows: dict[str, dict[str, Any]], tokens: Tokens
) -> None:
    """Both judges' verdicts on the answers that there are or were withheld, into the rows."""
    there = [one for one in answered if not one.told.fault]
    given = [Given(one.item, one.told.text, one.data) for one in there]
    for place, judge in (("", exam.judge), (SECOND, exam.second)):
        if judge is None:
            continue
        for one, made in zip(there, judge.judge(given), strict=True):
            name = one.item.id
            rows[name] = judged(rows[name], made.verdict, judge.name, place=place)
            tokens["judge"].append((made.tokens_in, made.tokens_out))
        for item in (one.item for one in answered if one.told.filtered):
            verdict = judge.withheld(item)
            rows[item.id] = judged(rows[item.id], verdict, judge.name, place=place)


def _report(
    exam: Examination,
    rows: list[dict[str, Any]],
    rejects: list[RawReject],
    tokens: Tokens,
) -> BenchmarkReport:
    config, benchmark = exam.config, exam.benchmark
    answered: list[Row] = [row for row in rows if row["fault"] in ANSWERED]
    measures, slices = numbers(answered, benchmark, config)
    left = counts(rows)
    rejected = dict(sorted(Counter(one.reason for one in rejects).items()))
    missing = len(rejects) + left["unanswered"] + left["unscored"]
    told = caveats(benchmark, config, exam.judge, rejected=rejected, left=left)
    return BenchmarkReport(
        benchmark=config.name,
        rule=exam.rule,
        judge=exam.judge.name,
        model=exam.responder.name,
        items=len(rows),
        rejected=rejected,
        filtered=left["filtered"],
        unanswered=left["unanswered"],
        unscored=left["unscored"],
        official=official(answered, benchmark, exam.rule, missing=missing),
        measures=measures,
        slices=slices,
        caveats=(*told, *gaps(answered, benchmark, exam.rule, missing=missing)),
        answering=usage(tokens["model"], config, priced=False),
        judging=usage(tokens["judge"], config, priced=True),
        agreement=_agreement(exam.second, [row for row in rows if not row["fault"]]),
    )


def _agreement(second: Judge | None, rows: list[Row]) -> Agreement | None:
    if second is None:
        return None
    pairs = [
        [
            Verdict(
                row[f"{place}verdict"], refused=row[f"{place}refused"], score=row[f"{place}score"]
            )
            for row in rows
        ]
        for place in ("", SECOND)
    ]
    return agreement(pairs[0], pairs[1], judge=second.name)
