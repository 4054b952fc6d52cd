"""Rows sorted on disk: in memory are a run of those that come, or a bucket of those that go.

The sort column holds sha256 texts: their first byte deals rows evenly into 64 buckets. Rows are
written in runs, each as one record batch a bucket; a bucket is sorted when it is read.
"""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from infra.digests import digests

BUCKETS = 64
BYTES_PER_RUN = 128_000_000


class Spill:
    """A table on its way through a temporary file; it is written first, then read."""

    def __init__(self, schema: pa.Schema, *, by: str, file: BinaryIO) -> None:
        self._schema = schema
        self._by = by
        self._file = file
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_file(file, schema, options=options)
        self._whole = False
        self._held: list[pa.Table] = []
        self._bytes = 0
        self._runs = 0

    def add(self, table: pa.Table) -> None:
        """Take some rows in."""
        if not table.num_rows:
            return
        self._held.append(table)
        self._bytes += table.nbytes
        if self._bytes >= BYTES_PER_RUN:
            self._write()

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows in order, a bucket at a time; rows of one id in the order in which they came.

        Args:
            columns: to be read alone, then in no order.
        """
        if not self._whole:
            self._write()
            self._writer.close()
            self._whole = True
        fields = [self._schema.get_field_index(name) for name in columns or self._schema.names]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        reader = pa.ipc.open_file(self._file, options=options)
        for bucket in range(BUCKETS):
            batches = map(reader.get_batch, range(bucket, self._runs * BUCKETS, BUCKETS))
            table = pa.Table.from_batches(batches, reader.schema).combine_chunks()
            if table.num_rows:
                yield table if columns else table.sort_by(self._by)

    def _write(self) -> None:
        if not self._held:
            return
        table = pa.concat_tables(self._held)
        self._held, self._bytes = [], 0
        buckets = digests(table[self._by]).view(np.uint8)[::32] // (256 // BUCKETS)
        table = table.take(np.argsort(buckets, kind="stable")).combine_chunks()
        ends = np.cumsum(np.bincount(buckets, minlength=BUCKETS)).tolist()
        (batch,) = table.to_batches()
        for start, end in zip([0, *ends], ends, strict=False):
            self._writer.write_batch(batch.slice(start, end - start))
        self._runs += 1
