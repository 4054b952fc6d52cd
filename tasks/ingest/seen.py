"""Which image a file held when it was last read: what is unchanged need not be read again.

Only for folders that are known by size and time or ETag (infra/identity.py): where the content is
hashed anyway, nothing is gained. A lost or old note costs reading, never a wrong image: an id that
the library does not have is read.
"""

import io
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq

from infra.files import Files
from infra.identity import is_stamped, stamper
from infra.store import Store

FOLDER = "seen"
SCHEMA = pa.schema([("file", pa.binary(16)), ("image", pa.binary(32))])


class Seen:
    """The notes on one image folder; a folder of unknown content has none."""

    def __init__(self, store: Store, images: str) -> None:
        self._files = Files.at(store.root)
        self._path = f"{FOLDER}/{sha256(images.encode()).hexdigest()[:24]}.parquet"
        self._noted: dict[bytes, bytes] = {}
        self._fresh = False
        stamped = bool(images) and is_stamped(images)
        self._stamp = stamper(images) if stamped else (lambda name: None)
        if stamped and (data := self._files.read(self._path)):
            self._noted = _parsed(data)

    def image_of(self, name: str) -> str | None:
        """The id of the image that this file held, if the file is still the same."""
        key = self._key(name)
        found = self._noted.get(key) if key else None
        return found.hex() if found else None

    def note(self, name: str, image_id: str) -> None:
        """Remember what a file held."""
        if key := self._key(name):
            self._noted[key] = bytes.fromhex(image_id)
            self._fresh = True

    def save(self) -> None:
        """Write the notes, if any is new."""
        if not self._fresh:
            return
        columns = [sorted(self._noted), [self._noted[key] for key in sorted(self._noted)]]
        out = io.BytesIO()
        pq.write_table(pa.table(columns, schema=SCHEMA), out)
        self._files.put(self._path, out.getvalue(), fresh=False)

    def _key(self, name: str) -> bytes | None:
        stamp = self._stamp(name)
        return sha256(f"{name}\n{stamp}".encode()).digest()[:16] if stamp else None


def _parsed(data: bytes) -> dict[bytes, bytes]:
    try:
        table = pq.read_table(io.BytesIO(data)).cast(SCHEMA)
    except (pa.ArrowException, KeyError):  # written by half, or by another version
        return {}
    return dict(zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True))
