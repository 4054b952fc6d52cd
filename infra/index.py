"""The index of a shard or an artifact: a Parquet table that lists things by id, first column."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.digests import digests
from infra.files import Files
from infra.integrity import DamagedError, attempt
from schemas.artifact import Manifest

INDEX = "index.parquet"


def read_index(
    files: Files, manifest: Manifest, path: str = INDEX, *, facts: bool = False
) -> tuple[np.ndarray, pa.Table]:
    """The digests [N] S32 that an index lists, and what it tells: the ids alone, or all `facts`.

    Raises:
        DamagedError: the file is not what the manifest says; its size is looked at, not its hash.
    """
    where = f"{attempt(manifest)}/{path}"
    data = files.read(where)
    entry = next((entry for entry in manifest.files if entry.path == path), None)
    if data is None or entry is None or len(data) != entry.bytes:
        raise DamagedError(f"{files.address}/{where} is missing or cut short")
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        table = file.read(columns=None if facts else file.schema_arrow.names[:1])
        return digests(table.column(0)), table
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise DamagedError(f"{files.address}/{where} lists no ids: {error}") from None
