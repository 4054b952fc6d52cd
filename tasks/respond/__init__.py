"""Models by any name, as one thing that answers."""

from tasks.respond.again import DECLINED, asked_again
from tasks.respond.choose import choose_responder, responder_of, stored
from tasks.respond.responder import Answering, Ask, Responder, Told

__all__ = [
    "DECLINED", "Answering", "Ask", "Responder", "Told", "asked_again", "choose_responder",
    "responder_of", "stored",
]  # fmt: skip
