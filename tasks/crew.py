"""A model in several processes: Ray actors that each have it whole, and answer batch by batch.

A batch is answered by one actor as one process would answer it: who does it changes nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from infra import ray_cluster
from infra.ray_errors import retold
from schemas.errors import ServerError
from tasks.credentials import use_credentials
from tasks.progress import say

# How often an actor that died is made anew, and its batch asked again.
RESTARTS = 3
# After so long without a first answer people are told what is waited for.
PATIENCE_S = 60.0
Question, Answer = TypeVar("Question"), TypeVar("Answer")
Answering = Callable[[Sequence[Question]], Sequence[Answer]]


class Member(Generic[Question, Answer]):
    """One process with the model, which is opened when the first batch comes."""

    def __init__(self, opened: Callable[[], Answering[Question, Answer]]) -> None:
        self._opened = opened
        self._answering: Answering[Question, Answer] | None = None

    def answer(self, questions: Sequence[Question]) -> Sequence[Answer]:
        """An answer to each question, in their order."""
        if self._answering is None:
            use_credentials()
            self._answering = self._opened()
        return self._answering(questions)


class Crew(Generic[Question, Answer]):
    """Actors that answer, until `close`.

    Args:
        opened: opens the model in a process that sees the same store or folder.
        size: how many actors; each takes a CPU, and of the cluster's GPUs an equal share.
        cluster: address of a Ray cluster; empty is that of `psavlm up`, or one of this process's
            own.

    Raises:
        ConfigError: no cluster, or one that is too small.
        TrainingError: this machine is too busy to start a cluster.
    """

    def __init__(
        self, opened: Callable[[], Answering[Question, Answer]], *, size: int, cluster: str
    ) -> None:
        joined = ray_cluster.join(cluster, cpus=size)
        import ray

        needs = {"num_cpus": 1, "num_gpus": min(1.0, joined.gpus / size)}
        lives = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        made: Any = ray.remote(**needs, **lives)(Member)
        self._members = [made.remote(opened) for _ in range(size)]
        self._answered = False

    def answer(
        self,
        batches: Sequence[Sequence[Question]],
        kept: Callable[[int, Sequence[Answer]], None],
    ) -> None:
        """Answer all batches; `kept` is told number and answers of each as soon as it is done.

        Raises:
            PsavlmError: the model cannot be opened; ServerError if its processes keep dying.
        """
        free, busy = list(self._members), {}
        with retold(_gone):
            for number, questions in enumerate(batches):
                member = free.pop() if free else self._next(busy, kept)
                busy[member.answer.remote(questions)] = (number, member)
            while busy:
                self._next(busy, kept)

    def close(self) -> None:
        """End the actors: what comes next wants what they hold."""
        import ray

        for member in self._members:
            ray.kill(member)

    def _next(
        self,
        busy: dict[Any, tuple[int, Any]],
        kept: Callable[[int, Sequence[Answer]], None],
    ) -> Any:
        """Wait for one batch; the actor that has answered it."""
        import ray

        done, _ = ray.wait([*busy], num_returns=1, timeout=None if self._answered else PATIENCE_S)
        if not done:
            say(
                f"no answer yet from {len(self._members)} processes: each opens the model, and "
                "wants a CPU of the Ray cluster, which others may hold (see its dashboard)"
            )
            done, _ = ray.wait([*busy], num_returns=1)
        self._answered = True
        number, member = busy.pop(done[0])
        kept(number, ray.get(done[0]))
        return member


def _gone(why: str) -> ServerError:
    return ServerError(
        f"a process that answers died {RESTARTS + 1} times ({why}), most likely for want of "
        "memory: give fewer workers or a smaller batch; what was answered is kept"
    )
