"""From what people write after --judge to a judge."""

from infra.chat import Chat
from schemas.errors import ConfigError
from schemas.phrases import load_phrases
from schemas.rubrics import PREFERENCE, load_rubric
from tasks.benchmarks.data import Data
from tasks.benchmarks.item import Benchmark
from tasks.judges.endpoint import EndpointJudge
from tasks.judges.exact import ExactJudge, PhraseJudge
from tasks.judges.judge import Judge
from tasks.judges.preference import PreferenceJudge

PHRASES = "phrases"
FORMS = "exact, phrases, phrases:NAME, phrases:FILE.toml or https://host/v1#model"


def choose_judge(
    word: str, name: str, benchmark: Benchmark, *, data: Data, rule: str, rubric: str
) -> Judge:
    """The judge that is meant; without a word the benchmark's exact rule, or its phrases.

    Raises:
        ConfigError: no such judge, or not one for this benchmark.
    """
    if "://" in word:
        if benchmark.decide is not None:
            raise ConfigError(
                f"{name} has an exact rule, and a judging model would give other numbers under the "
                "same name: leave --judge out"
            )
        asked, own = load_rubric(rubric or benchmark.rubric), load_rubric(benchmark.rubric)
        if (asked.kind == PREFERENCE) != (own.kind == PREFERENCE):
            raise ConfigError(f"--rubric {rubric!r} cannot judge {name}, whose own is {own.name!r}")
        if asked.kind == PREFERENCE:
            return PreferenceJudge(Chat(word), asked, shuffles=rule in benchmark.shuffled_by)
        return EndpointJudge(Chat(word), asked)
    if benchmark.decide is not None and word in ("", "exact"):
        return ExactJudge(name, rule, benchmark.decide)
    kind, _, listed = word.partition(":")
    if benchmark.decide is not None or kind not in ("", PHRASES):
        forms = "exact" if benchmark.decide is not None else FORMS.removeprefix("exact, ")
        raise ConfigError(f"--judge {word!r} cannot judge {name}: leave it out, or give {forms}")
    if not benchmark.phrases:
        raise ConfigError(
            f"{name} wants a judging model, which compares two answers: add --judge "
            "https://host/v1#model"
        )
    if not listed and benchmark.own_phrases and (own := benchmark.own_phrases(data)):
        return PhraseJudge(own)
    return PhraseJudge(load_phrases(listed or benchmark.phrases))
