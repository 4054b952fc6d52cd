"""The store's file layer: one folder tree, local or in a bucket, behind fsspec.

Every write, rename and removal that the store makes goes through here. Only two acts differ by
root: the conditional put (a hard link locally, `If-None-Match: *` on S3), because fsspec has no
atomic one for local files, and the removal of emptied folders, because a bucket has none.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from infra import disk
from infra.faults import reason, troubles
from infra.found import Found
from schemas.errors import StorageError

HASHERS = 4
# s3fs holds files of up to two parts in memory while it sends them: 4 at a time, not 128.
CARRIERS = 4
PART_BYTES = 50 * 2**20


@dataclass(frozen=True)
class Files:
    """A root and its fsspec filesystem; all paths are relative to the root, with slashes."""

    fs: AbstractFileSystem
    root: str
    address: str

    @classmethod
    def at(cls, address: str, **options: Any) -> "Files":
        """Open a root; `options` go to a bucket's filesystem, imported for `s3://` only."""
        if not address.startswith("s3://"):
            return cls(*url_to_fs(address), address)
        from infra.bucket import Bucket, bucket

        fs = Bucket(**options) if options else bucket()
        return cls(fs, fs._strip_protocol(address), address)

    @property
    def local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return isinstance(self.fs, LocalFileSystem)

    def folder(self, path: str) -> Path:
        """Where a path of a local root lies."""
        return Path(self.root) / path

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, None if there is no such file."""
        with self._told("read", path):
            try:
                # More than one at a time makes s3fs ask for the size first.
                return self.fs.cat_file(f"{self.root}/{path}", max_concurrency=1)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read_part(self, path: str, start: int, size: int) -> bytes | None:
        """Return bytes of a file from `start` on, None if there is no such file."""
        with self._told("read", path):
            try:
                return self.fs.cat_file(f"{self.root}/{path}", start=start, end=start + size)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def put(self, path: str, data: bytes, *, fresh: bool) -> bool:
        """Write a small file in one atomic act.

        Args:
            path: where.
            data: the whole content; unique to this writer if `fresh`.
            fresh: create only: lose if the file exists.

        Returns:
            Whether the stored content is now `data`.
        """
        with self._told("write", path):
            won = self._put(f"{self.root}/{path}", data, fresh=fresh)
        # A put whose answer was lost is repeated by botocore and then meets itself.
        return won or self.read(path) == data

    def remove(self, path: str) -> None:
        """Remove one file; a missing one is fine. Folders that this empties go too."""
        with self._told("remove", path), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{path}")
        self._prune(path)

    def remove_tree(self, path: str) -> None:
        """Remove a folder and all below; a missing one is fine."""
        before = {} if self.local else self.sizes(path)
        with self._told("remove", path), contextlib.suppress(FileNotFoundError):
            self.fs.rm(f"{self.root}/{path}", recursive=True)
        # A bucket refuses objects of one request singly, which s3fs does not tell.
        if before and (kept := before.keys() & self.sizes(path).keys()):
            raise StorageError(
                f"cannot remove {len(kept)} of {len(before)} files below {path} in the store "
                f"{self.address}: the endpoint keeps them; may these credentials delete?"
            )
        self._prune(path)

    def sizes(self, path: str) -> dict[str, int]:
        """List a folder's files at any depth: path relative to the folder -> bytes."""
        base = f"{self.root}/{path}/"
        with self._told("list", path):
            found = self.fs.find(base, detail=True)
        return {
            name.removeprefix(base): int(info["size"])
            for name, info in sorted(found.items())
            if name.startswith(base)
        }

    def found(self) -> dict[str, Found]:
        """List all of the root: path -> Found. Folders of a local root are listed too (0 bytes)."""
        base = f"{self.root}/"
        with self._told("list", "all"):
            listing = self.fs.find(base, detail=True, withdirs=self.local)
        return {
            name.removeprefix(base): Found.of(info)
            for name, info in sorted(listing.items())
            if name.startswith(base)
        }

    def folders(self, path: str) -> list[str]:
        """List the names of the folders directly below a path; none if it is not there."""
        with self._told("list", path), contextlib.suppress(FileNotFoundError):
            found = self.fs.ls(f"{self.root}/{path}", detail=True)
            return sorted(
                info["name"].rstrip("/").rpartition("/")[2]
                for info in found
                if info["type"] == "directory"
            )
        return []

    def hashes(self, path: str, names: Iterable[str]) -> dict[str, str]:
        """Return name -> sha256 hex of files in a folder, streamed, a few at a time."""

        def one(name: str) -> tuple[str, str]:
            with (
                self._told("read", f"{path}/{name}"),
                self.fs.open(f"{self.root}/{path}/{name}", "rb") as file,
            ):
                return name, hashlib.file_digest(file, "sha256").hexdigest()

        with ThreadPoolExecutor(HASHERS) as pool:
            return dict(pool.map(one, names))

    def upload(self, folder: Path, path: str, *, names: Iterable[str]) -> None:
        """Send files of a local folder to a folder of this root."""

        def one(name: str) -> None:
            with self._told("write", f"{path}/{name}"):
                there = f"{self.root}/{path}/{name}"
                self.fs.put_file(str(folder / name), there, **self._pieces(2))

        with ThreadPoolExecutor(CARRIERS) as pool:
            list(pool.map(one, names))

    def download(self, path: str, folder: Path, *, names: Iterable[str]) -> None:
        """Fetch files of a folder of this root into a local folder."""

        def one(name: str) -> None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with self._told("read", f"{path}/{name}"):
                # s3fs goes on where a stream broke, but gives up when one of several does.
                there = f"{self.root}/{path}/{name}"
                self.fs.get_file(there, str(folder / name), **self._pieces(1))

        with ThreadPoolExecutor(CARRIERS) as pool:
            list(pool.map(one, names))

    def _put(self, path: str, data: bytes, *, fresh: bool) -> bool:
        if self.local:
            return disk.put(Path(path), data, fresh=fresh)
        from infra.bucket import put

        return put(self.fs, path, data, fresh=fresh)

    def _pieces(self, at_once: int) -> dict[str, int]:
        """How a bucket's large files travel."""
        return {} if self.local else {"chunksize": PART_BYTES, "max_concurrency": at_once}

    def _prune(self, path: str) -> None:
        if not self.local:
            return
        for parent in list(Path(path).parents)[:-1]:  # the last one is the root itself
            try:
                self.folder(str(parent)).rmdir()
            except OSError:  # not empty, or another process was quicker
                return

    @contextlib.contextmanager
    def _told(self, act: str, path: str) -> Iterator[None]:
        """Turn an error of the filesystem into one message; chained causes could hold secrets."""
        try:
            yield
        except troubles(local=self.local) as error:
            raise StorageError(
                f"cannot {act} {path} in the store {self.address}: "
                f"{reason(error, local=self.local)}"
            ) from None
