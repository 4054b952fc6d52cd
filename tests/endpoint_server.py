"""A small OpenAI-compatible endpoint on 127.0.0.1: it answers by a function, and fails as told."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CUT = "cut"


@dataclass
class Endpoint:
    """What it was asked, and what it serves first: codes, (code, headers, JSON), CUT, or bodies."""

    reply: Callable[[str], Any]
    faults: deque[Any] = field(default_factory=deque)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    def address(self, model: str = "small") -> str:
        return f"http://127.0.0.1:{self.port}/v1#{model}"

    @property
    def texts(self) -> list[str]:
        return [text_of(body) for body in self.bodies]


def text_of(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@contextmanager
def served(reply: Callable[[str], Any], *faults: Any) -> Iterator[Endpoint]:
    """An endpoint whose first answers are the faults, all others what `reply` says to the text."""
    endpoint, lock = Endpoint(reply, deque(faults)), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                endpoint.bodies.append(body)
                endpoint.headers.append(dict(self.headers))
                fault = endpoint.faults.popleft() if endpoint.faults else None
            said = endpoint.reply(text_of(body)) if fault is None else fault
            self.tell(said)

        def tell(self, said: Any) -> None:
            if isinstance(said, int):
                said = (said, {})
            if isinstance(said, tuple):
                self.send_response(said[0])
                for name, value in said[1].items():
                    self.send_header(name, value)
                body = json.dumps(said[2]).encode() if len(said) > 2 else b""
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                return
            whole = said if isinstance(said, dict) else completion("" if said is CUT else said)
            data = json.dumps(whole).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:20] if said is CUT else data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


FILTERED_PROMPT = (400, {}, {"error": {"code": "content_filter", "message": "not repeated"}})


def completion(text: str | None, *, refusal: str | None = None, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    choice = {"message": message, "finish_reason": "stop", **more}
    return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}
