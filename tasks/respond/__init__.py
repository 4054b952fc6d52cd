"""Models by any name, as one thing that answers."""

from tasks.respond.choose import choose_responder, responder_of, stored
from tasks.respond.responder import Answering, Ask, Responder, Told, check_crew

__all__ = [
    "Answering", "Ask", "Responder", "Told", "check_crew", "choose_responder", "responder_of",
    "stored",
]  # fmt: skip
