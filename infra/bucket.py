"""The one way to S3: s3fs on the usual AWS settings, with retries that end.

botocore repeats a call that is throttled (429, 503), fails on the other side (500, 502, 504) or
loses its connection; s3fs repeats what broke after that: an answer whose body was cut short.
"""

import os
import time
from functools import lru_cache
from typing import Any

from botocore.exceptions import HTTPClientError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem

from infra.faults import GaveUpError, beyond, lost, undecided

# Pauses of up to 1, 2, 4, 8 and 16 s, half of that on average. Mode "standard" lets a 429 without
# a known code through, and "adaptive" slows all calls down for one that was throttled.
PATIENT = {
    "connect_timeout": 5,
    "read_timeout": 10,
    "retries": {"mode": "legacy", "total_max_attempts": 6},
}
# A conditional put that S3 calls undecided: pauses of 0.2, 0.4, 0.8 and 1.6 s.
TRIES = 5
# An upload of several parts of which nothing is heard any more may still be there.
_COMPLETE = "complete_multipart_upload"


class Bucket(S3FileSystem):
    """s3fs that gives up after about a minute, and after four where nothing answers at all."""

    # s3fs multiplies botocore's attempts by these.
    retries = 3

    def __init__(self, **options: Any) -> None:
        # Listings must be fresh: another process may have written since.
        super().__init__(**{"use_listings_cache": False, "config_kwargs": PATIENT, **options})

    async def _cat_file(self, path: str, **options: Any) -> bytes:
        try:
            return await super()._cat_file(path, **options)
        except OSError as error:
            if beyond(error):
                return b""
            raise

    async def _call_s3(self, method: str, *more: Any, **arguments: Any) -> Any:
        """Call S3; GaveUpError where s3fs would begin all over again for the same cause."""
        try:
            return await super()._call_s3(method, *more, **arguments)
        except (TimeoutError, HTTPClientError) as error:
            raise GaveUpError(str(error)) from None
        except FileNotFoundError:
            if method != _COMPLETE:
                raise
            return await self._completed(arguments)

    call_s3 = sync_wrapper(_call_s3)  # what s3fs's open files call

    async def _completed(self, arguments: dict[str, Any]) -> Any:
        """What an upload in parts has made whose answer was lost: repeated, it is unknown.

        Raises:
            FileNotFoundError: there is no object of so many parts.
        """
        place = {name: arguments[name] for name in ("Bucket", "Key")}
        made = await super()._call_s3("head_object", **place)
        parts = len(arguments["MultipartUpload"]["Parts"])
        if not made["ETag"].strip('"').endswith(f"-{parts}"):
            raise FileNotFoundError(f"the upload of {place['Key']} is gone")
        return made


def bucket() -> Bucket:
    """The file system for the settings that the environment holds now."""
    given = ((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return _bucket(os.getpid(), *sorted(given))


@lru_cache
def _bucket(*_settings: int | tuple[str, str]) -> Bucket:
    # s3fs's own cache would give the client of the settings that it has seen first.
    return Bucket(skip_instance_cache=True)


def put(fs: Bucket, path: str, data: bytes, *, fresh: bool) -> bool:
    """Write a small object; False if it is to be `fresh` and is there already."""
    tried = 0
    while True:
        try:
            fs.pipe_file(path, data, mode="create" if fresh else "overwrite")
            return True
        except OSError as error:
            if fresh and lost(error):
                return False
            tried += 1
            # Another put, perhaps our own whose answer was lost, is under way.
            if not undecided(error) or tried == TRIES:
                raise
        time.sleep(0.1 * 2**tried)
