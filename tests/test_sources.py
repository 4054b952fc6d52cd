"""What each reader makes of its format's quirks. Words are abstract on purpose."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.identity import Folder
from infra.places import expand
from schemas.config import SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.samples import ImageRef, Message, RawRecord, RawReject
from tasks.sources import READERS, parse_source, reader_of


def items(path, *, form, max_bytes=1000, **settings) -> list[RawRecord | RawReject]:
    source = SourceConfig(format=form, uri=str(path), **settings)
    return list(reader_of(source).read(source, max_bytes=max_bytes))


def written(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def texts(record: RawRecord) -> list[tuple[str, str]]:
    return [(m.role, m.text) for m in record.messages]


# --- table ---


def test_a_csv_row_becomes_a_record_with_renamed_columns_and_the_rest_in_extra(tmp_path):
    path = written(
        tmp_path / "mine.csv",
        "\ufeffprompt,answer,image,risk,level,split,id,language,note\n"
        '"<image>\nwhat, ""this""?",a shape,a.png,privacy,2,train,7,en,kept\n',
    )
    (record,) = items(path, form="table", columns={"question": "prompt", "type": "risk"})
    assert record == RawRecord(
        source_key="mine.csv:1",
        messages=(Message("user", 'what, "this"?'), Message("assistant", "a shape")),
        images=(ImageRef(path="a.png"),),
        label="privacy",
        level="2",
        split="train",
        language="en",
        extra={"id": "7", "note": "kept"},
    )


def test_a_csv_row_with_too_few_or_too_many_cells_is_rejected_and_the_next_one_read(tmp_path):
    path = written(tmp_path / "a.csv", "question,type\nq\nq,clean,more\nq,clean\n")
    short, long, good = items(path, form="table")
    assert (short.reason, long.reason) == ("bad_row", "bad_row")
    assert good.source_key == "a.csv:3"
    assert good.label == "clean"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_missing_mandatory_column_names_the_columns_found(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    rows = {"text": ["q"], "type": ["clean"]}
    if kind == "csv":
        path.write_text("text,type\nq,clean\n")
    elif kind == "jsonl":
        path.write_text('{"text": "q", "type": "clean"}\n')
    else:
        pq.write_table(pa.table(rows), path)
    with pytest.raises(DataError, match=r"'question' is missing; found \['text', 'type'\]"):
        items(path, form="table")


def test_a_column_that_the_source_names_must_exist(tmp_path):
    path = written(tmp_path / "a.csv", "question,type\nq,clean\n")
    with pytest.raises(DataError, match="'respons' is missing"):
        items(path, form="table", columns={"answer": "respons"})


def test_a_table_declared_clean_needs_no_type_column(tmp_path):
    path = written(tmp_path / "a.csv", "question\nq\n")
    (record,) = items(path, form="table", labels="clean")
    assert record.label == ""


def test_bad_lines_of_json_lines_are_rejected_one_by_one(tmp_path):
    lines = ['{"question": "q", "type": "clean"}', "{cut", "[1]", "", '{"type": "clean"}']
    lines += ['{"question": ["q"], "type": "clean"}', '{"question": "q", "type": true}']
    lines += ['{"question": "half \\ud800", "type": "clean"}']
    lines += ['{"question": "q", "type": "clean", "image": {"bytes": "text"}}']
    found = items(written(tmp_path / "a.jsonl", "\n".join(lines)), form="table")
    assert [getattr(item, "reason", "good") for item in found] == [
        "good", "bad_row", "bad_row", "missing_key", "bad_value", "bad_value",
        "bad_value", "bad_value",
    ]  # fmt: skip
    assert found[3].source_key == "a.jsonl:5"


def test_numbers_as_labels_and_levels_lose_their_point_and_nan_is_missing(tmp_path):
    rows = {"question": ["q", "q"], "type": [3, 4], "level": [2.0, float("nan")]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    first, second = items(tmp_path / "a.parquet", form="table")
    assert (first.label, first.level) == ("3", "2")
    assert second.level is None


def test_hugging_face_parquet_gives_bytes_paths_lists_and_class_names(tmp_path):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"type": {"names": ["clean", "privacy"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(
        [("question", pa.string()), ("type", pa.int64()), ("image", pa.list_(image))], metadata
    )
    cells = [
        [{"bytes": b"one", "path": None}, {"bytes": b"", "path": "b.png"}],
        [{"bytes": None, "path": "c.png"}, None],
        None,
    ]
    table = pa.table([["q"] * 3, [1, 0, 1], cells], schema=schema)
    pq.write_table(table, tmp_path / "hf.parquet")
    found = items(tmp_path / "hf.parquet", form="table")
    assert [record.label for record in found] == ["privacy", "clean", "privacy"]
    assert [record.images for record in found] == [
        (ImageRef(data=b"one"), ImageRef(data=b"")),
        (ImageRef(path="c.png"),),
        (),
    ]


def test_a_damaged_table_names_its_file(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 is not enough")
    (tmp_path / "b.csv").write_bytes(b"question,type\n\xff\xfe,clean\n")
    for name in ("a.parquet", "b.csv"):
        with pytest.raises(DataError, match=name):
            items(tmp_path / name, form="table")


def test_a_table_of_an_unknown_extension_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"\.csv, \.jsonl, \.parquet"):
        items(written(tmp_path / "a.xlsx", "x"), form="table")


# --- vlguard ---

UNSAFE = {
    "id": "a", "image": "bad/a.png", "safe": False, "harmful_category": "deception",
    "harmful_subcategory": "disinformation", "note": 1,
    "instr-resp": [{"instruction": "q", "response": "r", "weight": 2, "note": 3}],
}  # fmt: skip
SAFE = {
    "id": "b", "image": "good/b.png", "safe": True,
    "instr-resp": [
        {"safe_instruction": "what?", "response": "a shape"},
        {"unsafe_instruction": "worse?", "response": "no"},
    ],
}  # fmt: skip


def test_vlguard_has_two_forms_and_labels_are_about_the_image(tmp_path):
    found = items(written(tmp_path / "train.json", [UNSAFE, SAFE]), form="vlguard")
    assert [(r.source_key, r.label, r.extra["subset"]) for r in found] == [
        ("train.json:1/1", "disinformation", "unsafes"),
        ("train.json:2/1", "safe", "safe_safes"),
        ("train.json:2/2", "safe", "safe_unsafes"),
    ]
    assert texts(found[2]) == [("user", "worse?"), ("assistant", "no")]
    assert found[1].images == (ImageRef(path="good/b.png"),)


def test_unknown_keys_of_a_vlguard_record_and_of_its_item_are_kept(tmp_path):
    (record,) = items(written(tmp_path / "t.json", [UNSAFE]), form="vlguard")
    assert record.extra == {
        "id": "a", "record.note": 1, "note": 3, "weight": 2, "subset": "unsafes",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instr-resp": [{"instruction": "q", "response": " "}]}, "empty_answer"),
        ({"instr-resp": [{"instruction": "q"}]}, "missing_key"),
        ({"instr-resp": [{"response": "r"}]}, "missing_key"),
        ({"instr-resp": ["q"]}, "missing_key"),
        ({"instr-resp": []}, "missing_key"),
        ({"instr-resp": [{"instruction": 5, "response": "r"}]}, "bad_value"),
        ({"safe": "false"}, "bad_value"),
        ({"image": {"url": "x"}}, "bad_value"),
    ],
)
def test_a_faulty_vlguard_record_is_rejected_and_never_clean(tmp_path, change, reason):
    (reject,) = items(written(tmp_path / "t.json", [UNSAFE | change]), form="vlguard")
    assert (type(reject), reject.reason) == (RawReject, reason)


def test_an_unsafe_vlguard_image_without_a_subcategory_is_rejected(tmp_path):
    lacking = {k: v for k, v in UNSAFE.items() if k != "harmful_subcategory"}
    found = items(written(tmp_path / "t.json", [lacking, "no object"]), form="vlguard")
    assert [r.reason for r in found] == ["missing_key", "not_an_object"]


# --- llava ---


def llava(*turns: str, **more) -> dict:
    """Turns written as `h:text` and `g:text`."""
    names = {"h": "human", "g": "gpt"}
    conversation = [{"from": names[t[0]], "value": t[2:]} for t in turns]
    return {"id": "x", "conversations": conversation, **more}


def test_llava_keeps_all_turns_strips_the_placeholder_and_drops_leading_gpt_turns(tmp_path):
    record = llava("g:hello", "h:<image>\nq1", "g:a1", "h:q2\n<image>", "g:a2", image="a.jpg", k=1)
    (found,) = items(written(tmp_path / "a.json", [record]), form="llava")
    assert texts(found) == [
        ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"),
    ]  # fmt: skip
    assert found.images == (ImageRef(path="a.jpg"),)
    assert found.label == ""
    assert found.extra == {"id": "x", "k": 1}


def test_llava_records_without_an_image_or_with_several_are_legal(tmp_path):
    path = written(tmp_path / "a.json", [llava("h:q", "g:a"), llava("h:q", image=["a", "b"])])
    text_only, several = items(path, form="llava")
    assert text_only.images == ()
    assert [ref.path for ref in several.images] == ["a", "b"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("a word", "not_an_object"),
        ({"id": "x"}, "missing_key"),
        (llava("g:only"), "missing_key"),
        (llava("h:<image>\nq", "g:a"), "missing_key"),
        (llava("h:q", "h:q2"), "turns_out_of_order"),
        (llava("h:q", "g: "), "empty_answer"),
        (llava("h:q", image=5), "bad_value"),
        ({"conversations": [{"from": "system", "value": "s"}]}, "bad_value"),
        ({"conversations": [{"from": ["human"], "value": "s"}]}, "bad_value"),
        ({"conversations": [{"from": "human", "value": None, "x": 1}]}, "bad_value"),
    ],
)
def test_a_faulty_llava_record_is_rejected_with_a_reason(tmp_path, record, reason):
    bad, good = items(written(tmp_path / "a.json", [record, llava("h:q", "g:a")]), form="llava")
    assert bad.reason == reason
    assert good.source_key == "a.json:2"


def test_a_json_array_is_streamed_record_by_record(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text("[" + json.dumps(llava("h:q", "g:a")) + ",{" + " " * 100_000)
    source = SourceConfig(format="llava", uri=str(path))
    found = reader_of(source).read(source, max_bytes=10)
    assert next(found).source_key == "cut.json:1"
    with pytest.raises(DataError, match=r"cut\.json.*not readable JSON"):
        next(found)


@pytest.mark.parametrize("content", ["", '{"a": 1}\n{"a": 2}', "no json"])
def test_a_file_that_is_no_json_array_is_an_error_that_names_it(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.json.*JSON array"):
        items(written(tmp_path / "a.json", content), form="llava")


# --- webdataset ---

ROW = json.dumps({"question": "q", "answer": "a", "type": "clean", "level": 0, "more": 1}).encode()


def test_webdataset_joins_members_by_the_name_up_to_the_first_dot(tmp_path):
    members = {
        "d.ir/0001.jpg": b"one", "d.ir/0001.json": ROW, "d.ir/0001.seg.png": b"mask",
        "0002.json": ROW, "0002.PNG": b"two", "folder": b"",
    }  # fmt: skip
    first, second = items(tar(tmp_path / "s.tar", members), form="webdataset")
    assert first.source_key == "s.tar:d.ir/0001"
    assert first.images == (ImageRef(data=b"one"),)
    assert (first.label, first.level, first.extra) == ("clean", "0", {"more": 1})
    assert second.images == (ImageRef(data=b"two"),)


def test_webdataset_shards_are_named_by_brace_ranges_and_a_hole_is_an_error(tmp_path):
    for number in (8, 9, 10):
        tar(tmp_path / f"s-{number:03d}.tar", {f"k{number}.png": b"x", f"k{number}.json": ROW})
    found = items(tmp_path / "s-{008..010}.tar", form="webdataset")
    assert [r.source_key for r in found] == ["s-008.tar:k8", "s-009.tar:k9", "s-010.tar:k10"]
    with pytest.raises(DataError, match=r"s-011\.tar.*does not exist"):
        items(tmp_path / "s-{008..011}.tar", form="webdataset")


def test_webdataset_reads_other_keys_when_told(tmp_path):
    path = tar(tmp_path / "a.tar", {"1.png": b"x", "1.json": b'{"caption": "c", "risk": "clean"}'})
    (record,) = items(path, form="webdataset", columns={"question": "caption", "type": "risk"})
    assert texts(record) == [("user", "c")]


def test_names_and_extra_keys_with_half_characters_stay_readable(tmp_path):
    row = ROW[:-1] + b', "half": "\\ud800"}'
    path = tar(tmp_path / "a.tar", {"\udcff.png": b"x", "\udcff.json": row})
    (record,) = items(path, form="webdataset")
    assert record.source_key == "a.tar:?"
    assert record.extra["half"] == "?"


def test_faulty_webdataset_samples_are_rejected(tmp_path):
    members = {"1.png": b"x", "2.json": ROW, "3.png": b"x", "3.json": b"{", "4.png": b"x"}
    members |= {"4.json": b"[]", "5.png": b"x", "5.json": b"{}"}
    found = items(tar(tmp_path / "a.tar", members), form="webdataset")
    assert [r.reason for r in found] == [
        "missing_key", "image_missing", "bad_row", "not_an_object", "missing_key",
    ]  # fmt: skip


def test_a_member_is_read_only_up_to_the_limit(tmp_path):
    path = tar(tmp_path / "a.tar", {"1.png": b"x" * 5000, "1.json": ROW})
    (record,) = items(path, form="webdataset", max_bytes=200)
    assert len(record.images[0].data) == 201


def test_an_empty_tar_has_no_samples(tmp_path):
    assert items(tar(tmp_path / "a.tar", {}), form="webdataset") == []


@pytest.mark.parametrize("damage", ["cut", "cut at a member", "header", "no tar", "nothing"])
def test_a_damaged_tar_is_an_error_and_never_a_shorter_data_set(tmp_path, damage):
    members = {f"{i}.{e}": c for i in range(3) for e, c in (("png", b"x"), ("json", ROW))}
    path = tar(tmp_path / "a.tar", members)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:1600],
            "cut at a member": whole[: 4 * 512],
            "header": whole[: 4 * 512] + b"?" * 512 + whole[5 * 512 :],
            "no tar": b"these are words",
            "nothing": b"",
        }[damage]
    )
    with pytest.raises(DataError, match=r"a\.tar.*not a whole tar"):
        items(path, form="webdataset")


# --- files ---


def test_a_glob_lists_files_by_name_and_keys_hold_no_path_of_the_machine(tmp_path):
    for name in ("b/2.csv", "a/1.csv"):
        (tmp_path / name).parent.mkdir()
        written(tmp_path / name, "question,type\nq,clean\n")
    found = items(f"{tmp_path}/*/*.csv", form="table")
    assert [r.source_key for r in found] == ["a/1.csv:1", "b/2.csv:1"]


def test_a_name_with_pattern_characters_that_exists_is_taken_as_it_is(tmp_path):
    path = written(tmp_path / "a[1]{0..1}.csv", "x")
    assert [f.name for f in expand(str(path))] == [path.name]


@pytest.mark.parametrize("form", sorted(READERS))
@pytest.mark.parametrize("name", ["none.json", "*.none"])
def test_a_missing_file_is_an_error_that_names_it(tmp_path, form, name):
    with pytest.raises(DataError, match=r"none.*does not exist"):
        items(tmp_path / name, form=form)


def test_only_local_paths_and_buckets_are_read():
    with pytest.raises(ConfigError, match="not ftp"):
        expand("ftp://host/a.csv")


def test_a_folder_is_identified_by_names_and_contents(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place / "deep").mkdir(parents=True)
        written(tmp_path / place / "deep" / "a.png", "same")
    first = Folder(str(tmp_path / "one")).identity
    assert Folder(str(tmp_path / "two")).identity == first
    written(tmp_path / "two" / "deep" / "a.png", "diff")
    assert Folder(str(tmp_path / "two")).identity != first
    with pytest.raises(DataError, match="image folder"):
        Folder(str(tmp_path / "three"))


@pytest.mark.parametrize("kind", ["sha256", "stat"])
def test_a_folders_identity_stays_what_it_was_in_the_first_version(tmp_path, monkeypatch, kind):
    """It is in the fingerprints of all snapshots: one hash over the sorted names."""
    if kind == "stat":
        monkeypatch.setattr("infra.identity.HASH_UP_TO", 0)
    for name in ("a/b", "a.b", "a-b/c", "a/b.c/d", "a0", "\u00e9/\u4e2d", "empty"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        written(tmp_path / "in" / name, name if name != "empty" else "")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "a0")
    (tmp_path / "in" / "to-folder").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "to-nowhere").symlink_to(tmp_path / "none")
    lines = []
    for name in sorted(("a/b", "a.b", "a-b/c", "a/b.c/d", "a0", "\u00e9/\u4e2d", "empty", "link")):
        path = tmp_path / "in" / name
        content = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        stamp = f"{path.stat().st_size}\t{path.stat().st_mtime_ns}"
        lines.append(f"{name}\t{stamp if kind == 'stat' else content}")
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert Folder(str(tmp_path / "in")).identity == f"{kind}:{digest}"


# --- what people type ---


def test_a_typed_source_becomes_a_config():
    typed = "format=table, uri=my.csv,images=dir,split=train,columns.question=prompt,limit=5"
    assert parse_source(typed) == SourceConfig(
        format="table", uri="my.csv", images="dir", split="train",
        columns={"question": "prompt"}, limit=5,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(READERS))
def test_every_format_has_an_example_that_can_be_typed(name):
    assert parse_source(READERS[name].example).format == name


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("format=table,url=a.csv", "unknown key 'url'; did you mean 'uri'"),
        ("format=table,uri=a.csv,columns.quest=a", "columns.quest: no such field"),
        (
            "format=tabel,uri=a.csv",
            "unknown format 'tabel'; did you mean 'table'? formats: beavertails-v, figstep",
        ),
        ("format=table,uri=a.csv,split=trian", "split = 'trian': must be"),
        ("format=table,uri=a.csv,uri=b.csv", "'uri' is given twice"),
        ("format=table", "'uri' is missing"),
        ("a.csv", "'a.csv' is not key=value"),
        ("format=table,uri=a.csv,labels=nosuch", "unknown label mapping 'nosuch'"),
    ],
)
def test_a_mistyped_source_says_what_is_wrong(typed, words):
    with pytest.raises(ConfigError) as error:
        parse_source(typed)
    assert words in str(error.value)
