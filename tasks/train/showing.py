"""What the prompt of a training item shows at a step: hint, concept's tokens, or a forced concept.

All draws are by hash of seed, step and sample id, so that a resumed run agrees.
"""

import hashlib

from model.prompts import Concept, Prompt
from schemas.config import PartConfig
from schemas.samples import Message
from schemas.taxonomy import Taxonomy
from tasks.train.data import Item
from tasks.train.worker import Worker


def prompt_of(worker: Worker, item: Item, step: int, part: PartConfig) -> Prompt:
    """An item's conversation with what the guard would put into it.

    Risky items show what the method's intervention shows, in `hint_share` of the steps. With
    concept tokens any item may be told a random concept instead (METHOD.md section 7.5).
    """
    method = worker.job.config.method
    if method.shows_concepts and _drawn(worker, item, step, part.force_share, what="force"):
        forced = _forced(worker, item, step, part)
        if forced is not None:
            return forced
    shown = item.risk_level > 0 and hinted(worker, item, step, part.hint_share)
    told = shown and method.shows_concepts and item.image_id is not None
    return Prompt(
        item.messages,
        hint=_hint(worker, item, step, (item.risk_type, item.risk_level)) if shown else "",
        supervised=item.teaches_language,
        concept=one_hot(item.risk_type, item.risk_level, worker.job.taxonomy) if told else None,
    )


def hinted(worker: Worker, item: Item, step: int, share: float) -> bool:
    """Whether this item shows its concept at this step."""
    return _drawn(worker, item, step, share)


def hint_of(worker: Worker, risk_type: int, level: int) -> str:
    """The hint of a type and level by number; none for level 0."""
    if level == 0:
        return ""
    taxonomy = worker.job.taxonomy
    return worker.job.hints.text_for(taxonomy.type_ids[risk_type], level, taxonomy=taxonomy)


def one_hot(risk_type: int, level: int, taxonomy: Taxonomy) -> Concept:
    """A concept that is certain."""
    return Concept(
        tuple(float(number == risk_type) for number in range(len(taxonomy.types))),
        tuple(float(number == level) for number in range(len(taxonomy.levels))),
    )


def _forced(worker: Worker, item: Item, step: int, part: PartConfig) -> Prompt | None:
    """The item's question, told a random concept, answered by a refusal of an item that has it.

    None where no answer in the training order refuses, or the item has no image: the guard does
    not act on text alone.
    """
    ids = worker.job.taxonomy.type_ids
    allowed = sorted(key for key in worker.donors if ids[key[0]] not in part.never_forced)
    if not allowed or item.image_id is None:
        return None
    risk_type, level = allowed[_number(worker, item, step, "concept") % len(allowed)]
    answers = worker.donors[risk_type, level]
    answer = answers[_number(worker, item, step, "answer") % len(answers)]
    return Prompt(
        (Message("user", item.question), Message("assistant", answer)),
        hint=_hint(worker, item, step, (risk_type, level)),
        concept=one_hot(risk_type, level, worker.job.taxonomy),
    )


def _hint(worker: Worker, item: Item, step: int, concept: tuple[int, int]) -> str:
    """The concept's hint if the method shows hints.

    Beside concept tokens only every other time: with its words always there the tokens would learn
    nothing (tried: their loss stays where the hint alone puts it).
    """
    method = worker.job.config.method
    spared = method.shows_concepts and _drawn(worker, item, step, 0.5, what="no hint")
    return "" if spared or not method.shows_hints else hint_of(worker, *concept)


def _drawn(worker: Worker, item: Item, step: int, share: float, *, what: str = "") -> bool:
    return _number(worker, item, step, what) < share * 2**32


def _number(worker: Worker, item: Item, step: int, what: str) -> int:
    """A number below 2**32; `what` tells the draws of one item and step apart."""
    tail = f"/{what}" if what else ""
    key = f"{worker.job.config.seed}/{step}/{item.sample_id}{tail}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big")
