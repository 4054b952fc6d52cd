"""The library of a root: each thing once, in shards that never change, on disk and in a bucket."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.digests import Lookup, binary, digests, raw, texts, within
from infra.library import INDEX, Library, vanished
from infra.parts import part_name, write_parts, write_stream
from infra.spill import Spill
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
        told = [{"id": name, "first": name[0]} for name in asked]
        assert library.facts(asked).to_pylist() == told
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


def test_facts_of_a_damaged_shard_are_an_error_and_the_next_run_makes_it_anew(tmp_path: Path):
    store = Store(str(tmp_path))
    library = Library(store, "things", 1)
    keep(library, names(1))
    (index,) = tmp_path.glob(f"things/*/attempts/*/{INDEX}")
    index.write_bytes(b"")
    with pytest.raises(StorageError, match=r"damaged: .* is missing or cut short"):
        library.facts(names(1))
    assert Library(store, "things", 1).missing(names(1)) == names(1)


def test_ids_that_are_no_digests_are_damage(tmp_path: Path):
    store = Store(str(tmp_path))
    keep(Library(store, "things", 1), names(1))
    (index,) = tmp_path.glob(f"things/*/attempts/*/{INDEX}")
    size = index.stat().st_size
    pq.write_table(pa.table({"id": ["no digest"]}), index)
    index.write_bytes(index.read_bytes().ljust(size)[:size])
    assert Library(store, "things", 1).missing(names(1)) == names(1)


def test_what_comes_in_a_thousand_pieces_lies_in_few_arrays_and_is_found():
    """Lookups cost as many searches as there are arrays; each thing is moved as seldom."""
    draw, known, moved = np.random.default_rng(0), {}, 0
    lookup = Lookup("int64", absent=-1)
    for piece in range(1000):
        keys = np.frombuffer(draw.bytes(32 * 16), "S32")
        lookup.add(keys, np.arange(16) + 16 * piece)
        known |= {keys[i : i + 1].tobytes(): i + 16 * piece for i in range(16)}
        sizes = [len(run) for run, _ in lookup._runs]
        assert sum(sizes) == 16 * (piece + 1)
        assert all(one >= 4 * two for one, two in pairwise(sizes))
        moved += sizes[-1]
    assert moved < 1000 * 16 * 4 * 6  # not 1000 * 8000, as if all were sorted each time
    keys = np.frombuffer(b"".join(known), "S32")
    assert lookup.find(keys).tolist() == list(known.values())
    assert (lookup.find(np.frombuffer(draw.bytes(32 * 100), "S32")) == -1).all()


def test_the_later_value_of_a_key_counts_and_digests_that_end_in_zeros_stay_whole():
    keys = [bytes([n]) * 30 + b"\0\0" for n in range(3)] + [b"\1" * 31 + b"\0"]
    array = np.frombuffer(b"".join(keys), "S32")
    lookup = Lookup("S32", absent=b"")
    assert lookup.find(array).tolist() == [b""] * 4
    lookup.add(array[:3], array[:3])
    lookup.add(array[1:2], array[2:3])
    lookup.add(array[3:], array[3:])
    values = array[[0, 2, 2, 3]]
    assert lookup.find(array).tobytes() == values.tobytes()
    assert [part.tobytes() for part in lookup.items()] == [
        array[[0, 1, 3, 2]].tobytes(), values[[0, 1, 3, 2]].tobytes()
    ]  # fmt: skip


def test_digests_are_read_from_texts_and_from_arrow_and_written_again():
    ids = names(*range(40))
    table = pa.chunked_array([ids[:7], [], ids[7:]], pa.string()).slice(3, 30)
    assert texts(digests(ids)) == ids
    assert texts(digests(table)) == ids[3:33]
    assert texts(raw(binary(digests(ids)[5:9]))) == ids[5:9]
    assert texts(digests([])) == texts(digests(pa.array([], pa.string()))) == []
    assert within(digests(ids[::2]), digests(sorted(ids[:9]))).tolist() == [True] * 5 + [False] * 15
    assert not within(digests(ids), digests([])).any()
    for bad in ([ids[0][:-1]], ["x" * 64], [None]):
        with pytest.raises(ValueError):
            digests(pa.array(bad, pa.string()))


# --- rows sorted on disk ---


@pytest.mark.parametrize("size", [1, 3_000, 10**9])
def test_rows_through_the_disk_are_the_files_of_rows_in_memory(tmp_path, monkeypatch, size):
    """Also with rows of one id, which stay in the order in which they came."""
    monkeypatch.setattr("infra.spill.BYTES_PER_RUN", size)
    draw = np.random.default_rng(0)
    ids = [hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(900)]
    drawn = [ids[i] for i in draw.integers(0, 900, 2_000)]
    lists = [[{"a": str(n)}] * (n % 3) for n in range(2_000)]
    table = pa.table({"n": range(2_000), "id": drawn, "lists": lists})
    write_parts(table.sort_by("id"), tmp_path / "memory")
    with TemporaryFile() as file:
        spill = Spill(table.schema, by="id", file=file)
        for start in range(0, 2_000, 64):
            spill.add(table.slice(start, 64))
        alone = pa.concat_tables(spill.tables(["lists"]))
        write_stream(spill.tables(), table.schema, tmp_path / "disk")
    assert alone.column_names == ["lists"]
    assert sorted(map(str, alone["lists"].to_pylist())) == sorted(map(str, lists))
    made, wanted = ((tmp_path / way / part_name(0)).read_bytes() for way in ("disk", "memory"))
    assert made == wanted


def test_no_rows_through_the_disk_are_a_table_without_rows():
    with TemporaryFile() as file:
        spill = Spill(pa.schema([("id", pa.string())]), by="id", file=file)
        assert sum(table.num_rows for table in spill.tables()) == 0


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
