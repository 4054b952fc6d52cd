"""Who builds: a process that says so in a lease, and may be looked for on its own host."""

import os
import socket
import time
import uuid
from typing import Annotated

from pydantic import Field

from infra.process import alive, started
from schemas.frozen import Frozen

# Seconds that a lease is good for, unless it is renewed.
TTL_S = 60.0


class Lease(Frozen):
    """Who builds: an id for this one build, the process, and until when the lease is good.

    Attributes:
        owner: hex uuid; also the name of the attempt folder.
        host: host name and pid namespace; pids of another namespace say nothing here.
        pid: the process.
        started: boot id and clock ticks at its start: a used pid may come back.
        expires: seconds since 1970, by the holder's clock.
    """

    owner: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    host: str
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    started: str
    expires: float

    @classmethod
    def mine(cls) -> "Lease":
        """Make a lease for this process."""
        pid = os.getpid()
        return cls(
            owner=uuid.uuid4().hex,
            host=_host(),
            pid=pid,
            started=started(pid),
            expires=time.time() + TTL_S,
        )

    def dead(self) -> bool:
        """Whether the holder ran on this host and is gone, as far as can be known."""
        return self.host == _host() and not alive(self.pid, self.started)

    def data(self) -> bytes:
        """Return the lease as its file's content, good for another TTL_S."""
        renewed = self.model_copy(update={"expires": time.time() + TTL_S})
        return renewed.model_dump_json().encode()


def _host() -> str:
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
