"""The library of a root: each thing once, in shards that never change, on disk and in a bucket."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.library import INDEX, Library, vanished
from infra.store import Store
from schemas.errors import StorageError
from tests.s3_server import BUCKET, s3_server


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    with s3_server() as settings:
        yield settings


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    for name, value in request.getfixturevalue("bucket").items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{BUCKET}/{tmp_path.name}")


def names(*numbers: int) -> list[str]:
    return sorted(hashlib.sha256(bytes([n])).hexdigest() for n in numbers)


def keep(library: Library, ids: list[str]) -> None:
    index = pa.table({"id": ids, "first": [name[0] for name in ids]})
    library.add(index, lambda folder: (folder / "text").write_text("".join(ids)))


def test_what_is_kept_is_found_by_every_later_reader(store: Store):
    mine = Library(store, "things", 1)
    assert mine.missing(names(1, 2)) == names(1, 2)
    keep(mine, names(1, 2, 3))
    keep(mine, names(4, 5))
    for library in (mine, Library(store, "things", 1)):
        assert library.missing(names(5, 6, 1)) == names(6)
        asked = names(1, 2, 3, 4, 5)[::-1]
        rows = library.index.take(library.places(asked)).to_pylist()
        assert [row["id"] for row in rows] == asked
        within = library.rows_within(asked)
        for number, positions in library.spread(asked).items():
            text = (library.folder(number) / "text").read_text()
            for position in positions:
                start = 64 * within[position]
                assert text[start : start + 64] == asked[position]


def test_a_library_has_only_the_shards_of_its_key_and_version(store: Store):
    keep(Library(store, "things", 1, encoder="a"), names(1))
    assert Library(store, "things", 1, encoder="a").missing(names(1)) == []
    for other in (Library(store, "things", 1, encoder="b"), Library(store, "things", 2)):
        assert other.missing(names(1)) == names(1)
        assert other.shards == []


def test_an_unknown_id_is_told_by_name(store: Store):
    library = Library(store, "things", 1)
    keep(library, names(1))
    with pytest.raises(KeyError, match=names(9)[0]):
        library.spread(names(1, 9))


def test_an_id_in_two_shards_counts_once_and_the_same_shard_twice_is_one(store: Store):
    library = Library(store, "things", 1)
    for ids in (names(1, 2), names(2, 3), names(1, 2)):
        keep(library, ids)
    assert len(library.shards) == 2
    assert (library.places(names(1, 2, 3)) >= 0).all()


def test_a_shard_whose_index_is_damaged_is_taken_out_of_use(tmp_path: Path):
    store = Store(str(tmp_path))
    keep(Library(store, "things", 1), names(1))
    (index,) = tmp_path.glob(f"things/*/attempts/*/{INDEX}")
    index.write_bytes(bytes(len(index.read_bytes())))
    library = Library(store, "things", 1)
    assert library.missing(names(1)) == names(1)
    keep(library, names(1))
    assert Library(store, "things", 1).missing(names(1)) == []


def test_an_artifact_whose_things_are_gone_is_made_anew(store: Store):
    def build(folder: Path) -> dict[str, int]:
        np.save(folder / "a.npy", np.zeros(1))
        return {}

    artifact = store.artifact("step", 1, config={}, build=build)
    with pytest.raises(StorageError) as told:
        raise vanished(artifact, what="its things are gone")
    assert str(told.value).endswith("its things are gone; run the same command again to make "
                                    "them anew")  # fmt: skip
    assert not store.artifact("step", 1, config={}, build=build).reused
