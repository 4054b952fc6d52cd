"""A language model as judge, behind any OpenAI-compatible endpoint, asked by a rubric.

Its reply is read strictly: what is no number or label is `unscored`, never 0 and never guessed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

from infra.answers import AnswerCache
from infra.chat import Chat
from infra.completion import PASSING, Question, Reply
from infra.fingerprint import content_hash
from schemas.rubrics import GENERAL, Rubric
from tasks.benchmarks.item import Item, Verdict
from tasks.judges.judge import UNSCORED, WITHHELD, Given, Judgement, Kind


@dataclass(frozen=True)
class EndpointJudge:
    """A judging model with its rubric; what it has judged is kept in the answer cache."""

    chat: Chat
    rubric: Rubric
    kind: Kind = field(default="endpoint", init=False)

    @property
    def name(self) -> str:
        """Such as `endpoint:judge-model:risk@1`."""
        return f"endpoint:{self.chat.model}:{self.rubric.name}@{self.rubric.version}"

    @property
    def identity(self) -> dict[str, str]:
        """Endpoint, model and the rubric by content."""
        return {"judge": self.name, "url": self.chat.url, "rubric": content_hash(self.rubric)}

    @cached_property
    def _cache(self) -> AnswerCache:
        return AnswerCache({"judge": self.identity})

    def judge(self, given: Sequence[Given]) -> list[Judgement]:
        """A score or a label each.

        Raises:
            ConfigError: the endpoint does not know the key or the model.
            ServerError: it fails, try after try; what was judged is kept.
        """
        asked = [self._asked(one) for one in given]
        keys = [_key(question) for question in asked]
        needed = {
            content_hash(key): place
            for place, (key, one) in enumerate(zip(keys, given, strict=True))
            if self._cache.get(key) is None and not self._is_known(one)
        }
        places, fresh = list(needed.values()), dict[str, Reply]()

        def kept(number: int, reply: Reply) -> None:
            key = keys[places[number]]
            fresh[content_hash(key)] = reply
            # What an endpoint declines today it may take tomorrow.
            if reply.fault not in PASSING:
                self._cache.add(key, vars(reply))

        questions = [asked[place] for place in places]
        self.chat.ask_all(questions, max_tokens=self.rubric.max_tokens, kept=kept)
        return [self._judged(one, key, fresh) for one, key in zip(given, keys, strict=True)]

    def withheld(self, item: Item) -> Verdict:
        """Refused; by a rubric of grades `unscored`, since nobody has graded anything."""
        if self.rubric.kind == "label":
            return WITHHELD
        return Verdict(UNSCORED, phrase=WITHHELD.phrase)

    def prompt(self, given: Given) -> str:
        """The rubric's question about an answer."""
        kind = _scale(given.item, self.rubric)
        return self.rubric.prompt(kind, given.item.prompt, given.answer)

    def verdict(self, item: Item, reply: Reply) -> Verdict:
        """What a reply says of the answer to an item; `unscored` if it says nothing."""
        if reply.fault:
            return Verdict(UNSCORED, text=reply.fault)
        if self.rubric.kind == "label":
            label = self.rubric.label(reply.text)
            return _labelled(self.rubric, label, text=reply.text)
        score = self.rubric.score(reply.text)
        return Verdict(UNSCORED if score is None else "scored", score=score, text=reply.text)

    def _asked(self, given: Given) -> Question:
        return Question(self.prompt(given), given.image if self.rubric.sees_image else None)

    def _is_known(self, given: Given) -> bool:
        """Whether the rubric says itself what an empty answer is."""
        return bool(self.rubric.empty) and not given.answer.strip()

    def _judged(self, given: Given, key: dict[str, str], fresh: Mapping[str, Reply]) -> Judgement:
        if self._is_known(given):
            return Judgement(_labelled(self.rubric, self.rubric.empty, text=""))
        reply = fresh.get(content_hash(key)) or Reply(**(self._cache.get(key) or {}))
        return Judgement(self.verdict(given.item, reply), reply.tokens_in, reply.tokens_out)


def _labelled(rubric: Rubric, label: str | None, *, text: str) -> Verdict:
    if label is None:
        return Verdict(UNSCORED, text=text)
    return Verdict(label, refused=label in rubric.refusals, text=text)


def _scale(item: Item, rubric: Rubric) -> str:
    """The item's own band, that of its risk type, or the general one."""
    kinds = (item.kind, item.slices.get("type", ""))
    return next((kind for kind in kinds if kind in rubric.bands), GENERAL)


def _key(question: Question) -> dict[str, Any]:
    image = sha256(question.image).hexdigest() if question.image is not None else ""
    return {"text": question.text, "image": image}
