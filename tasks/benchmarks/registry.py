"""The benchmarks by name. To add one: a file in this folder with a BENCHMARK, and a line here."""

from schemas.errors import ConfigError
from schemas.explain import did_you_mean
from tasks.benchmarks import (
    advbench,
    figstep,
    mm_safetybench,
    mmbench,
    mme,
    mossbench,
    papers,
    pope,
    rtvlm,
    seedbench,
    vlguard,
    vlguard_helpful,
    xstest,
)
from tasks.benchmarks.item import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    "advbench": advbench.BENCHMARK,
    "figstep": figstep.BENCHMARK,
    "mm-safetybench": mm_safetybench.BENCHMARK,
    "mmbench": mmbench.BENCHMARK,
    "mme": mme.BENCHMARK,
    "mossbench": mossbench.BENCHMARK,
    "pope": pope.BENCHMARK,
    "rtvlm": rtvlm.BENCHMARK,
    "seedbench": seedbench.BENCHMARK,
    "vlguard": vlguard.BENCHMARK,
    "vlguard-helpful": vlguard_helpful.BENCHMARK,
    "xstest": xstest.BENCHMARK,
    **papers.BENCHMARKS,
}


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of that name; ConfigError with all names for an unknown one."""
    if name not in BENCHMARKS:
        raise ConfigError(
            f"unknown benchmark {name!r}; {did_you_mean(name, BENCHMARKS)}benchmarks: "
            f"{', '.join(sorted(BENCHMARKS))}"
        )
    return BENCHMARKS[name]
