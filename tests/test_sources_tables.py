"""Table-like formats: what each makes of its quirks, and formats that are a file without code."""

import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli.main import application
from schemas.config import SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.formats import load_format
from schemas.mapping import load_mapping, map_label
from schemas.samples import ImageRef, RawRecord, RawReject
from schemas.shipped import shipped
from schemas.taxonomy import load_taxonomy
from tasks.sources import formats, parse_source, reader_named, reader_of
from tests.s3_server import BUCKET, s3_server

DATA = Path(__file__).parent / "data"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def read(typed: str, *, max_bytes: int = 100_000) -> list[RawRecord | RawReject]:
    source = parse_source(typed)
    return list(reader_of(source).read(source, max_bytes=max_bytes))


def csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def hugging_face(path: Path, columns: dict, types: dict, features: dict, *, group: int = 64):
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(list(types.items()), metadata)
    pq.write_table(pa.table(columns, schema=schema), path, row_group_size=group)
    return path


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def told(items: list[RawRecord | RawReject]) -> list[str]:
    """`good`, or the reason of a reject."""
    return [getattr(item, "reason", "good") for item in items]


def targets(items: list[RawRecord | RawReject], labels: str) -> list[tuple[str, int] | str]:
    """Type and level that the mapping gives each record; the reason of each reject."""
    mapping, taxonomy = load_mapping(labels), load_taxonomy()
    return [
        item.reason
        if isinstance(item, RawReject)
        else map_label(item.label, item.level, mapping=mapping, taxonomy=taxonomy, where="here")
        for item in items
    ]


# --- table: several columns, constants, slices ---


def test_joined_columns_make_one_label_and_alternatives_make_several(tmp_path):
    path = csv(tmp_path / "a.csv", "question,a,b\nq,clean,one\nq,privacy,\nq,,\n")
    joined = read(f"format=table,uri={path},columns.type=a+b")
    assert [r.label for r in joined] == ["clean / one", "privacy / ", None]
    several = read(f"format=table,uri={path},columns.type=a|b")
    assert [(r.label, r.also) for r in several] == [
        ("clean", ("one",)), ("privacy", ()), ("", ()),
    ]  # fmt: skip


def test_a_list_of_labels_in_one_cell_is_several_labels(tmp_path):
    rows = [{"question": "q", "type": ["privacy", "insults"], "level": 2}]
    rows += [{"question": "q", "type": []}, {"question": "q", "type": [True]}]
    path = csv(tmp_path / "a.json", json.dumps(rows))
    one, none, wrong = read(f"format=table,uri={path}")
    assert (one.label, one.also, one.level) == ("privacy", ("insults",), "2")
    assert none.label is None
    assert wrong.reason == "bad_value"


def test_several_image_columns_are_several_images_in_the_order_given(tmp_path):
    path = csv(
        tmp_path / "a.csv", "question,type,left,right\nq,clean,a.png,b.png\nq,clean,,c.png\n"
    )
    both, one = read(f"format=table,uri={path},columns.image=right+left")
    assert [ref.path for ref in both.images] == ["b.png", "a.png"]
    assert [ref.path for ref in one.images] == ["c.png"]


def test_a_constant_stands_in_every_row_and_a_column_of_that_name_goes_to_extra(tmp_path):
    path = csv(tmp_path / "a.csv", "text,language\nsome words,xx\n")
    (record,) = read(
        f"format=table,uri={path},constants.question=what?,constants.type=clean,"
        "constants.language=en,columns.slices.words=text,constants.slices.region=north"
    )
    assert (record.messages[0].text, record.label, record.language) == ("what?", "clean", "en")
    assert record.slices == {"words": "some words", "region": "north"}
    assert record.extra == {"language": "xx"}


def test_slices_take_words_numbers_and_truth_and_name_long_texts_by_their_digest(tmp_path):
    rows = [
        {"question": "q", "type": "clean", "s": 3.0, "t": True, "u": "x" * 65},
        {"question": "q", "type": "clean", "s": None, "t": "", "u": "short"},
        {"question": "q", "type": "clean", "s": [1], "t": "", "u": ""},
    ]
    path = csv(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    first, second, third = read(
        f"format=table,uri={path},columns.slices.s=s,columns.slices.t=t,columns.slices.u=u"
    )
    assert first.slices["s"] == "3"
    assert first.slices["t"] == "true"
    assert first.slices["u"].startswith("sha256:")
    assert first.extra == {"u": "x" * 65}
    assert second.slices == {"u": "short"}
    assert (third.reason, "list" in third.detail) == ("bad_value", True)


@pytest.mark.parametrize("content", ['[{"q": "one"}, {"q": "two"}]', '{"q": "one"}\n{"q": "two"}'])
def test_a_json_file_may_be_an_array_or_lines_whatever_its_name_says(tmp_path, content):
    path = csv(tmp_path / "a.json", content)
    found = read(f"format=table,uri={path},columns.question=q,labels=clean")
    assert [r.messages[0].text for r in found] == ["one", "two"]
    assert [r.source_key for r in found] == ["a.json:1", "a.json:2"]


def test_tabs_and_line_breaks_inside_quotes_are_read(tmp_path):
    path = csv(tmp_path / "a.tsv", 'question\ttype\n"two\nlines, one cell"\tclean\n')
    (record,) = read(f"format=table,uri={path}")
    assert record.messages[0].text == "two\nlines, one cell"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("constants.image=a.png", "constants.image: no such field"),
        ("columns.slices.=a", "columns.slices.: no such field"),
        ("columns.type=a,constants.type=b", "given as columns.type and as constants.type"),
        ("constants=a", "unknown key 'constants'"),
        ("columns.type=a,columns.type=b", "'columns.type' is given twice"),
    ],
)
def test_a_mistyped_column_or_constant_says_what_is_wrong(typed, words):
    with pytest.raises(ConfigError) as error:
        parse_source(f"format=table,uri=a.csv,{typed}")
    assert words in str(error.value)


@pytest.mark.parametrize("missing", ["columns.type=type+gone", "columns.slices.region=gone"])
def test_a_column_that_is_named_must_be_there(tmp_path, missing):
    path = csv(tmp_path / "a.csv", "question,type\nq,clean\n")
    with pytest.raises(DataError, match=r"column 'gone' is missing.*columns\.<field>=<column>"):
        read(f"format=table,uri={path},{missing}")


# --- table: files of other encodings and separators ---

LETTER = "question,type\nq,clean\n\u00e9,clean\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", LETTER.encode("cp1252"), ("byte 0xe9 in line 3", "WINDOWS-1252")),
        ("a.tsv", LETTER.replace(",", "\t").encode("latin-1"), ("byte 0xe9 in line 3", "UTF-8")),
        ("a.csv", LETTER.encode()[:-9] + b"\xc3", ("last character is cut",)),
        ("a.csv", LETTER.encode("utf-16"), ("is UTF-16", "iconv -f UTF-16")),
        ("a.csv", LETTER.encode("utf-16-be"), ("is UTF-16",)),
        ("a.csv", b"question;type\nq;clean\n", ("'question;type'", "semicolons", "commas")),
        ("a.csv", b'"question";"type"\n"q";"clean"\n', ("semicolons", "write it again")),
        ("a.csv", b"question\ttype\nq\tclean\n", ("tabs", "name it .tsv")),
        ("a.tsv", b"question,type\nq,clean\n", ("commas stand", "tabs are read")),
        ("a.jsonl", '{"question": "q"}'.encode("utf-16"), ("is UTF-16",)),
        ("a.json", b'[\n{"question": "\xe9"}]', ("byte 0xe9 in line 2", "WINDOWS-1252")),
    ],
)
def test_a_file_as_another_program_writes_it_says_what_it_is_and_what_to_do(
    tmp_path, name, content, words
):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read(f"format=table,uri={path}")
    told = str(error.value)
    assert str(path) in told and "\n" not in told
    assert all(word in told for word in words), told


def test_a_line_of_latin_1_among_json_lines_is_a_reject_with_the_remedy(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question": "\xe9"}\n{"question": "q", "type": "clean"}\n')
    bad, good = read(f"format=table,uri={path}")
    assert bad.reason == "bad_row" and "byte 0xe9 at 14" in bad.detail and "iconv" in bad.detail
    assert good.label == "clean"


def test_one_column_whose_name_holds_a_semicolon_is_read_if_it_is_asked_for(tmp_path):
    path = csv(tmp_path / "a.csv", "a;b\nq\n")
    (item,) = read(f"format=table,uri={path},columns.question=a;b,constants.type=clean")
    assert item.messages[0].text == "q"


# --- words: wildcards, and words without a place ---


def mapping(tmp_path: Path, text: str) -> str:
    path = tmp_path / "words.toml"
    path.write_text(f'version = 1\nname = "words"\n{text}')
    load_mapping.cache_clear()
    return str(path)


def test_a_listed_word_goes_before_a_wildcard_and_the_longest_wildcard_before_others(tmp_path):
    name = mapping(
        tmp_path,
        '[labels]\n"a / *" = {type = "clean", level = 0}\n'
        '"a / b / *" = {type = "privacy", level = 1}\n'
        '"a / b / c" = {type = "insults", level = 2}\n',
    )
    words = load_mapping(name)

    def target(label: str) -> tuple[str, int]:
        return map_label(label, None, mapping=words, taxonomy=load_taxonomy(), where="here")

    assert target("a / x") == ("clean", 0)
    assert target("a / ") == ("clean", 0)
    assert target("a / b / x") == ("privacy", 1)
    assert target("a / b / c") == ("insults", 2)
    for unknown in ("a", "b / x", "*", "aa / x"):
        with pytest.raises(DataError, match="here: unknown label"):
            target(unknown)


@pytest.mark.parametrize("entry", ["*", "a*", "* / a", "a / * / b"])
def test_a_wildcard_that_would_take_any_word_is_refused(tmp_path, entry):
    name = mapping(tmp_path, f'[labels]\n"{entry}" = {{type = "clean", level = 0}}\n')
    with pytest.raises(ConfigError, match=r"\* only after"):
        load_mapping(name)


def test_rows_whose_word_has_no_place_are_rejected_with_the_reason(tmp_path):
    name = mapping(
        tmp_path,
        '[labels]\n"x" = {type = "privacy", level = 1}\n[unplaced]\n"y" = "nobody decided yet"\n',
    )
    path = csv(tmp_path / "a.csv", "question,a,b\nq,x,\nq,y,\nq,y,x\n")
    placed, lost, other = read(f"format=table,uri={path},columns.type=a|b,labels={name}")
    assert (placed.label, other.label) == ("x", "x")
    assert (lost.reason, lost.detail) == ("label_without_type", "'y': nobody decided yet")


def test_a_word_with_and_without_a_place_is_refused(tmp_path):
    name = mapping(tmp_path, '[labels]\n"y" = {type = "clean"}\n[unplaced]\n"y" = "?"\n')
    with pytest.raises(ConfigError, match="'y' is under both"):
        load_mapping(name)


# --- hf-parquet ---


def states(path: Path) -> Path:
    """Every state that an image can be in, in row groups of two."""
    cells = [
        {"bytes": b"one", "path": "named.png"}, {"bytes": b"two", "path": None},
        {"bytes": None, "path": "three.png"}, None,
        {"bytes": b"", "path": "empty.png"}, {"bytes": None, "path": None},
    ]  # fmt: skip
    features = {"photo": {"_type": "Image"}, "risk": {"names": ["clean", "privacy"]}}
    columns = {"question": ["q"] * 6, "photo": cells, "risk": [1, 0, 0, 1, 0, 0]}
    types = {"question": pa.string(), "photo": IMAGE, "risk": pa.int64()}
    return hugging_face(path, columns, types, features, group=2)


def test_hf_parquet_takes_every_state_of_an_image_and_finds_its_column(tmp_path):
    found = read(f"format=hf-parquet,uri={states(tmp_path / 'a.parquet')},columns.type=risk")
    assert [r.source_key for r in found] == [f"a.parquet:{n}" for n in range(1, 7)]
    assert [r.images for r in found[:5]] == [
        (ImageRef(data=b"one"),), (ImageRef(data=b"two"),), (ImageRef(path="three.png"),), (),
        (ImageRef(data=b""),),
    ]  # fmt: skip
    assert [r.label for r in found[:5]] == ["privacy", "clean", "clean", "privacy", "clean"]
    # Neither bytes nor a path is a lost image; only a null cell is text alone.
    assert found[5].reason == "bad_value"


def test_class_numbers_get_their_names_minus_one_is_no_label_and_others_are_rejects(tmp_path):
    features = {
        "type": [{"names": ["clean", "privacy"], "_type": "ClassLabel"}],
        "level": {"feature": {"names": ["low", "high"]}, "_type": "List"},
        "split": {"names": ["test", "train"]},
    }
    columns = {
        "question": ["q"] * 4, "type": [[0, 1], [-1], [2], None],
        "level": [0, 1, 0, -1], "split": [1, 0, 0, -2],
    }  # fmt: skip
    types = {"question": pa.string(), "type": pa.list_(pa.int64())}
    types |= {"level": pa.int64(), "split": pa.int64()}
    path = hugging_face(tmp_path / "a.parquet", columns, types, features)
    found = read(f"format=hf-parquet,uri={path}")
    assert told(found) == ["good", "good", "bad_row", "bad_row"]
    assert (found[0].label, found[0].also, found[0].level) == ("clean", ("privacy",), "low")
    assert found[1].label is None
    assert [r.split for r in found[:2]] == ["train", "test"]
    assert "2 classes" in found[2].detail


@pytest.mark.parametrize("metadata", [b"{", b"[1]", b'{"info": 3}', b'{"info": {"features": [1]}}'])
def test_odd_metadata_is_no_metadata(tmp_path, metadata):
    table = pa.table({"question": ["q"], "type": ["clean"]})
    table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    (record,) = read(f"format=hf-parquet,uri={tmp_path}/a.parquet")
    assert record.label == "clean"


def test_several_image_columns_must_be_chosen(tmp_path):
    columns = {"question": ["q"], "type": ["clean"], "a": [None], "b": [{"bytes": b"b"}]}
    types = {"question": pa.string(), "type": pa.string(), "a": IMAGE, "b": pa.list_(IMAGE)}
    columns["b"] = [[{"bytes": b"b", "path": None}, {"bytes": b"c", "path": None}]]
    path = hugging_face(tmp_path / "a.parquet", columns, types, {})
    with pytest.raises(DataError, match=r"several columns hold images: a, b; .*image=a\+b"):
        read(f"format=hf-parquet,uri={path}")
    (record,) = read(f"format=hf-parquet,uri={path},columns.image=a+b")
    assert [ref.data for ref in record.images] == [b"b", b"c"]


def test_a_folder_of_hf_parquet_is_read_whole(tmp_path):
    for name in ("b/1.parquet", "a/0.parquet", "0.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"question": ["q"]}), tmp_path / name)
    source = parse_source(f"format=hf-parquet,uri={tmp_path},labels=clean")
    found = list(reader_of(source).read(source, max_bytes=10))
    assert [r.source_key for r in found] == ["0.parquet:1", "a/0.parquet:1", "b/1.parquet:1"]
    assert [f.name for f in reader_of(source).files(source)] == [
        "0.parquet", "a/0.parquet", "b/1.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize("group", [10, 100])
def test_a_large_file_is_read_row_group_by_row_group_in_bounded_memory(tmp_path, group):
    size, count = 500_000, 100
    cells = [{"bytes": os.urandom(size), "path": None} for _ in range(count)]
    table = pa.table({"question": ["q"] * count, "image": pa.array(cells, IMAGE)})
    small = {"write_batch_size": 4, "data_page_size": size, "use_dictionary": False}
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=group, **small)
    del table, cells
    source = parse_source(f"format=hf-parquet,uri={tmp_path}/a.parquet,labels=clean")
    before, held = pa.total_allocated_bytes(), []
    for item in reader_of(source).read(source, max_bytes=size):
        held.append(pa.total_allocated_bytes() - before)
        assert len(item.images[0].data) == size
    assert len(held) == count
    assert max(held) < size * count / 2


# --- img2dataset ---


def finished(folder: Path, form: str, rows: list[dict], images: dict[str, bytes]) -> Path:
    """A shard 00000 in one of the three output formats."""
    folder.mkdir()
    inside = [{**row, "jpg": images.get(row["key"])} for row in rows]
    table = pa.Table.from_pylist(inside if form == "parquet" else rows)
    pq.write_table(table, folder / "00000.parquet")
    if form == "tar":
        members = {f"{k}.{e}": c for k, c in images.items() for e, c in (("jpg", c), ("txt", b""))}
        tar(folder / "00000.tar", members)
    if form == "files":
        (folder / "00000").mkdir()
        for key, content in images.items():
            (folder / "00000" / f"{key}.jpg").write_bytes(content)
    return folder


def fetched(key: str | None, status: str = "success", **more) -> dict:
    fault = None if status == "success" else "why"
    return {"key": key, "status": status, "error_message": fault, "caption": f"c {key}", **more}


@pytest.mark.parametrize("form", ["tar", "files", "parquet"])
def test_img2dataset_keeps_good_rows_and_rejects_failures_with_status_and_message(tmp_path, form):
    rows = [fetched("1"), fetched("2", "failed_to_download"), fetched("3", "failed_to_resize")]
    rows += [fetched("4"), fetched("5", None)]
    folder = finished(tmp_path / "out", form, rows, {"1": b"one"})
    found = {
        item.source_key: item for item in read(f"format=img2dataset,uri={folder},labels=clean")
    }
    assert list(found) == [f"00000.parquet:{n}" for n in range(1, 6)]
    good, *rejects = found.values()
    assert (good.messages[0].text, good.images) == ("c 1", (ImageRef(data=b"one"),))
    assert good.label == ""
    assert told(rejects) == ["image_missing", "image_unreadable", "image_missing", "image_missing"]
    assert [r.detail for r in rejects[:2]] == ["failed_to_download: why", "failed_to_resize: why"]


def test_img2dataset_takes_labels_and_levels_from_the_users_own_columns(tmp_path):
    folder = finished(tmp_path / "out", "tar", [fetched("1", risk="privacy", bad=2)], {"1": b"x"})
    (record,) = read(f"format=img2dataset,uri={folder},columns.type=risk,columns.level=bad")
    assert (record.label, record.level) == ("privacy", "2")
    with pytest.raises(DataError, match="column 'type' is missing"):
        read(f"format=img2dataset,uri={folder}")


def test_a_tar_and_its_parquet_that_disagree_lose_nothing(tmp_path):
    rows = [fetched("1"), fetched("1"), fetched("2")]
    folder = finished(tmp_path / "out", "tar", rows, {"1": b"one", "9": b"nine"})
    found = read(f"format=img2dataset,uri={folder},labels=clean")
    assert sorted((item.source_key, *told([item])) for item in found) == [
        ("00000.parquet:1", "bad_row"), ("00000.parquet:1", "good"),
        ("00000.parquet:2", "image_missing"), ("00000.tar:9", "missing_key"),
    ]  # fmt: skip


def test_a_key_that_leads_out_of_the_shard_finds_no_image(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    rows = [fetched("../../secret"), fetched(None)]
    folder = finished(tmp_path / "out", "files", rows, {})
    found = read(f"format=img2dataset,uri={folder},labels=clean")
    assert told(found) == ["image_missing", "image_missing"]


def test_images_of_a_shard_are_read_only_up_to_the_limit(tmp_path):
    for form in ("tar", "files"):
        folder = finished(tmp_path / form, form, [fetched("1")], {"1": b"x" * 5000})
        (record,) = read(f"format=img2dataset,uri={folder},labels=clean", max_bytes=10)
        assert len(record.images[0].data) == 11


def test_a_shard_that_is_only_half_there_is_an_error(tmp_path):
    folder = finished(tmp_path / "out", "tar", [fetched("1")], {"1": b"x"})
    tar(folder / "00001.tar", {})
    with pytest.raises(DataError, match=r"00001\.tar' is only half there"):
        read(f"format=img2dataset,uri={folder},labels=clean")
    assert len(read(f"format=img2dataset,uri={folder}/00000.tar,labels=clean")) == 1


def test_other_parquet_is_not_taken_for_img2datasets(tmp_path):
    pq.write_table(pa.table({"caption": ["c"], "key": ["1"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column 'status'"):
        read(f"format=img2dataset,uri={tmp_path}/a.parquet,labels=clean")


# --- webdataset ---


def test_no_sample_of_a_tar_is_passed_over(tmp_path):
    row = json.dumps({"question": "q", "type": "clean"}).encode()
    alone = json.dumps({"question": "q", "type": "clean", "image": None}).encode()
    members = {"1.gif": b"x", "1.json": row, "2.txt": b"words", "3.svg": b"x", "3.json": row}
    members |= {"4.json": alone, "5.jpg": b"a", "5.png": b"b", "5.json": row, ".hidden": b"x"}
    found = read(f"format=webdataset,uri={tar(tmp_path / 'a.tar', members)}")
    assert told(found) == ["good", "missing_key", "image_missing", "good", "good"]
    assert [r.images for r in (found[0], found[3])] == [(ImageRef(data=b"x"),), ()]
    assert [ref.data for ref in found[4].images] == [b"a", b"b"]
    assert "svg" in found[2].detail


# --- the LLaVA family ---


def test_llava_keeps_text_alone_and_repeated_ids_and_both_places_of_the_image_mark(tmp_path):
    def item(question: str, **more) -> dict:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "a"}]
        return {"id": "same", "conversations": turns, **more}

    records = [
        item("<image>\nq", image="coco/train2017/a.jpg"), item("q\n<image>", image="sam/b.jpg"),
        item("q"), item("q") | {"id": 7}, item("<image>q", image="gqa/images/c.jpg"),
    ]  # fmt: skip
    path = csv(tmp_path / "mix665k.json", json.dumps(records))
    found = read(f"format=llava,uri={path}")
    assert [r.messages[0].text for r in found] == ["q"] * 5
    assert len({r.source_key for r in found}) == 5
    assert [len(r.images) for r in found] == [1, 1, 0, 0, 1]
    assert [r.extra["id"] for r in found] == ["same", "same", "same", 7, "same"]


# --- formats without code ---


@pytest.mark.parametrize("name", shipped("formats"))
def test_every_format_file_names_a_mapping_that_fits_the_taxonomy(name):
    form, taxonomy = load_format(name), load_taxonomy()
    words = load_mapping(form.labels)
    assert (form.name, parse_source(form.example).format) == (name, name)
    assert form.note
    for target in words.labels.values():
        assert target.type in taxonomy.type_ids
        assert target.level is not None or form.columns["level"]
        assert form.labels == "clean" or target.origin.startswith(("suggestion", "the source's"))


@pytest.mark.parametrize("name", formats())
def test_every_format_has_an_example_that_can_be_typed(name):
    assert parse_source(reader_named(name).example).format == name


def test_unsafebench_calls_safe_rows_clean_whatever_was_searched_for(tmp_path):
    columns = {
        "image": [{"bytes": b"x", "path": None}] * 5, "text": ["t"] * 5, "source": ["Lexica"] * 5,
        "safety_label": ["Safe", "Unsafe", "Unsafe", "Unsafe", "Safe"],
        "category": ["Hate", "Hate", "Political", "Self-Harm", None],
    }  # fmt: skip
    types = {c: IMAGE if c == "image" else pa.string() for c in columns}
    path = hugging_face(tmp_path / "a.parquet", columns, types, {"image": {"_type": "Image"}})
    found = read(f"format=unsafebench,uri={path}")
    assert targets(found, "unsafebench") == [
        ("clean", 0), ("insults", 2), ("politics", 3), "label_without_type", ("clean", 0),
    ]  # fmt: skip
    assert found[0].slices == {"category": "Hate", "origin": "Lexica"}
    assert found[0].extra == {"text": "t"}
    unknown = csv(tmp_path / "b.csv", "question,safety_label,category\nq,Unsafe,Other\n")
    typed = f"format=table,uri={unknown},columns.type=safety_label+category,labels=unsafebench"
    with pytest.raises(DataError, match="unknown label 'Unsafe / Other'"):
        targets(read(typed), "unsafebench")


def test_beavertails_takes_the_rows_severity_and_learns_from_safe_responses_only(tmp_path):
    columns = {
        "question": ["q"] * 3, "image": [{"bytes": b"x", "path": None}] * 3,
        "category": ["animal_abuse", "false_information", "discriminatory_depictions"],
        "image_severity": [1, 3, 2], "response": ["good", "bad", "open"],
        "is_response_safe": ["yes", "no", None],
    }  # fmt: skip
    types = {c: pa.string() for c in columns} | {"image": IMAGE, "image_severity": pa.int64()}
    path = hugging_face(tmp_path / "a.parquet", columns, types, {})
    found = read(f"format=beavertails-v,uri={path}")
    assert targets(found, "beavertails-v") == [("illegal", 1), ("misleading", 3), ("fairness", 2)]
    assert [[m.text for m in r.messages] for r in found] == [["q", "good"], ["q"], ["q"]]
    assert found[0].extra == {"is_response_safe": "yes"}
    assert found[1].extra == {"is_response_safe": "no", "response": "bad"}


def test_spa_vl_learns_the_preferred_answer_and_keeps_the_other(tmp_path):
    columns = {
        "question": ["q"] * 3, "chosen": ["yes"] * 3, "rejected": ["no"] * 3, "image": [None] * 3,
        "class1": ["Representation & ToxicityHarms"] * 2 + ["Malicious Use"],
        "class2": ["Unfair", "Toxic", "Fraud or deceptive action"],
        "class3": ["racial", "insult", "rumors"],
    }  # fmt: skip
    types = {c: IMAGE if c == "image" else pa.string() for c in columns}
    path = hugging_face(tmp_path / "a.parquet", columns, types, {})
    found = read(f"format=spa-vl,uri={path}")
    assert targets(found, "spa-vl") == [("fairness", 2), ("insults", 2), ("misleading", 2)]
    assert found[0].messages[1].text == "yes"
    assert found[0].extra == {"rejected": "no"}
    without = pq.read_table(path).drop_columns(["chosen", "rejected"])
    pq.write_table(without, path)
    with pytest.raises(DataError, match="'chosen' is missing"):
        read(f"format=spa-vl,uri={path}")
    assert len(read(f"format=spa-vl,uri={path},columns.answer=")[0].messages) == 1


def test_jailbreakv_reads_cells_of_many_lines_and_keeps_the_kind_of_attack(tmp_path):
    head = "id,jailbreak_query,redteam_query,format,policy,image_path,from,selected_mini\n"
    rows = '1,"one\n\n""two"", three",r,figstep,Bias,figstep/1.png,a,False\n'
    rows += "2,q,r,SD,Unethical Behavior,query_related/2.png,b,True\n"
    found = read(f"format=jailbreakv-28k,uri={csv(tmp_path / 'a.csv', head + rows)}")
    assert targets(found, "jailbreakv-28k") == [("fairness", 2), "label_without_type"]
    assert found[0].messages[0].text == 'one\n\n"two", three'
    assert found[0].slices == {"attack": "figstep", "policy": "Bias", "from": "a"}
    assert found[0].extra == {"id": "1", "redteam_query": "r", "selected_mini": "False"}


def test_llavaguard_keeps_apart_what_two_policies_say_of_one_image(tmp_path):
    strict, lenient = "strict " * 30, "lenient " * 30
    category = '"O6: Weapons or Substance Abuse"'
    text = "url,id,rating,category,rationale,policy,image\n"
    text += f"u,7,Unsafe,{category},why,{strict},a.png\n"
    text += f"u,7_v1,Safe,{category},why,{lenient},a.png\n"
    text += f"u,8,Safe,NA: None applying,why,{strict},b.png\n"
    found = read(f"format=llavaguard,uri={csv(tmp_path / 'a.csv', text)}")
    assert targets(found, "llavaguard") == [("illegal", 2), ("clean", 0), ("clean", 0)]
    policies = [r.slices["judged_under"] for r in found]
    assert policies[0] == policies[2] != policies[1]
    assert found[0].messages[0].text == strict.strip()
    assert [r.extra["id"] for r in found] == ["7", "7_v1", "8"]
    assert found[0].extra["rationale"] == "why"


OWN = """
version = 1
name = "mine"
reader = "table"
labels = "canonical"
licence = "MIT"
note = "a set of one's own"
example = "format=mine.toml,uri=mine.csv"
[columns]
question = "prompt"
type = ["a", "b"]
[constants]
language = "en"
[slices]
region = "country"
[answer_when]
column = "checked"
is = ["yes", "1"]
"""


def test_a_format_file_of_ones_own_reads_a_table_and_the_command_line_goes_first(tmp_path):
    form = csv(tmp_path / "mine.toml", OWN)
    path = csv(
        tmp_path / "a.csv",
        "prompt,a,b,country,answer,checked,lang\nq,x,y,north,one,yes,de\nq,x,,south,two,no,fr\n",
    )
    first, second = read(f"format={form},uri={path}")
    assert (first.label, first.language, first.slices) == ("x / y", "en", {"region": "north"})
    assert [len(r.messages) for r in (first, second)] == [2, 1]
    assert second.extra == {"answer": "two", "checked": "no", "lang": "fr"}
    first, _ = read(
        f"format={form},uri={path},columns.language=lang,constants.type=clean,columns.slices.region=b"
    )
    assert (first.label, first.language, first.slices) == ("clean", "de", {"region": "y"})
    reader = reader_named(str(form))
    assert (reader.licence, reader.labels, reader.evaluation_only) == ("MIT", "canonical", False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("note", "notes"), "unknown key 'notes'; did you mean 'note'"),
        (('"table"', '"tabel"'), "reader = 'tabel': must be"),
        (('"mine"', '"Mine/../x"'), "name = 'Mine/../x'"),
        (("question =", "quest ="), "columns.quest: no such field"),
        (("[constants]", "[constants]\nimage = 'x'"), "constants.image: no such field"),
        (('is = ["yes", "1"]', "is = []"), "answer_when.is = []"),
        (("version = 1", "version ="), "is not valid TOML"),
        (('"canonical"', '"nosuch"'), "unknown label mapping 'nosuch'"),
    ],
)
def test_a_wrong_format_file_says_what_is_wrong(tmp_path, change, words):
    load_format.cache_clear()
    path = csv(tmp_path / "mine.toml", OWN.replace(*change, 1))
    with pytest.raises(ConfigError) as error:
        parse_source(f"format={path},uri=a.csv")
    assert words in str(error.value)


def test_a_format_that_nobody_knows_names_those_that_are():
    with pytest.raises(
        ConfigError, match=r"did you mean 'spa-vl'\? formats: .*unsafebench.*\.toml"
    ):
        parse_source("format=spavl,uri=a")
    with pytest.raises(ConfigError, match=r"format file 'none\.toml' cannot be read"):
        parse_source("format=none.toml,uri=a")


def test_the_command_lists_every_format_with_an_example():
    shown = CliRunner().invoke(application(), ["sources"])
    assert shown.exit_code == 0
    lines = CliRunner().invoke(application(), ["sources", "--json"]).output
    told_formats = json.loads(lines)["formats"]
    assert [f["format"] for f in told_formats] == formats()
    for one in told_formats:
        assert set(one) == {"format", "about", "labels", "licence", "evaluation_only", "example"}
        assert f"--source '{one['example']}'" in shown.output
        assert 10 < len(one["about"]) < 120


# --- published and generated samples (tests/data, each with its source and licence) ---


@pytest.mark.parametrize("form", ["out_files", "out_parquet", "out_webdataset"])
def test_the_three_outputs_of_img2dataset_give_the_same_items(form):
    typed = f"format=img2dataset,uri={DATA}/img2dataset/{form},columns.type=risk_type"
    found = read(f"{typed},columns.level=risk_level")
    assert Counter(told(found)) == {"good": 4, "image_missing": 1, "image_unreadable": 1}
    good = sorted((r for r in found if isinstance(r, RawRecord)), key=lambda r: r.source_key)
    assert [(r.label, r.level) for r in good] == [
        ("clean", "0"), ("clean", "0"), ("politics", "2"), ("privacy", "3"),
    ]  # fmt: skip
    for number, record in enumerate(good):
        assert record.messages[0].text == f"plain colour block {number}"
        Image.open(io.BytesIO(record.images[0].data)).load()
    details = {r.detail for r in found if isinstance(r, RawReject)}
    assert "failed_to_download: HTTP Error 404: File not found" in details
    source = parse_source(typed)
    names = [Path(f.name).suffix for f in reader_of(source).files(source)]
    expected = {"out_files": {".jpg": 4, ".json": 4, ".txt": 4}, "out_webdataset": {".tar": 2}}
    assert Counter(names) == {".parquet": 2, **expected.get(form, {})}


def test_the_samples_of_hugging_face_parquet_are_read_in_every_state():
    typed = f"format=hf-parquet,uri={DATA}/hf_parquet"
    found = read(f"{typed}/hf_image_struct_quirks.parquet,columns.type=label")
    assert told(found) == ["good"] * 6
    assert [len(r.images) for r in found] == [1, 1, 1, 0, 1, 1]
    assert found[2].images == (ImageRef(path="images/r2.png"),)
    assert found[5].images == (ImageRef(data=b""),)
    assert all(not r.label.isdigit() for r in found)
    several, none = read(f"{typed}/hf_image_list.parquet,labels=clean")
    assert [len(r.images) for r in (several, none)] == [2, 0]
    written = read(f"{typed}/written_by_datasets.parquet,columns.type=label")
    assert [len(r.images) for r in written] == [1, 1]


def test_the_question_files_of_llava_are_read_by_a_format_file():
    found = read(f"format=llava-questions,uri={DATA}/llava/*.jsonl")
    assert Counter((len(r.images), r.slices["kind"]) for r in found if r.images) == {
        (1, "conv"): 30, (1, "detail"): 30, (1, "complex"): 30,
    }  # fmt: skip
    assert len(found) == 170
    assert {r.label for r in found} == {""}


def test_samples_in_a_bucket_give_the_same_items(monkeypatch):
    with s3_server() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        bucket = boto3.client("s3")
        for path in DATA.glob("*/**/*"):
            if path.suffix in (".parquet", ".tar", ".jpg"):
                key = path.relative_to(DATA).as_posix()
                bucket.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        for folder in ("img2dataset/out_files", "img2dataset/out_webdataset"):
            typed = "format=img2dataset,uri={}/" + folder + ",labels=clean"
            there, here = (read(typed.format(root)) for root in (f"s3://{BUCKET}", DATA))
            assert there == here
            assert len(there) == 6
        typed = "format=hf-parquet,uri={}/hf_parquet,constants.question=q,labels=clean"
        there, here = (read(typed.format(root)) for root in (f"s3://{BUCKET}", DATA))
        assert there == here
        assert len(there) == 10


def test_a_source_config_of_the_flow_is_as_good_as_a_typed_one(tmp_path):
    path = csv(tmp_path / "a.csv", "prompt,a\nq,clean\n")
    source = SourceConfig(
        format="table", uri=str(path), columns={"question": "prompt"}, constants={"type": "clean"}
    )
    (record,) = reader_of(source).read(source, max_bytes=10)
    assert (record.label, record.extra) == ("clean", {"a": "clean"})
