"""What goes to and from an OpenAI-compatible endpoint: one question, one reply."""

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

# What an endpoint says of one question, such as a filter's refusal: asking at once again changes
# nothing.
OF_THE_QUESTION = (400, 413, 422)
# The faults of questions declined so: another day's run may ask them again.
PASSING = frozenset(f"http_{status}" for status in OF_THE_QUESTION)
# The fault of a reply that the endpoint's own filter withheld: its code and its `finish_reason`.
# Also of one that came in the field `refusal`: no judge by phrases need know its words.
FILTERED = "content_filter"
# The faults of what counts as an answer: none, and the filter's, which is a refusal.
ANSWERED = frozenset({"", FILTERED})
# The fault of a reply whose tokens were spent before a word was written, as by long reasoning.
LENGTH = "length"
# Raised when the same reply is read otherwise: what was kept of it is asked again.
READING = "2"


@dataclass(frozen=True)
class Question:
    """What is asked: a text, and the encoded bytes of an image if there is one."""

    text: str
    image: bytes | None = None


@dataclass(frozen=True)
class Reply:
    """A text and the tokens that were paid; `fault` says why an endpoint gave no answer."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    fault: str = ""


def body_of(question: Question, *, model: str, max_tokens: int) -> dict[str, Any]:
    """What is sent: one message, its image before its text, to be answered at temperature 0."""
    content: Any = question.text
    if question.image is not None:
        data = base64.b64encode(question.image).decode()
        url = f"data:{_kind(question.image)};base64,{data}"
        picture = {"type": "image_url", "image_url": {"url": url}}
        content = [picture, {"type": "text", "text": question.text}]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }


def _kind(image: bytes) -> str:
    """The media type by the first bytes."""
    if image.startswith(b"\x89PNG"):
        return "image/png"
    if image[:4] == b"RIFF":
        return "image/webp"
    return "image/gif" if image.startswith(b"GIF") else "image/jpeg"


def declined(answer: "httpx.Response") -> Reply:
    """Why a question was not taken: the filter, where the error's code says so, else the status."""
    try:
        code = answer.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = ""
    return Reply("", fault=FILTERED if code == FILTERED else f"http_{answer.status_code}")


def read_reply(answer: "httpx.Response") -> Reply | None:
    """What a chat completion holds; None for what is none."""
    try:
        body = answer.json()
        choice = body["choices"][0]
        text, refusal = (choice["message"].get(name) or "" for name in ("content", "refusal"))
        used = body.get("usage") or {}
        tokens = (int(used.get("prompt_tokens", 0)), int(used.get("completion_tokens", 0)))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    if not isinstance(text, str) or not isinstance(refusal, str):
        return None
    return Reply(text or refusal, *tokens, fault=_fault(text, refusal, choice.get("finish_reason")))


def _fault(text: str, refusal: str, finish: object) -> str:
    """Why there is no answer; a model that says nothing and stops has answered nothing."""
    if text.strip():
        return ""
    if refusal or finish == FILTERED:
        return FILTERED
    return LENGTH if finish == LENGTH else ""
