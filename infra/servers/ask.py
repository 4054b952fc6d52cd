"""A question to a server over HTTP, in JSON, past any proxy: all servers are on this machine."""

import json
import time
import urllib.request
from typing import Any
from urllib.error import HTTPError

PATIENCE_S = 30.0
# Prefect says 503 while its database is locked, and means: again.
BUSY, TRIES, AGAIN_S = (429, 502, 503), 10, 0.5
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(
    url: str,
    body: Any = None,
    *,
    method: str = "",
    token: str = "",
    patience: float = PATIENCE_S,
) -> Any:
    """The answer's JSON, or its text where it is none; None for an empty one.

    Args:
        url: whom to ask.
        body: sent as JSON, by POST; None asks by GET.
        method: another method.
        token: sent as a bearer's token.
        patience: seconds to wait for an answer.

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
    for left in reversed(range(TRIES)):
        try:
            with _DIRECT.open(request, timeout=patience) as answer:
                text = answer.read().decode()
            break
        except HTTPError as error:
            if error.code not in BUSY or not left:
                raise
            time.sleep(AGAIN_S)
    try:
        return json.loads(text) if text else None
    except json.JSONDecodeError:
        return text
