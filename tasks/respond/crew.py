"""A model in several processes: Ray actors that each have it whole, and answer batch by batch.

A batch is answered by one actor as one process would answer it: who does it changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from infra import ray_cluster
from schemas.errors import ConfigError, ServerError
from tasks.respond.responder import Answering, Ask, Responder, Told

# How often an actor that died is made anew, and its batch asked again.
RESTARTS = 3


class Member:
    """One process with the model, which is opened when the first batch comes."""

    def __init__(self, opened: Callable[[], Answering]) -> None:
        self._opened = opened
        self._answering: Answering | None = None

    def answer(self, asks: Sequence[Ask], longest: int) -> list[Told]:
        """An answer to each question, in their order."""
        if self._answering is None:
            self._answering = self._opened()
        found: dict[int, Told] = {}
        self._answering(asks, longest, found.__setitem__)
        return [found[place] for place in range(len(asks))]


class Crew:
    """Actors that answer for one responder.

    Args:
        responder: a model that lies in a store or a folder which every worker sees.
        size: how many actors; each takes a CPU, and of the cluster's GPUs an equal share.
        cluster: address of a Ray cluster; empty is that of `psavlm up`, or one of this process's
            own.

    Raises:
        ConfigError: an endpoint or a file, or no cluster that is large enough.
        TrainingError: this machine is too busy to start a cluster.
    """

    def __init__(self, responder: Responder, *, size: int, cluster: str) -> None:
        check_crew(responder, size, cluster)
        joined = ray_cluster.join(cluster, cpus=size)
        import ray

        needs = {"num_cpus": 1, "num_gpus": min(1.0, joined.gpus / size)}
        lives = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        made: Any = ray.remote(**needs, **lives)(Member)
        self._members = [made.remote(responder.open) for _ in range(size)]

    def answer(
        self, batches: Sequence[Sequence[Ask]], longest: int, kept: Callable[[int, int, Told], None]
    ) -> None:
        """Answer all batches; `kept` is told batch, place and answer as soon as a batch is done.

        Raises:
            PsavlmError: the model cannot be opened; ServerError if its processes keep dying.
        """
        free, busy = list(self._members), {}
        for number, asks in enumerate(batches):
            member = free.pop() if free else self._next(busy, kept)
            # The encoded bytes are for endpoints: a model here reads the picture.
            given = [replace(ask, data=None) for ask in asks]
            busy[member.answer.remote(given, longest)] = (number, member)
        while busy:
            self._next(busy, kept)

    def _next(
        self, busy: dict[Any, tuple[int, Any]], kept: Callable[[int, int, Told], None]
    ) -> Any:
        """Wait for one batch; the actor that has answered it."""
        import ray

        (done, *_), _ = ray.wait([*busy], num_returns=1)
        number, member = busy.pop(done)
        try:
            answers = ray.get(done)
        except ray.exceptions.RayActorError as error:
            raise ServerError(
                f"a process that answers died {RESTARTS + 1} times, most likely for want of "
                "memory: give fewer --workers or a smaller --batch; what was answered is kept"
            ) from error
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        for place, told in enumerate(answers):
            kept(number, place, told)
        return member


def check_crew(responder: Responder, size: int, cluster: str) -> None:
    """ConfigError where several processes would be of no use, or a cluster of none."""
    if size == 1 and cluster:
        raise ConfigError(f"--cluster {cluster!r} is for several --workers: give both or neither")
    if size > 1 and responder.free:
        raise ConfigError(f"--workers {size}: answers from a file need none; leave it out")
    if size > 1 and not responder.ranks:
        raise ConfigError(
            f"--workers {size}: an endpoint is asked several questions at once as it is; leave "
            "--workers out"
        )
