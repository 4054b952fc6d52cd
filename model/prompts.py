"""Conversations to tokens in the base's own template, and which tokens are the answer's.

LLaVA-1.5's: USER: <image>\\n<hint>\\n<question> ASSISTANT: <answer></s>
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from model.backbone import Backbone
from model.losses import IGNORED
from schemas.errors import DataError
from schemas.samples import Message

ROLES = ("user", "assistant")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Concept:
    """What is told about an image: probabilities of the types [K] and of the levels [L]."""

    types: tuple[float, ...]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Prompt:
    """A conversation: user and assistant take turns. `supervised` False masks all its labels.

    `hint` stands before the first question; the tokens of `concept` stand after it, where the
    language model heeds them most (METHOD.md section 7.5).
    """

    messages: tuple[Message, ...]
    hint: str = ""
    supervised: bool = True
    concept: Concept | None = None


@dataclass(frozen=True)
class Tokens:
    """Token ids of a conversation with one image placeholder, and labels: -100 off the answers.

    `asked` is the place in `ids` behind the first question.
    """

    ids: list[int]
    labels: list[int]
    asked: int


def ask(question: str, *, hint: str = "", concept: Concept | None = None) -> Prompt:
    """A prompt that waits for its answer."""
    return Prompt((Message("user", question),), hint=hint, concept=concept)


def teach(question: str, answer: str, *, hint: str = "", supervised: bool = True) -> Prompt:
    """A question with the answer to learn."""
    messages = (Message("user", question), Message("assistant", answer))
    return Prompt(messages, hint=hint, supervised=supervised)


def plain(backbone: Backbone, text: str) -> str:
    """The text of a user or of data, stripped, its control tokens and placeholders broken up."""
    for token in backbone.control_tokens:
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text.strip()


def tokenize(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    *,
    with_image: Sequence[bool],
    training: bool,
    limit: int | None = None,
) -> list[Tokens]:
    """Each prompt's tokens; equal conversations are cut into tokens once.

    The text is tokenised whole, as by the base's own processor, and the answer found by character
    offsets: tokenised on its own it would begin differently under some tokenizers.

    Args:
        backbone: gives the tokenizer.
        prompts: the conversations.
        with_image: whether the first user turn begins with the image placeholder.
        training: conversations end with an answer; otherwise with a question.
        limit: most tokens of a conversation. A longer answer is cut with a warning: its end is
            then not taught.

    Raises:
        DataError: turns out of order, a prompt over the limit, or nothing left of an answer.
    """
    rendered = []
    for prompt, image in zip(prompts, with_image, strict=True):
        _check_turns(prompt, training=training)
        rendered.append(_render(backbone, prompt, image=image))
    unique = list(dict.fromkeys(text for text, _, _ in rendered))
    encoded = backbone.tokenizer(unique, return_offsets_mapping=True)
    place = {text: i for i, text in enumerate(unique)}
    out = []
    for prompt, (text, asked, answers) in zip(prompts, rendered, strict=True):
        ids = encoded["input_ids"][place[text]]
        spans = encoded["offset_mapping"][place[text]]
        labels = _labels(ids, spans, answers if prompt.supervised else [])
        tokens = Tokens(ids, labels, next(i for i, (_, end) in enumerate(spans) if end > asked))
        out.append(_cut(tokens, prompt, limit))
    return out


def _check_turns(prompt: Prompt, *, training: bool) -> None:
    roles = [message.role for message in prompt.messages]
    expected = [ROLES[turn % 2] for turn in range(len(roles))]
    answered = len(roles) % 2 == 0
    usable = (answered or not prompt.supervised) if training else not answered
    if not roles or roles != expected or not usable:
        last = "an answer" if training else "a question"
        raise DataError(
            f"a conversation with turns {roles} cannot be used: user and assistant must take "
            f"turns, and {last} comes last; see the source's reader"
        )


def _render(backbone: Backbone, prompt: Prompt, *, image: bool) -> tuple[str, int, list[range]]:
    """The text with its placeholder, where its first question ends, every answer with its eos."""
    template = backbone.template
    block = template.image.format(image=backbone.image_token) if image else ""
    hint = f"{plain(backbone, prompt.hint)}\n" if prompt.hint else ""
    text, opening, asked = template.system, block + hint, 0
    answers = []
    for message in prompt.messages:
        words = plain(backbone, message.text)
        if message.role == "user":
            text += f"{template.user}{opening}{words}"
            asked = asked or len(text)
            text += template.asked
            opening = ""
        else:
            answer = f"{template.answer}{words}{backbone.tokenizer.eos_token}"
            answers.append(range(len(text), len(text) + len(answer)))
            text += answer + template.told
    return text, asked, answers


def _labels(
    ids: Sequence[int], spans: Sequence[tuple[int, int]], answers: Sequence[range]
) -> list[int]:
    def taught(start: int, end: int) -> bool:
        return any(end > answer.start and start < answer.stop for answer in answers)

    return [token if taught(*span) else IGNORED for token, span in zip(ids, spans, strict=True)]


def _cut(tokens: Tokens, prompt: Prompt, limit: int | None) -> Tokens:
    if limit is None or len(tokens.ids) <= limit:
        return tokens
    start = prompt.messages[0].text[:60]
    kept = Tokens(tokens.ids[:limit], tokens.labels[:limit], tokens.asked)
    if prompt.supervised and all(label == IGNORED for label in kept.labels):
        raise DataError(
            f"{len(tokens.ids)} text tokens, limit {limit}, and the question {start!r} leaves no "
            "room for its answer: raise max_text_tokens or drop the row"
        )
    logger.warning("answer cut: %d text tokens, limit %d, %r", len(tokens.ids), limit, start)
    return kept
