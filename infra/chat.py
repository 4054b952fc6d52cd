"""Questions to an OpenAI-compatible endpoint: retries with backoff, tokens counted, no key kept.

The key comes from the environment, travels in one header, and is in no message, log or artifact.
An endpoint's own words about an error are not repeated: some repeat the key.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from infra.completion import OF_THE_QUESTION, Question, Reply, body_of, declined, read_reply
from schemas.errors import ConfigError, PsavlmError, ServerError

if TYPE_CHECKING:
    import httpx

KEYS = ("PSAVLM_ENDPOINT_KEY", "OPENAI_API_KEY")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
AT_ONCE = 8
LONGEST_WAIT_S = 30.0
TOO_MANY, BROKEN = 429, 500


@dataclass(frozen=True)
class Chat:
    """An endpoint as `https://host/v1#model`.

    Args:
        address: the base address that ends before `/chat/completions`, and after # the model.
        tries: how often a question is asked that fails for a passing reason.
        wait_s: before the second try; it doubles with each.
        timeout_s: of one try.

    Raises:
        ConfigError: no such address, one with credentials in it, or a key that would be sent in
            the clear to another machine.
    """

    address: str
    tries: int = 6
    wait_s: float = 1.0
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.fragment:
            raise ConfigError(
                "an endpoint is given as https://host/v1#model, the address that its API begins "
                "with and after # the model's name there"
            )
        if parts.username or parts.password or parts.query:
            raise ConfigError(
                "an endpoint's address must hold no credentials: put the key into the environment "
                f"variable {KEYS[0]}"
            )
        if _key() and parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ConfigError(
                f"a key is set ({' or '.join(KEYS)}) and {parts.hostname} is asked without "
                "encryption: use https://, or unset the key"
            )

    @property
    def model(self) -> str:
        """The model's name at the endpoint."""
        return urlsplit(self.address).fragment

    @property
    def url(self) -> str:
        """Where questions go."""
        return f"{self.address.partition('#')[0].rstrip('/')}/chat/completions"

    def ask_all(
        self, questions: Sequence[Question], *, max_tokens: int, kept: Callable[[int, Reply], None]
    ) -> None:
        """Ask all, several at once; `kept` is told place and reply of each as soon as it is there.

        Raises:
            ConfigError, ServerError: as `ask`, after those that were under way have been told.
        """
        failed: PsavlmError | None = None
        # Futures that are cancelled are not told to `as_completed`, which would wait for ever.
        stopped = Event()

        def ask(question: Question) -> Reply | None:
            return None if stopped.is_set() else self.ask(question, max_tokens=max_tokens)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            asked = {pool.submit(ask, one): place for place, one in enumerate(questions)}
            for done in as_completed(asked):
                try:
                    reply = done.result()
                except PsavlmError as error:
                    failed = failed or error
                    stopped.set()
                    continue
                if reply is not None:
                    kept(asked[done], reply)
        if failed:
            raise failed

    def ask(self, question: Question, *, max_tokens: int) -> Reply:
        """The reply at temperature 0.

        Raises:
            ConfigError: the endpoint does not know the key or the model.
            ServerError: it fails or breaks off, try after try.
        """
        why = ""
        for number in range(self.tries):
            if number:
                time.sleep(self._pause(number, why))
            found, why = self._try(question, max_tokens)
            if found is not None:
                return found
        raise ServerError(
            f"the endpoint of {self.model!r} failed {self.tries} times ({why.partition(';')[0]}): "
            "see whether it is up, then run the same command again: what was answered is kept"
        )

    def _pause(self, number: int, why: str) -> float:
        """Seconds before a try: what the endpoint asks for, else twice as long each time."""
        asked = why.partition(";")[2]
        wait = float(asked) if asked else self.wait_s * 2 ** (number - 1)
        return min(wait, LONGEST_WAIT_S)

    def _try(self, question: Question, max_tokens: int) -> tuple[Reply | None, str]:
        """The reply, or None and why another try may help (with `;seconds` if it is told when)."""
        import httpx

        try:
            answer = self._client.post(
                self.url, json=body_of(question, model=self.model, max_tokens=max_tokens)
            )
        except httpx.HTTPError as error:
            return None, type(error).__name__
        status = answer.status_code
        if status in OF_THE_QUESTION:
            return declined(answer), ""
        if status == TOO_MANY or status >= BROKEN:
            after = answer.headers.get("retry-after", "")
            return None, f"HTTP {status};{after if after.isdecimal() else ''}"
        if status != httpx.codes.OK:
            raise ConfigError(
                f"the endpoint answers HTTP {status} to a question for {self.model!r}: check its "
                f"address, the model's name after #, and the key in {KEYS[0]}"
            )
        reply = read_reply(answer)
        return reply, "" if reply else "an answer that is cut or no chat completion"

    @cached_property
    def _client(self) -> "httpx.Client":
        import httpx

        headers = {"Authorization": f"Bearer {_key()}"} if _key() else {}
        # No proxies from the environment for this machine itself, and no redirect with a key.
        here = urlsplit(self.address).hostname in LOOPBACK
        return httpx.Client(headers=headers, timeout=self.timeout_s, trust_env=not here)


def _key() -> str:
    return next((key for name in KEYS if (key := os.environ.get(name, "").strip())), "")
