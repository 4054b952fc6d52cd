"""Ingest: every item is a row or a reject with a reason, whatever order things come in."""

import hashlib
import io
import json
import os
import random
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tasks.ingest.loading as loading
from infra.parts import read_parts
from infra.store import Store
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import ConfigError, DataError, StorageError
from schemas.samples import IMAGES, REJECTS, ROWS
from tasks.decoder.children import decode_all
from tasks.decoder.strict import Facts, Refusal
from tasks.images import read_images
from tasks.ingest import VERSION, build_samples, ingest
from tasks.ingest.groups import group_images, near_pairs
from tasks.ingest.splits import assign_split


def bmp(shade: int) -> bytes:
    """A 2x2 image written by hand: its bytes depend on no library."""
    pixels = (bytes([shade % 256, shade // 256, 7]) * 2 + b"\0\0") * 2
    header = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    return (
        header + struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 24, 0, len(pixels), 0, 0, 0, 0) + pixels
    )


def encoded(kind: str) -> bytes:
    noise, out = random.Random(0).randbytes(3 * 40 * 30), io.BytesIO()
    image = Image.frombytes("RGB", (40, 30), noise)
    image.save(out, kind)
    return out.getvalue()


def table(folder: Path, rows: list[dict], *, name="t", **settings) -> SourceConfig:
    """A JSON Lines source; rows lacking type and level are clean."""
    folder.mkdir(exist_ok=True)
    full = [{"question": f"q{i}", "type": "clean", **row} for i, row in enumerate(rows)]
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in full))
    (folder / "images").mkdir(exist_ok=True)
    pictured = any("image" in row for row in rows)
    settings = {"images": str(folder / "images") if pictured else "", "name": name, **settings}
    return SourceConfig(format="table", uri=str(path), **settings)


def built(folder: Path, *sources: SourceConfig, **settings) -> tuple[dict, list[dict], list[dict]]:
    """Counts, rows and rejects of a build; the law of counting holds every time."""
    folder.mkdir()
    named = {s.name: s for s in sources}
    store = Store(f"{folder}-store")
    counts = build_samples(folder, IngestConfig(**settings), named, store=store)
    rows = read_parts(folder / "rows", ROWS).to_pylist()
    rejects = read_parts(folder / "rejects", REJECTS).to_pylist()
    assert counts["in"] == counts["accepted"] + counts["rejected"]
    assert (counts["accepted"], counts["rejected"]) == (len(rows), len(rejects))
    return counts, rows, rejects


def files(folder: Path) -> dict[str, str]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


# --- images ---


def test_every_bad_image_is_a_reject_with_its_reason_and_the_good_ones_stay(tmp_path):
    images = tmp_path / "in" / "images"
    images.mkdir(parents=True)
    (tmp_path / "secret.bmp").write_bytes(bmp(1))
    (images / "good.bmp").write_bytes(bmp(2))
    (images / "cut.png").write_bytes(encoded("PNG")[:400])
    (images / "words.png").write_bytes(b"these are words")
    (images / "empty.png").write_bytes(b"")
    (images / "page.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (images / "heavy.bmp").write_bytes(bmp(3) + bytes(3000))
    Image.new("RGB", (200, 60)).save(images / "wide.png")
    (images / "folder").mkdir()
    (images / "link.bmp").symlink_to(tmp_path / "secret.bmp")
    os.mkfifo(images / "pipe.bmp")
    expected = {
        "good.bmp": None,
        "cut.png": "image_unreadable",
        "words.png": "image_unreadable",
        "empty.png": "image_unreadable",
        "page.svg": "image_unreadable",
        "heavy.bmp": "image_too_big",
        "wide.png": "image_too_many_pixels",
        "none.png": "image_missing",
        "folder": "image_missing",
        "pipe.bmp": "image_missing",
        "x" * 300: "image_missing",
        "link.bmp": "path_outside_folder",
        "../../secret.bmp": "path_outside_folder",
        "..\\secret.bmp": "path_outside_folder",
        str(tmp_path / "secret.bmp"): "path_outside_folder",
        "file:///etc/hostname": "path_outside_folder",
        "a\0b": "path_outside_folder",
        "http://127.0.0.1:9/a.png": "remote_image",
    }
    source = table(tmp_path / "in", [{"image": name} for name in expected])
    counts, rows, rejects = built(
        tmp_path / "out", source, max_image_bytes=2500, max_image_pixels=5000
    )
    reasons = {r["source_key"]: r["reason"] for r in rejects}
    keys = [f"t.jsonl:{i + 1}" for i in range(len(expected))]
    assert [reasons.get(key) for key in keys] == list(expected.values())
    assert [row["image_ids"] for row in rows] == [[hashlib.sha256(bmp(2)).hexdigest()]]
    assert counts == {
        "in": 18,
        "accepted": 1,
        "rejected": 17,
        "images": 1,
        "decoded": 1,
        "new_bytes": 70,
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_an_image_is_read_whole_and_refused_at_every_cut(kind):
    whole = encoded(kind)
    (kept,) = decode_all([whole], max_pixels=1200)
    assert isinstance(kept, Facts)
    assert (kept.format, kept.width, kept.height, len(kept.phash)) == (kind, 40, 30, 64)
    cuts = [len(whole) * part // 40 for part in range(39)]
    found = decode_all([whole[:cut] for cut in cuts], max_pixels=1200)
    assert {getattr(f, "reason", "accepted") for f in found} == {"image_unreadable"}


@pytest.mark.parametrize("side", [8_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    bomb = header + struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT" + bytes(4)
    (found,) = decode_all([bomb], max_pixels=IngestConfig().max_image_pixels)
    assert isinstance(found, Refusal)
    assert found.reason == "image_too_many_pixels"


def test_an_image_by_path_needs_a_folder(tmp_path):
    source = table(tmp_path / "in", [{"image": "a.bmp"}], images="")
    with pytest.raises(ConfigError, match="images="):
        built(tmp_path / "out", source)


def test_an_image_is_stored_once_under_its_hash_in_small_row_groups(tmp_path):
    source = table(tmp_path / "in", [{"image": f"{i % 300}.bmp"} for i in range(600)])
    for shade in range(300):
        (tmp_path / "in" / "images" / f"{shade}.bmp").write_bytes(bmp(shade))
    counts, _, _ = built(tmp_path / "out", source)
    assert counts["images"] == 300
    known = read_parts(tmp_path / "out" / "images", IMAGES)["image_id"].to_pylist()
    (path,) = tmp_path.glob("out-store/images/*/attempts/*/images.parquet")
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] == [256, 44]
    column = file.metadata.row_group(0).column(1)
    assert (column.compression, column.is_stats_set) == ("UNCOMPRESSED", False)
    stored = file.read().to_pylist()
    assert all(hashlib.sha256(s["bytes"]).hexdigest() == s["image_id"] for s in stored)
    assert [s["image_id"] for s in stored] == known == sorted(known)


# --- slips of the pen ---


@pytest.mark.parametrize(
    ("header", "settings", "words"),
    [
        ("question,type,imgae", {"images": "."}, "column 'image' is missing"),
        ("question,type,imgae", {}, "no column 'image'; is 'imgae' meant?"),
        ("question,type,spilt", {}, "no column 'split'; is 'spilt' meant?"),
        ("question,type,anwser", {}, "no column 'answer'; is 'anwser' meant?"),
    ],
)
def test_a_misspelt_column_is_told_and_not_left_out(tmp_path, header, settings, words):
    (tmp_path / "t.csv").write_text(f"{header}\nq,clean,x\n")
    settings = {name: str(tmp_path) for name in settings}
    source = SourceConfig(format="table", uri=f"{tmp_path}/t.csv", name="t", **settings)
    with pytest.raises(DataError) as error:
        built(tmp_path / "out", source)
    assert words in str(error.value)
    column = header.rpartition(",")[2]
    absent = {"imgae": "image", "spilt": "split", "anwser": "answer"}[column]
    meant = source.model_copy(update={"columns": {absent: ""}})
    assert built(tmp_path / "as-meant", meant)[0]["accepted"] == 1


def test_a_row_that_contradicts_its_sources_split_is_an_error(tmp_path):
    source = table(tmp_path / "in", [{"split": "train"}], split="test")
    with pytest.raises(DataError, match="its split is 'train', and the source says split=test"):
        built(tmp_path / "out", source)


def test_a_format_with_fields_of_its_own_takes_no_columns(tmp_path):
    source = SourceConfig(format="llava", uri="x.json", constants={"type": "privacy"})
    with pytest.raises(ConfigError, match="llava has fields of its own and takes no constants"):
        ingest(IngestConfig(sources=(source,)), store=Store(str(tmp_path / "store")))


# --- labels and splits ---


@pytest.mark.parametrize("value", ["other", "", None, "Clean"])
def test_an_unknown_label_names_source_file_row_and_value(tmp_path, value):
    source = table(tmp_path / "in", [{}, {"type": value, "level": 1}])
    with pytest.raises(DataError) as error:
        built(tmp_path / "out", source)
    assert f"source 't', t.jsonl:2: unknown label {value!r}" in str(error.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"type": "privacy"}, "t.jsonl:1: type 'privacy' without a level"),
        ({"type": "privacy", "level": 9}, "t.jsonl:1: unknown risk level '9'"),
        ({"split": "dev"}, "t.jsonl:1: unknown split 'dev'; known: train, calibration, test"),
    ],
)
def test_a_level_or_split_that_is_not_known_is_an_error(tmp_path, row, words):
    with pytest.raises(DataError) as error:
        built(tmp_path / "out", table(tmp_path / "in", [row]))
    assert words in str(error.value)


def test_labels_go_through_the_mapping_of_the_source(tmp_path):
    mapping = tmp_path / "mine.toml"
    mapping.write_text(
        'version = 1\nname = "mine"\n[labels]\nspam = { type = "misleading", level = 1 }\n'
    )
    rows = [{"type": "spam", "answer": "a"}, {"type": "spam", "level": "high"}]
    _, found, _ = built(tmp_path / "out", table(tmp_path / "in", rows, labels=str(mapping)))
    labels = {(r["risk_type"], r["risk_level"], r["supervises"]) for r in found}
    assert labels <= {
        ("misleading", level, kind)
        for level in (1, 3)
        for kind in ("both", "concept", "evaluation")
    }
    assert {label[1] for label in labels} == {1, 3}


def test_a_row_teaches_both_only_with_an_answer_and_nothing_from_the_test_split(tmp_path):
    rows = [{"answer": "a", "split": s} for s in ("train", "calibration", "test")]
    rows += [{"split": "train"}, {"split": "test"}]
    source = table(tmp_path / "in", rows)
    _, found, _ = built(tmp_path / "out", source, calibration=0.0)
    by_key = {r["source_key"]: r["supervises"] for r in found}
    assert [by_key[f"t.jsonl:{i}"] for i in range(1, 6)] == [
        "both", "both", "evaluation", "concept", "evaluation",
    ]  # fmt: skip


def test_shares_are_kept_and_a_stated_train_split_gives_to_calibration_only():
    config = IngestConfig(calibration=0.2, test=0.1)
    groups = [f"g{i}" for i in range(5000)]
    free = [assign_split(None, g, config=config) for g in groups]
    stated = [assign_split("train", g, config=config) for g in groups]
    assert free.count("calibration") / 5000 == pytest.approx(0.2, abs=0.02)
    assert free.count("test") / 5000 == pytest.approx(0.1, abs=0.02)
    assert [s == "calibration" for s in stated] == [f == "calibration" for f in free]
    assert "test" not in stated
    assert {assign_split("test", g, config=config) for g in groups} == {"test"}


def test_all_items_of_an_image_land_in_one_split_also_across_sources(tmp_path):
    rows = [{"image": f"{i % 60}.bmp"} for i in range(240)]
    sources = [table(tmp_path / name, rows, name=name) for name in ("a", "b")]
    for source in sources:
        for shade in range(60):
            (Path(source.images) / f"{shade}.bmp").write_bytes(bmp(shade))
    _, found, _ = built(tmp_path / "out", *sources, calibration=0.3, test=0.3)
    splits: dict[str, set[str]] = {}
    for row in found:
        splits.setdefault(row["group_id"], set()).add(row["split"])
    assert len(splits) == 60
    assert {len(s) for s in splits.values()} == {1}
    assert set().union(*splits.values()) == {"train", "calibration", "test"}


# --- near duplicates ---


def photo(seed: int, *, size: int = 256, quality: int = 90) -> bytes:
    """A JPEG with more of coarse fields than of fine ones, as photos have."""
    draw, pixels = np.random.default_rng(seed), np.zeros((256, 256, 3))
    for side in (4, 8, 16, 32, 64):
        fields = Image.fromarray(draw.integers(0, 256, (side, side, 3), np.uint8))
        pixels += np.asarray(fields.resize((256, 256), Image.Resampling.BICUBIC)) / side
    image = Image.fromarray((pixels / pixels.max() * 255).astype(np.uint8))
    out = io.BytesIO()
    image.resize((size, size), Image.Resampling.LANCZOS).save(out, "JPEG", quality=quality)
    return out.getvalue()


def test_a_picture_made_smaller_or_saved_anew_is_of_the_same_group_and_split(tmp_path):
    source = table(tmp_path / "in", [{"image": f"{i}-{kind}"} for i in range(20) for kind in "abc"])
    for i in range(20):
        for kind, options in (("a", {}), ("b", {"size": 128}), ("c", {"quality": 75})):
            (Path(source.images) / f"{i}-{kind}").write_bytes(photo(i, **options))
    counts, found, _ = built(tmp_path / "out", source, calibration=0.3, test=0.3)
    assert counts["images"] == 60
    groups = {}
    for row in found:
        groups.setdefault(row["group_id"], []).append(row)
    assert [len(group) for group in groups.values()] == [3] * 20
    assert {len({row["split"] for row in group}) for group in groups.values()} == {1}
    assert all(min(row["image_ids"][0] for row in group) == name for name, group in groups.items())
    _, strict, _ = built(tmp_path / "strict", source, near_duplicate_bits=0)
    assert len({row["group_id"] for row in strict}) > 20


def test_near_pairs_are_those_that_a_comparison_of_all_with_all_finds():
    draw = np.random.default_rng(1)
    digests = draw.integers(0, 256, (300, 32), np.uint8)
    for i in range(150, 300):  # each of these differs from an earlier one in 0 to 30 bits
        bits = np.unpackbits(digests[i - 150])
        bits[draw.choice(256, i % 31, replace=False)] ^= 1
        digests[i] = np.packbits(bits)
    count = np.bitwise_count(digests[:, None] ^ digests[None]).sum(axis=2)
    wanted = {(i, j) for i, j in np.argwhere(count <= 15) if i < j}
    hashes = np.ascontiguousarray(digests).view("S32").ravel()
    pairs = np.concatenate(list(near_pairs(hashes, bits=15)))
    found = {tuple(sorted(pair)) for pair in pairs.tolist()}
    assert found == wanted
    assert len(wanted) > 70


def test_pairs_are_found_however_the_differing_bits_lie():
    """At most 15: here some word has three, each in a band of its own, or all are in two words."""
    draw = np.random.default_rng(2)
    for _ in range(200):
        bits = draw.integers(0, 2, 256, np.uint8)
        other, starts = bits.copy(), draw.permutation(4) * 64
        bands = draw.permutation([0, 13, 26, 39])[:3]
        spread = [starts[0] + bands + draw.integers(0, 12), starts[3] + np.arange(4)]
        rest = [start + draw.choice(64, 4, replace=False) for start in starts[1:3]]
        other[np.concatenate([*spread, *rest])] ^= 1
        hashes = np.frombuffer(np.packbits([bits, other], bitorder="little").tobytes(), "S32")
        assert any(len(pairs) for pairs in near_pairs(hashes, bits=15))
        assert not any(len(pairs) for pairs in near_pairs(hashes, bits=14))


def test_pairs_that_are_too_many_to_be_held_make_the_same_groups(monkeypatch):
    draw = np.random.default_rng(3)
    kinds = draw.integers(0, 256, (9, 32), np.uint8)
    bits = np.unpackbits(kinds[draw.integers(0, 9, 400)], axis=1)
    bits[np.arange(400), draw.integers(0, 256, 400)] ^= 1
    hashes = [row.tobytes().hex() for row in np.packbits(bits, axis=1)]
    asked = {"qualities": [100] * 400, "rows": np.array([[0, 399], [7, 5]]), "bits": 15}
    whole = group_images(hashes, **asked)
    assert len(set(whole.tolist())) in (7, 8, 9)
    monkeypatch.setattr("tasks.ingest.groups.MOST_PAIRS", 10)
    assert group_images(hashes, **asked).tolist() == whole.tolist()


def test_flat_pictures_are_like_no_others_and_images_of_one_row_stay_together():
    flat = group_images(["00" * 32] * 3, [10, 100, 100], rows=np.zeros((0, 2), int), bits=15)
    assert flat.tolist() == [0, 1, 1]
    rows = np.array([[0, 2], [2, 3]])
    apart = [bytes([i] * 32).hex() for i in (1, 6, 24, 99)]
    assert group_images(apart, [100] * 4, rows=rows, bits=15).tolist() == [0, 1, 0, 0]


# --- the library that snapshots share ---


def test_one_per_cent_of_new_images_costs_one_per_cent_of_the_work(tmp_path, monkeypatch):
    """Counted: images read, decoded, and bytes written."""
    monkeypatch.setattr("infra.identity.HASH_UP_TO", 0)  # as for a folder too large to be hashed
    source = table(tmp_path / "in", [{"image": f"{i}.bmp"} for i in range(400)])
    images = Path(source.images)
    for shade in range(404):
        (images / f"{shade}.bmp").write_bytes(bmp(shade))
    store, reads = Store(str(tmp_path / "store")), []
    fetch = loading.fetch
    monkeypatch.setattr(loading, "fetch", lambda ref, **kw: reads.append(ref) or fetch(ref, **kw))
    first = ingest(IngestConfig(sources=(source,)), store=store)
    assert (first.counts["decoded"], len(reads)) == (400, 400)
    table(tmp_path / "in", [{"image": f"{i}.bmp"} for i in range(404)])
    second = ingest(IngestConfig(sources=(source,)), store=store)
    assert (second.counts["images"], second.counts["decoded"], len(reads)) == (404, 4, 404)
    shards = [
        pq.read_metadata(path).num_rows for path in tmp_path.glob("store/images/**/images.p*")
    ]
    assert sorted(shards) == [4, 400]
    (images / "7.bmp").write_bytes(bmp(999))  # a file that changes is read again
    third = ingest(IngestConfig(sources=(source,)), store=store)
    assert (third.counts["decoded"], len(reads)) == (1, 405)


def test_a_snapshot_does_not_depend_on_what_the_root_has_seen_before(tmp_path):
    rows = [{"image": f"{i}.bmp"} for i in range(40)]
    source = table(tmp_path / "in", rows)
    for shade in range(40):
        (Path(source.images) / f"{shade}.bmp").write_bytes(bmp(shade))
    config = IngestConfig(sources=(source,))
    fresh, used = Store(str(tmp_path / "fresh")), Store(str(tmp_path / "used"))
    ingest(IngestConfig(sources=(table(tmp_path / "in", rows[:9]),)), store=used)
    table(tmp_path / "in", rows)
    made = [ingest(config, store=store) for store in (fresh, used)]
    assert [m.counts["decoded"] for m in made] == [40, 31]
    assert files(fresh.local(made[0])) == files(used.local(made[1]))
    wanted = [hashlib.sha256(bmp(shade)).hexdigest() for shade in (0, 39)]
    assert dict(read_images(made[1], wanted)) == dict(zip(wanted, map(bmp, (0, 39)), strict=True))


def test_a_damaged_shard_is_found_and_the_next_run_makes_it_anew(tmp_path):
    source = table(tmp_path / "in", [{"image": "a.bmp"}])
    (Path(source.images) / "a.bmp").write_bytes(bmp(1))
    store, config = Store(str(tmp_path / "store")), IngestConfig(sources=(source,))
    samples = ingest(config, store=store)
    (path,) = tmp_path.glob("store/images/*/attempts/*/images.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    wanted = [hashlib.sha256(bmp(1)).hexdigest()]
    with pytest.raises(StorageError, match="damaged"):
        list(read_images(samples, wanted))
    with pytest.raises(StorageError, match="bytes of 1 images are gone"):
        list(read_images(samples, wanted))
    again = ingest(config, store=store)
    assert (again.reused, again.fingerprint) == (False, samples.fingerprint)
    assert dict(read_images(again, wanted)) == {wanted[0]: bmp(1)}


def test_a_folder_is_listed_once_an_ingest_and_its_notes_are_written_when_they_change(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("infra.identity.HASH_UP_TO", 0)
    monkeypatch.setattr("tasks.ingest.seen.FRESH", 3)
    source = table(tmp_path / "in", [{"image": f"deep/{i}.bmp"} for i in range(10)])
    (Path(source.images) / "deep").mkdir()
    for shade in range(11):
        (Path(source.images) / "deep" / f"{shade}.bmp").write_bytes(bmp(shade))
    store, scans, scan = Store(str(tmp_path / "store")), [], os.scandir
    monkeypatch.setattr(
        "infra.identity.os.scandir", lambda place: scans.append(str(place)) or scan(place)
    )

    def run(rows: int) -> tuple[int, int, int]:
        """How often the images' folder is listed, what is decoded, and which file has the notes."""
        scans.clear()
        table(tmp_path / "in", [{"image": f"deep/{i}.bmp"} for i in range(rows)])
        made = ingest(IngestConfig(sources=(source,)), store=store)
        (notes,) = tmp_path.glob("store/seen/*.parquet")
        listed = sum(place.startswith(source.images) for place in scans)
        return listed, made.counts["decoded"], notes.stat().st_ino

    listed, decoded, first = run(10)
    assert (listed, decoded) == (2, 10)  # the folder, and the one in it
    listed, decoded, second = run(9)
    assert (listed, decoded) == (2, 0)
    assert second == first
    listed, decoded, third = run(11)
    assert (listed, decoded) == (2, 1)
    assert third != second


# --- the whole step ---


def mixed(folder: Path, *, backwards: bool) -> list[SourceConfig]:
    """Three formats with a few rejects; files are made in either order."""
    turn = reversed if backwards else list
    images = folder / "images"
    images.mkdir(parents=True)
    for shade in turn(range(20)):
        (images / f"{shade}.bmp").write_bytes(bmp(shade))
    for shard in turn(range(4)):
        with tarfile.open(folder / f"s{shard}.tar", "w") as tar:
            for name, content in (
                ("a.png", bmp(100 + shard)),
                ("a.json", b'{"question": "q", "type": "clean"}'),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [{"image": f"{i}.bmp", "conversations": turns} for i in range(22)]
    (folder / "l.json").write_text(json.dumps(rows))
    sources = [
        SourceConfig(format="llava", uri=f"{folder}/l.json", images=str(images), name="l"),
        SourceConfig(format="webdataset", uri=f"{folder}/s*.tar", name="w"),
        table(folder, [{"image": f"{i}.bmp"} for i in range(20)]),
    ]
    return list(turn(sources))


def test_output_files_do_not_depend_on_any_order_or_on_threads(tmp_path, monkeypatch):
    counts, _, _ = built(tmp_path / "one", *mixed(tmp_path / "a", backwards=False))
    monkeypatch.setattr(loading, "cores", lambda: 1)
    monkeypatch.setattr(loading, "IMAGES", 3)
    monkeypatch.setattr(loading, "MOST_BYTES", 100)
    built(tmp_path / "two", *mixed(tmp_path / "b", backwards=True))
    assert counts == {
        "in": 46,
        "accepted": 44,
        "rejected": 2,
        "images": 24,
        "decoded": 24,
        "new_bytes": 1680,
    }
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_limit_takes_the_first_items_of_a_source(tmp_path):
    source = table(tmp_path / "in", [{}] * 9, limit=4)
    assert built(tmp_path / "out", source)[0]["in"] == 4


@pytest.mark.parametrize("rows", [[], [{"image": "none.png"}] * 3])
def test_a_source_without_one_good_item_is_an_error_with_its_file_and_reasons(tmp_path, rows):
    good = table(tmp_path / "in", [{}], name="good")
    bad = table(tmp_path / "in", rows, name="bad")
    with pytest.raises(DataError) as error:
        built(tmp_path / "out", good, bad)
    message = str(error.value)
    assert f"empty source 'bad' ({bad.uri})" in message
    assert f"{len(rows)} rejected" in message
    assert ("'image_missing': 3" in message) == bool(rows)


def test_a_second_run_reuses_the_artifact_and_new_data_or_settings_are_noticed(tmp_path):
    source = table(tmp_path / "in", [{"image": "a.bmp"}])
    image = tmp_path / "in" / "images" / "a.bmp"
    image.write_bytes(bmp(1))
    store, config = Store(str(tmp_path / "store")), IngestConfig(sources=(source,))
    first = ingest(config, store=store)
    assert first.counts == {
        "in": 1,
        "accepted": 1,
        "rejected": 0,
        "images": 1,
        "decoded": 1,
        "new_bytes": 70,
    }
    assert ingest(config, store=store).reused
    image.write_bytes(bmp(2))
    other = ingest(config, store=store)
    table(tmp_path / "in", [{"image": "a.bmp", "answer": "new"}])
    third = ingest(config, store=store)
    assert len({first.fingerprint, other.fingerprint, third.fingerprint}) == 3


def test_a_world_source_is_known_by_its_parent_and_read_from_its_folder(tmp_path):
    def build(folder: Path) -> dict[str, int]:
        table(folder / "shapes", [{"image": "a.bmp"}])
        (folder / "shapes" / "images" / "a.bmp").write_bytes(bmp(1))
        return {"images": 1}

    store = Store(str(tmp_path / "store"))
    source = SourceConfig(format="table", uri="world:shapes/t.jsonl", images="world:shapes/images")
    config = IngestConfig(sources=(source,))
    world = store.artifact("tiny_world", 1, config={}, build=build)
    samples = ingest(config, world, store=store)
    assert samples.counts["accepted"] == 1
    assert list(store.manifest(samples).parents) == ["world"]
    assert sorted(store.manifest(samples).inputs) == ["labels:table-t", "taxonomy"]
    with pytest.raises(ConfigError, match="needs the tiny world"):
        ingest(config, store=store)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"format": "tabel"}, ConfigError, "formats: .*llava, .*table, .*vlguard, webdataset"),
        ({"uri": "none.jsonl"}, DataError, "'none.jsonl' does not exist"),
        ({"images": "none"}, DataError, "image folder 'none' does not exist"),
        ({"labels": "none"}, ConfigError, "unknown label mapping 'none'"),
    ],
)
def test_a_wrong_source_fails_at_once_and_leaves_nothing(tmp_path, change, error, words):
    source = table(tmp_path / "in", [{}])
    source = SourceConfig.model_validate({**source.model_dump(), **change})
    with pytest.raises(error, match=words) as caught:
        ingest(IngestConfig(sources=(source,)), store=Store(str(tmp_path / "store")))
    assert caught.value.exit_code == 2
    assert not list(tmp_path.glob("store/*/*"))


def test_sources_need_names_of_their_own_and_shares_leave_something_to_train_on(tmp_path):
    source, store = table(tmp_path / "in", [{}]), Store(str(tmp_path / "store"))
    with pytest.raises(ConfigError, match="two sources are called 't'"):
        ingest(IngestConfig(sources=(source, source)), store=store)
    with pytest.raises(ConfigError, match="no sources"):
        ingest(IngestConfig(), store=store)
    with pytest.raises(ConfigError, match="nothing to train on"):
        ingest(IngestConfig(sources=(source,), calibration=0.5, test=0.5), store=store)


def test_sources_and_images_are_read_from_a_bucket(tmp_path, monkeypatch):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        bucket = boto3.client("s3")
        bucket.create_bucket(Bucket="data")
        text = "question,type,image\nq,clean,a.bmp\nq,clean,none.bmp\nq,clean,../t.csv\n"
        bucket.put_object(Bucket="data", Key="set/t.csv", Body=text.encode())
        bucket.put_object(Bucket="data", Key="set/images/a.bmp", Body=bmp(1))
        source = SourceConfig(
            format="table", uri="s3://data/set/*.csv", images="s3://data/set/images"
        )
        config, store = IngestConfig(sources=(source,)), Store(str(tmp_path / "store"))
        samples = ingest(config, store=store)
        counts = {"in": 3, "accepted": 1, "rejected": 2, "images": 1, "decoded": 1, "new_bytes": 70}
        assert samples.counts == counts
        assert ingest(config, store=store).reused
        rejects = read_parts(store.local(samples) / "rejects", REJECTS).to_pylist()
        assert [r["reason"] for r in rejects] == ["image_missing", "path_outside_folder"]
        bucket.put_object(Bucket="data", Key="set/images/a.bmp", Body=bmp(2))
        assert ingest(config, store=store).fingerprint != samples.fingerprint
    finally:
        server.stop()


# If this changes, raise VERSION in tasks/ingest/step.py: old artifacts are then not reused.
GOLDEN = (2, "0216198ec0756f34b1867a1d1ef822e4f85d72dfa58393e34c1067ad034770a2")


def test_the_same_input_gives_the_same_rows_for_one_version(tmp_path):
    sources = mixed(tmp_path / "in", backwards=False)
    _, rows, rejects = built(tmp_path / "out", *sources)
    known = ["image_id", "format", "width", "height"]  # not the hashes of another library
    images = read_parts(tmp_path / "out" / "images", IMAGES, columns=known).to_pylist()
    content = json.dumps([rows, rejects, images], sort_keys=True)
    assert (VERSION, hashlib.sha256(content.encode()).hexdigest()) == GOLDEN
