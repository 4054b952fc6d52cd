"""Models by any name, as one thing that answers."""

from tasks.respond.choose import choose_responder, responder_of, stored
from tasks.respond.responder import Answering, Ask, Responder, Told

__all__ = [
    "Answering", "Ask", "Responder", "Told", "choose_responder", "responder_of",
    "stored",
]  # fmt: skip
