"""An S3 server that fails: a proxy on 127.0.0.1 which answers some requests as a bad day would."""

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CODES = {
    "slow down": (503, "SlowDown"),
    "internal error": (500, "InternalError"),
    "too many": (429, "TooManyRequests"),
    "undecided": (409, "ConditionalRequestConflict"),
}
BARE = {"bad gateway": 502, "gateway timeout": 504}  # a load balancer's, without any XML
BREAKS = ("broken", "lost", "cut")
KEPT = (
    "<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    "</DeleteResult>"
)
SILENT_S = 1.0
# What may happen to any request; what only some meet is left out.
WEATHER = ("slow down", "internal error", "too many", *BARE, *BREAKS)
DROPPED = {"connection", "transfer-encoding", "content-length"}
Choose = Callable[[str, str], str | None]


class Weather:
    """What goes wrong with the next request: a kind of WEATHER at a rate, by a seed."""

    def __init__(self, rate: float, *, seed: int, kinds: tuple[str, ...] = WEATHER) -> None:
        self._draw = random.Random(seed)
        self._rate, self._kinds = rate, kinds
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> str | None:
        with self._lock:
            bad = self._draw.random() < self._rate
            return self._draw.choice(self._kinds) if bad else None


class Proxy(ThreadingHTTPServer):
    """The server's other address.

    Attributes:
        choose: method, path -> what goes wrong: a key of CODES or BARE; "broken" closes before the
            request is passed on, "lost" after, "cut" sends half of the answer's body, "silent" is
            late, "kept" refuses the objects of a removal; None passes.
        deaf: headers in small letters that are not passed on.
        met: how often each fault was met; "" counts what was passed.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str, choose: Choose, deaf: frozenset[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.choose = choose
        self.deaf = deaf
        self.met: Counter[str] = Counter()
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves in mid-answer is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _serve(self) -> None:
        body = self._body()
        fault = self.server.choose(self.command, self.path)
        self.server.met[fault or ""] += 1
        if fault == "broken":
            return self._break()
        if fault == "silent":
            time.sleep(SILENT_S)
        if fault == "kept":
            return self._answer(200, [("Content-Type", "application/xml")], KEPT.encode())
        if fault in CODES:
            code, word = CODES[fault]
            text = f"<Error><Code>{word}</Code><Message>{word}, says the proxy</Message></Error>"
            return self._answer(code, [("Content-Type", "application/xml")], text.encode())
        if fault in BARE:
            return self._answer(BARE[fault], [], b"<html>gateway</html>")
        status, headers, content = self._pass_on(body)
        if fault == "lost" or (fault == "cut" and not content):
            return self._break()
        self._answer(status, headers, content, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = HTTPConnection(self.server.upstream, timeout=60)
        deaf = self.server.deaf | {"transfer-encoding", "expect"}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in deaf}
        headers["Content-Length"] = str(len(body))
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() not in DROPPED:
                self.send_header(name, value)
            elif name.lower() == "content-length" and self.command == "HEAD":
                length = value
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._break()

    def _break(self) -> None:
        """Close with a reset where nothing was sent, as a dying server does."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        self.connection.shutdown(socket.SHUT_WR)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def faulty(
    upstream: str, choose: Choose = lambda method, path: None, *, deaf: tuple[str, ...] = ()
) -> Iterator[Proxy]:
    """A proxy in front of an S3 server; see Proxy."""
    proxy = Proxy(upstream, choose, frozenset(deaf))
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
