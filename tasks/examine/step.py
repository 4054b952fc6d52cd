"""The step: a benchmark's items, answers, verdicts and numbers as one artifact."""

from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from infra.address import split_uri
from infra.fingerprint import content_hash
from infra.store import Store
from schemas.artifact import Artifact
from schemas.benchmark import BenchmarkConfig, BenchmarkReport
from schemas.errors import ConfigError, DataError
from tasks.benchmarks.data import Data
from tasks.benchmarks.item import Benchmark
from tasks.benchmarks.registry import benchmark_named
from tasks.examine.work import ITEMS, REPORT, Examination, work
from tasks.judges import Judge, choose_judge
from tasks.respond import Responder

STEP, VERSION = "benchmark", 3
# Where the data lie does not matter, and the judges are in the settings by what they are.
NOT_PRINTED = {"data", "judge", "second_judge", "rubric"}


def examine(
    config: BenchmarkConfig,
    responder: Responder,
    *,
    store: Store,
    workers: int = 1,
    cluster: str = "",
) -> Artifact:
    """`items.parquet`, `rejects.parquet` and `report.json` of a model on a benchmark.

    Killed and run again it asks neither model nor judge what they have answered (infra/answers.py).

    Args:
        config: which benchmark, and how it is judged and counted.
        responder: who answers.
        store: where artifacts live.
        workers: processes that answer, as Ray actors where there are several; the answers are the
            same.
        cluster: address of a Ray cluster for several; empty is that of `psavlm up`, or one of
            this process's own.

    Raises:
        ConfigError: an unknown benchmark, rule or judge.
        DataError: the folder is not laid out as the benchmark's, or none of its items can be asked.
        ServerError: an endpoint that fails, try after try.
    """
    exam = replace(prepared(config, responder), workers=workers, cluster=cluster)
    judges = {"judge": exam.judge.identity}
    judges |= {"second": exam.second.identity} if exam.second else {}
    settings = {
        **config.model_dump(mode="json", exclude=NOT_PRINTED),
        "rule": exam.rule,
        "max_new_tokens": exam.longest,
        "judges": judges,
    }
    # Lineage ends at the root: a model that lies elsewhere is an input by its fingerprint.
    here = {
        role: parent
        for role, parent in responder.parents.items()
        if split_uri(parent.uri)[0] == store.root
    }
    return store.artifact(
        STEP,
        VERSION,
        config=settings,
        parents=here,
        inputs={"data": exam.data.identity, "model": content_hash(responder.identity)},
        build=lambda folder: work(exam, folder),
    )


def prepared(config: BenchmarkConfig, responder: Responder) -> Examination:
    """Benchmark, folder, rule and judges by their names; raises as `examine`."""
    benchmark, rule = _ruled(config)
    if rule in benchmark.ranked_by and not responder.ranks:
        others = [name for name in benchmark.rules if name not in benchmark.ranked_by]
        raise ConfigError(
            f"by rule {rule!r} {config.name} ranks the losses of options, which an endpoint does "
            f"not tell: choose --rule {' or '.join(others)}"
        )
    data = Data(config.name, config.data, benchmark.layout)
    judge, second = _judges(config, benchmark, data, rule)
    return Examination(config, benchmark, data, rule, responder, judge, second)


def check_benchmark(config: BenchmarkConfig) -> None:
    """Look, before any model is asked, whether a benchmark of a preset could be.

    Raises:
        ConfigError: an unknown benchmark, rule or judge.
        DataError: no such folder, or not one that is laid out as the benchmark's.
    """
    try:
        benchmark, rule = _ruled(config)
        data = Data(config.name, config.data, benchmark.layout)
        _judges(config, benchmark, data, rule)
        if next(iter(benchmark.read(data)), None) is None:
            raise DataError(f"{config.data!r} holds no item; it should hold {benchmark.layout}")
    except (ConfigError, DataError) as error:
        raise type(error)(f"[[benchmarks]] {config.name!r}: {error}") from error


def _ruled(config: BenchmarkConfig) -> tuple[Benchmark, str]:
    """The benchmark, and the rule that it is counted by; ConfigError for one that is none."""
    benchmark = benchmark_named(config.name)
    rule = config.rule or next(iter(benchmark.rules))
    if rule not in benchmark.rules:
        raise ConfigError(
            f"--rule {rule!r}: {config.name} counts by {', '.join(benchmark.rules)}; "
            "psavlm benchmark --json tells what each does"
        )
    return benchmark, rule


def _judges(
    config: BenchmarkConfig, benchmark: Benchmark, data: Data, rule: str
) -> tuple[Judge, Judge | None]:
    """The judge and the second one, if there is one; ConfigError for one that is none."""
    words = (config.judge, config.second_judge)
    if config.rubric and not any("://" in word for word in words):
        raise ConfigError(
            f"--rubric {config.rubric!r} is for a judging model: add --judge https://host/v1#model"
        )
    named = partial(
        choose_judge,
        name=config.name,
        benchmark=benchmark,
        data=data,
        rule=rule,
        rubric=config.rubric,
    )
    return named(config.judge), named(config.second_judge) if config.second_judge else None


def read_report(artifact: Artifact, *, store: Store) -> BenchmarkReport:
    """The numbers of a benchmark's artifact."""
    return BenchmarkReport.model_validate_json((store.local(artifact) / REPORT).read_bytes())


def read_rows(artifact: Artifact, *, store: Store) -> list[dict[str, Any]]:
    """The judged rows (rows.ROWS) of a benchmark's artifact, maps as dictionaries."""
    return pq.read_table(store.local(artifact) / ITEMS).to_pylist(maps_as_pydicts="strict")
