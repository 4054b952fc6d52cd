"""An arm asked all questions of a test split: here, or by several processes.

A batch is the same on every run and is kept when it is answered: neither a kill nor the number of
processes changes an answer, also in half precision, and nothing is asked twice.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.answers import AnswerCache
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig, MethodConfig
from schemas.hints import Hints
from schemas.policies import OperatorPolicy
from schemas.taxonomy import Taxonomy
from tasks.base_model import FOLDER
from tasks.crew import Crew
from tasks.encode import FeatureCache
from tasks.evaluate.question import Question, features_of, upcoming
from tasks.progress import progress

if TYPE_CHECKING:
    from model.guard import Answer
    from tasks.evaluate.arms import Respond

Batch = Sequence[Question]


@dataclass(frozen=True)
class Oracle:
    """A method that trains nothing, and the hints that its base is given by an item's label."""

    method: MethodConfig
    hints: Hints


@dataclass(frozen=True)
class Arm:
    """All that a process needs to answer as an arm does; files of the operator's are read."""

    name: str
    config: EvaluateConfig
    parents: dict[str, Artifact]
    store: Store
    taxonomy: Taxonomy
    policy: OperatorPolicy | None
    oracle: Oracle | None

    def opened(self) -> "Answering":
        """The arm's model in this process, and the features of the images it is asked about."""
        cache = FeatureCache(self.parents["features"], readers=self.config.workers)
        return Answering(cache, self._respond())

    def _respond(self) -> "Respond":
        from tasks.evaluate.arms import open_arm, open_backbone, open_oracle

        half, longest = self.config.precision == "bf16", self.config.max_new_tokens
        base = open_backbone(self.store.local(self.parents["base"]) / FOLDER, half=half)
        if self.oracle is not None:
            return open_oracle(
                base, self.oracle.method, self.oracle.hints, taxonomy=self.taxonomy,
                max_new_tokens=longest,
            )  # fmt: skip
        model = self.parents.get("model")
        folder = self.store.local(model) / FOLDER if model else None
        return open_arm(base, folder, policy=self.policy, max_new_tokens=longest)


@dataclass(frozen=True)
class Answering:
    """An opened arm: answers a batch at a time."""

    cache: FeatureCache
    respond: "Respond"

    def __call__(self, batch: Batch) -> "list[Answer]":
        """An answer to each question."""
        features = features_of(batch, self.cache)
        return self.respond(features, [one.text for one in batch], [one.label for one in batch])


def ask_all(
    arm: Arm, questions: Sequence[Question], kept: AnswerCache, *, cluster: str
) -> "list[Answer]":
    """Every question's answer, in their order; those of batches that are kept already are read.

    Args:
        arm: who is asked, in how many processes, how many questions at once.
        questions: all of them.
        kept: where the answers of whole batches are kept.
        cluster: address of a Ray cluster for several processes.

    Raises:
        ServerError: a process that answers has died again and again.
        StorageError: the answers cannot be kept.
    """
    from model.guard import Answer

    size = arm.config.batch
    batches = [questions[first : first + size] for first in range(0, len(questions), size)]
    keys = [{"items": [one.sample_id for one in batch]} for batch in batches]
    answers: dict[int, list[Answer]] = {
        number: [Answer.model_validate_json(one) for one in known["answers"]]
        for number, key in enumerate(keys)
        if (known := kept.get(key))
    }
    new = [number for number in range(len(batches)) if number not in answers]
    with progress(f"evaluate {arm.name}", len(questions)) as tick:

        def keep(place: int, told: Sequence[Answer]) -> None:
            answers[new[place]] = list(told)
            # As text: the probabilities stay in the taxonomy's order.
            kept.add(keys[new[place]], {"answers": [one.model_dump_json() for one in told]})
            tick(sum(map(len, answers.values())), "items")

        if new:
            _ask(arm, [batches[number] for number in new], keep, cluster=cluster)
    return [one for number in range(len(batches)) for one in answers[number]]


def _ask(
    arm: Arm,
    batches: Sequence[Batch],
    keep: "Callable[[int, Sequence[Answer]], None]",
    *,
    cluster: str,
) -> None:
    if arm.config.workers > 1:
        size = min(arm.config.workers, len(batches))
        with closing(Crew(arm.opened, size=size, cluster=cluster)) as crew:
            crew.answer(batches, keep)
        return
    answering, flat = arm.opened(), [one for batch in batches for one in batch]
    answered = 0
    for number, batch in enumerate(batches):
        answering.cache.expect(upcoming(flat, answered))
        keep(number, answering(batch))
        answered += len(batch)
