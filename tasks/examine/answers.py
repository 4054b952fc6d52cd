"""Answers to all items: from the cache where they are known, in batches where they are not."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from infra.answers import AnswerCache
from infra.completion import PASSING
from schemas.samples import RawReject
from tasks.benchmarks.item import Item
from tasks.crew import Crew
from tasks.examine.pictures import Shown, shown
from tasks.progress import progress
from tasks.respond import Answering, Ask, Responder, Told

NAMES = ("question_id", "index")
# Batches for each worker at a time: their answers are kept, and shown, when all are there.
ROUND = 4
# Raised when the same model would answer otherwise: another template, another decoding.
VERSION = 1


@dataclass(frozen=True)
class Answered:
    """An item, what was shown with it, and the answer."""

    item: Item
    image_id: str | None
    data: bytes | None
    told: Told


class Answerer:
    """Asks a responder; what it has answered with these settings is asked no second time.

    Args:
        responder: who answers.
        batch: questions at once. It is a part of the cache's key: in half precision the batch may
            change an answer.
        longest: tokens of an answer.
        ranked: the items' options are ranked, and the answer is the likeliest one's letter.
        workers: processes that answer; they change no answer.
        cluster: address of the Ray cluster of several workers.
    """

    def __init__(
        self,
        responder: Responder,
        *,
        batch: int,
        longest: int,
        ranked: bool = False,
        workers: int = 1,
        cluster: str = "",
    ) -> None:
        self.responder = responder
        self.ranked = ranked
        self.batch = batch
        self.longest = longest
        self.workers = workers
        self.cluster = cluster
        settings = {"version": VERSION, "batch": batch, "max_new_tokens": longest}
        settings |= {"ranked": True} if ranked else {}
        self.cache = AnswerCache({"model": responder.identity, **settings})
        self._answering: Answering | None = None
        self._crew: Crew[Ask, Told] | None = None
        self._fresh: dict[str, Told] = {}

    def answers(self, items: Sequence[Item]) -> Iterator[list[Answered | RawReject]]:
        """Batches of answered items and rejects: like lengths together, the same on every run.

        Raises:
            PsavlmError: the model cannot be opened, or its endpoint fails; what was answered is
                kept.
        """
        names = _names(items)
        numbers = range(len(items))
        order = sorted(numbers, key=lambda i: (not items[i].images, len(items[i].prompt), i))
        batches = [order[first : first + self.batch] for first in range(0, len(order), self.batch)]
        together = self.workers * ROUND if self.workers > 1 else 1
        with progress(f"ask {self.responder.name}", len(items)) as tick:
            try:
                for first in range(0, len(batches), together):
                    own = batches[first : first + together]
                    yield from self._round(items, names, own)
                    tick(first * self.batch + sum(map(len, own)), "items")
            finally:
                if self._crew is not None:
                    self._crew.close()

    def _round(
        self,
        items: Sequence[Item],
        names: Sequence[tuple[str, ...]],
        batches: Sequence[Sequence[int]],
    ) -> Iterator[list[Answered | RawReject]]:
        """Some batches: what nobody has answered yet is asked, each batch by itself."""
        pictured = [[(i, shown(items[i])) for i in places] for places in batches]
        shows = {i: seen for own in pictured for i, seen in own if isinstance(seen, Shown)}
        self._fresh.clear()
        new = {i for i, seen in shows.items() if self.cache.get(_key(items[i], seen)) is None}
        asks = [
            [self._ask(items[i], names[i], i, shows[i]) for i in own if i in new] for own in batches
        ]
        asked = [own for own in asks if own]

        def kept(batch: int, place: int, told: Told) -> None:
            number = asked[batch][place].number
            self._keep(items[number], shows[number], told)

        if asked:
            self._answer(asked, kept)
        for own in pictured:
            yield [
                seen if isinstance(seen, RawReject) else self._told(items[i], seen)
                for i, seen in own
            ]

    def _answer(
        self, batches: Sequence[Sequence[Ask]], kept: Callable[[int, int, Told], None]
    ) -> None:
        """Here, or by several processes; either is opened when the first question is not known."""
        if self.workers > 1:
            opened = partial(self.responder.in_batches, self.longest)
            self._crew = self._crew or Crew(opened, size=self.workers, cluster=self.cluster)
            # The encoded bytes are for endpoints: a model here reads the picture.
            given = [[replace(ask, data=None) for ask in asks] for asks in batches]

            def all_kept(batch: int, found: Sequence[Told]) -> None:
                for place, told in enumerate(found):
                    kept(batch, place, told)

            self._crew.answer(given, all_kept)
            return
        self._answering = self._answering or self.responder.open()
        for number, asks in enumerate(batches):
            self._answering(asks, self.longest, partial(kept, number))

    def _ask(self, item: Item, names: tuple[str, ...], number: int, seen: Shown) -> Ask:
        if self.ranked:
            options = dict(item.options)
            return Ask(names, number, item.ranked, seen.picture, seen.data, options)
        return Ask(names, number, item.prompt, seen.picture, seen.data)

    def _keep(self, item: Item, seen: Shown, told: Told) -> None:
        self._fresh[item.id] = told
        # What an endpoint declines today it may take tomorrow.
        if told.fault not in PASSING and not self.responder.free:
            self.cache.add(_key(item, seen), asdict(told))

    def _told(self, item: Item, seen: Shown) -> Answered:
        told = self._fresh.get(item.id) or Told(**(self.cache.get(_key(item, seen)) or {}))
        return Answered(item, seen.image_id, seen.data, told)


def _key(item: Item, seen: Shown) -> dict[str, Any]:
    # The id, too: two items may ask the same, and a file of answers has one for each.
    return {"id": item.id, "prompt": item.prompt, "image": seen.image_id or ""}


def _names(items: Sequence[Item]) -> list[tuple[str, ...]]:
    """What each item is called in files of answers: its id, and names that only it has."""
    known = Counter(item.facts[name] for item in items for name in NAMES if name in item.facts)
    return [
        (item.id, *(f for name in NAMES if (f := item.facts.get(name)) and known[f] == 1))
        for item in items
    ]
