"""A model behind any OpenAI-compatible endpoint: hosted, or one of one's own that is served."""

from collections.abc import Sequence

from infra.chat import Chat
from infra.completion import READING, Question
from tasks.respond.responder import Ask, Kept, Responder, Told


def endpoint(address: str) -> Responder:
    """The model at `https://host/v1#model`; ConfigError for an address that is none."""
    chat = Chat(address)

    def answer(asks: Sequence[Ask], longest: int, kept: Kept) -> None:
        chat.ask_all(
            [Question(ask.prompt, ask.data) for ask in asks],
            max_tokens=longest,
            kept=lambda place, reply: kept(place, Told(**vars(reply))),
        )

    identity = {"model": chat.model, "url": chat.url, "reading": READING}
    return Responder(chat.model, identity, lambda: answer, ranks=False)
