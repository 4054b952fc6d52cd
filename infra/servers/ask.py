"""A question to a server over HTTP, in JSON, past any proxy: all servers are on this machine."""

import json
import urllib.request
from typing import Any

PATIENCE_S = 5.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(url: str, body: Any = None, *, method: str = "", token: str = "") -> Any:
    """The answer's JSON, or its text where it is none; None for an empty one.

    Args:
        url: whom to ask.
        body: sent as JSON, by POST; None asks by GET.
        method: another method.
        token: sent as a bearer's token.

    Raises:
        OSError: nobody answers, or with an error status (urllib's HTTPError).
    """
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method=method or None,
    )
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with _DIRECT.open(request, timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    try:
        return json.loads(text) if text else None
    except json.JSONDecodeError:
        return text
