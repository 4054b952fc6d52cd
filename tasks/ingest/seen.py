"""Which image a file held when it was last read: what is unchanged need not be read again.

Only for folders that are known by size and time or ETag (infra/identity.py): where the content is
hashed anyway, nothing is gained. A lost or old note costs reading, never a wrong image: an id that
the library does not have is read. In memory a note takes 48 bytes.
"""

import io
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.digests import Lookup, binary, raw
from infra.files import Files
from infra.identity import Folder
from infra.store import Store

FOLDER = "seen"
SCHEMA = pa.schema([("file", pa.binary(16)), ("image", pa.binary(32))])
# Notes that are held one by one before they become compact.
FRESH = 16_384


class Seen:
    """The notes on one image folder; a folder of unknown content has none."""

    def __init__(self, store: Store, folder: Folder | None) -> None:
        self._folder = folder if folder and folder.stamped else None
        self._notes = Lookup("S32", absent=b"")
        self._fresh: dict[bytes, bytes] = {}
        # What a file was before it was read: one that changes meanwhile is not noted.
        self._asked: dict[str, bytes | None] = {}
        self._noted = False
        if self._folder:
            self._files = Files.at(store.root)
            name = sha256(self._folder.uri.encode()).hexdigest()[:24]
            self._path = f"{FOLDER}/{name}.parquet"
            if data := self._files.read(self._path):
                self._notes.add(*_parsed(data))

    def image_of(self, name: str) -> str | None:
        """The id of the image that this file held, if the file is still the same."""
        key = self._asked[name] = self._key(name)
        return self._image(key).hex() or None if key else None

    def note(self, name: str, image_id: str) -> None:
        """Remember what a file held."""
        key, image = self._asked.pop(name, None), bytes.fromhex(image_id)
        if key and key == self._key(name) and self._image(key) != image:
            self._fresh[key] = image
            self._noted = True
            if len(self._fresh) == FRESH:
                self._settle()

    def save(self) -> None:
        """Write the notes, if any is new."""
        if not self._noted:
            return
        self._settle()
        files, images = self._notes.items()
        table = pa.table([binary(files), binary(images)], schema=SCHEMA)
        out = io.BytesIO()
        pq.write_table(table, out)
        self._files.put(self._path, out.getvalue(), fresh=False)

    def _key(self, name: str) -> bytes | None:
        stamp = self._folder.stamp(name) if self._folder else None
        return sha256(f"{name}\n{stamp}".encode()).digest()[:16] if stamp else None

    def _image(self, key: bytes) -> bytes:
        """The digest of the image that is noted under a key, else nothing."""
        if found := self._fresh.get(key):
            return found
        image = self._notes.find(np.frombuffer(key, "S16"))
        return image.tobytes() if image[0] else b""

    def _settle(self) -> None:
        files, images = (
            np.frombuffer(b"".join(side), dtype)
            for side, dtype in ((self._fresh, "S16"), (self._fresh.values(), "S32"))
        )
        # Threads ask meanwhile: what is noted must be in the one or the other.
        self._notes.add(files, images)
        self._fresh = {}


def _parsed(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        table = pq.read_table(io.BytesIO(data)).cast(SCHEMA)
        return raw(table["file"]), raw(table["image"])
    except (pa.ArrowException, KeyError, OSError):  # written by half, or by another version
        return np.empty(0, "S16"), np.empty(0, "S32")
