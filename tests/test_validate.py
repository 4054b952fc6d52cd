"""Validation: every rule finds its row, both engines agree, and nothing bad passes unsaid."""

import hashlib
import json
import re
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.parts import parts_of, read_parts, write_parts, write_stream
from infra.store import Store, open_artifact
from schemas.artifact import Artifact
from schemas.config import BalanceConfig, ValidateConfig
from schemas.errors import ConfigError, DataError, StorageError
from schemas.licence import load_licences
from schemas.policy import refusal_pattern
from schemas.samples import REJECTS, ROWS
from schemas.taxonomy import load_taxonomy
from tasks.balance.pool import read_pool
from tasks.balance.totals import training_items
from tasks.evaluate.step import held_out_rows
from tasks.train.data import calibration_items
from tasks.validate import VERSION, build_labelled, validate
from tasks.validate.docs import SCALARS, check
from tasks.validate.facts import FLAGS, count_rules, examined
from tasks.validate.frames import frames
from tasks.validate.labelled import ORDERED, labelled
from tasks.validate.rules import rules
from tasks.validate.step import QUARANTINE, REFUSED

REFUSAL = "Sorry, no."
NAMES = ("one", "pieces")


def row(number: int, **changes) -> dict:
    """A clean, valid training row; `q` and `a` set its two turns."""
    question, answer = changes.pop("q", f"question {number}"), changes.pop("a", f"answer {number}")
    turns = [{"role": "user", "text": question}]
    turns += [{"role": "assistant", "text": answer}] if answer is not None else []
    return {
        "sample_id": f"{number:04d}",
        "image_ids": [f"image {number}"],
        "source": "s",
        "source_key": f"s.json:{number}",
        "split": "train",
        "messages": turns,
        "risk_type": "clean",
        "risk_level": 0,
        "supervises": "both" if answer is not None else "concept",
        "language": "",
        "licence": "",
        "group_id": f"image {number}",
        "slices": [],
        "extra": "{}",
        **changes,
    }


def risky(number: int, **changes) -> dict:
    return row(number, **{"risk_type": "privacy", "risk_level": 2, "a": REFUSAL, **changes})


def samples(folder: Path, rows: list[dict], rejects: list[dict] | None = None) -> Path:
    folder.mkdir()
    write_parts(pa.Table.from_pylist(rows[::2], ROWS), folder / "rows")
    pq.write_table(pa.Table.from_pylist(rows[1::2], ROWS), folder / "rows" / "part-00001.parquet")
    write_parts(pa.Table.from_pylist(rejects or [], REJECTS), folder / "rejects")
    return folder


@contextmanager
def opened(rows: list[dict], **settings):
    """The facts of rows, and the rules that judged them."""
    config = ValidateConfig(**settings)
    order = rules(config, load_taxonomy())
    with TemporaryDirectory() as home:
        place = samples(Path(home) / "samples [*]", rows)
        with examined(
            parts_of(place / "rows", ROWS),
            rejects=parts_of(place / "rejects", REJECTS),
            rules=order,
            refusal=refusal_pattern(config.refusal_markers),
            home=Path(home),
        ) as con:
            yield con, order


def judged(rows: list[dict], **settings) -> dict[str, str]:
    """source_key -> reason or action, of the rows that any rule touches."""
    with opened(rows, **settings) as (con, order):
        found = con.execute(
            "SELECT source_key, broken, clean_by_level, concept "
            "FROM own_facts JOIN judged USING (position)"
        ).fetchall()
    touched = {}
    for key, broken, *changes in found:
        actions = [name for name, hit in zip(FLAGS, changes, strict=True) if hit]
        if broken is not None:
            actions.append(order[broken].reason)
        if actions:
            touched[key.removeprefix("s.json:")] = " ".join(actions)
    return touched


def build(folder: Path, rows: list[dict], rejects=None, **settings) -> tuple[dict, list[dict]]:
    folder.mkdir(exist_ok=True)
    place = samples(folder / "samples", rows, rejects)
    (folder / "out").mkdir()
    config = ValidateConfig(**settings)
    counts = build_labelled(folder / "out", config, place, place="store/ingest/abc")
    assert counts["in"] == counts["accepted"] + counts["quarantined"]
    assert {p.name for p in (folder / "out").iterdir()} == {
        "rows", "quarantine", "docs", "verdict.json", "conflicts.parquet",
    }  # fmt: skip
    return counts, read_parts(folder / "out" / "rows", ROWS).to_pylist()


def told(folder: Path) -> dict:
    return json.loads((folder / "out" / "verdict.json").read_text())


FAULTS = {
    "type_not_in_taxonomy": {"risk_type": "other"},
    "unknown_split": {"split": "dev"},
    "unknown_supervises": {"supervises": "all"},
    "level_out_of_range": {"risk_type": "privacy", "risk_level": 4},
    "clean_with_level": {"risk_level": 1},
    "empty_question": {"q": " \n"},
    "empty_answer": {"a": "\t"},
    "missing_value": {"risk_type": None},
}


@pytest.mark.parametrize("reason", FAULTS)
def test_each_rule_finds_its_row_and_no_other(reason):
    assert judged([row(1), row(2, **FAULTS[reason]), risky(3)]) == {"2": reason}


def test_an_empty_turn_of_a_long_conversation_is_found():
    turns = [{"role": r, "text": t} for r, t in (("user", "q"), ("assistant", "a"), ("user", " "))]
    assert judged([row(1, messages=turns)]) == {"1": "empty_question"}


def test_an_answer_is_asked_for_only_where_it_teaches():
    rows = [row(1, a=None), row(2, a=None, split="test", supervises="evaluation")]
    assert judged(rows) == {}


def test_of_equal_samples_one_stays_the_one_for_testing_first():
    same = {"q": "q", "a": "a", "image_ids": []}
    rows = [
        row(1, **same),
        row(2, **same, split="test"),
        row(3, **same),
        row(4, **same | {"a": "b"}),
    ]
    assert judged(rows) == {"1": "duplicate_sample", "3": "duplicate_sample"}
    assert judged([row(1), row(2, sample_id="0001")]) == {"2": "duplicate_sample"}


def test_a_group_stays_in_the_split_that_must_be_unseen():
    rows = [
        row(1, group_id="b"),
        row(2, group_id="b", split="test"),
        row(3, group_id="c"),
        row(4, group_id="c", split="calibration"),
        row(5, group_id="d", split="calibration"),
        row(6, group_id="d", split="test", image_ids=["e", "f"]),
        row(7, group_id="g"),
        row(8, group_id="g"),
        row(9, group_id="h", source="t", split="calibration"),
        row(10, group_id="h"),
    ]
    assert judged(rows) == dict.fromkeys(["1", "3", "5", "10"], "image_in_two_splits")


def test_a_row_that_shares_its_group_with_a_foreign_test_item_is_contamination():
    rows = [
        row(1, group_id="a"),
        row(2, group_id="a", source="bench", split="test"),
        row(3, group_id="b", split="calibration"),
        row(4, group_id="b", source="bench", split="test"),
        row(5, group_id="b", split="test"),
        row(6, group_id="b", source="bench"),
        row(7, group_id="c"),
        row(8, group_id="c", source="bench"),
    ]
    assert judged(rows) == dict.fromkeys(["1", "3", "6"], "contamination")


def test_a_copy_of_a_foreign_test_prompt_is_contamination_even_without_an_image():
    same = {"q": "q", "a": "a", "image_ids": []}
    rows = [
        row(1, **same),
        row(2, **same, source="bench", split="test"),
        row(3, **same, source="bench"),
        row(4, **same | {"q": "other"}),
    ]
    assert judged(rows) == {"1": "contamination", "3": "duplicate_sample"}


def overlapping(count: int) -> list[dict]:
    """Training rows of which `count` show what a test item of `bench` shows."""
    tested = [row(i, group_id=f"g{i}", source="bench", split="test") for i in range(count)]
    return [*(row(500 + i, group_id=f"g{i}") for i in range(count)), *tested, *many(20)]


def test_contamination_is_removed_without_counting_as_a_fault_of_the_source(tmp_path):
    counts, labelled = build(tmp_path, overlapping(8))
    assert (counts["contaminated"], counts["quarantined"]) == (8, 8)
    assert {r["split"] for r in labelled if r["group_id"].startswith("g")} == {"test"}
    assert told(tmp_path)["contamination"] == [{"source": "s", "test_source": "bench", "rows": 8}]
    assert told(tmp_path)["sources"]["s"] == {"in": 28, "rejected": 0, "removed": 8, "rate": 0}
    aside = read_parts(tmp_path / "out" / "quarantine", QUARANTINE).to_pylist()
    assert aside[0]["detail"] == "test item of bench: s.json:0"


def test_contamination_is_refused_by_policy_with_sources_counts_and_three_examples(tmp_path):
    with pytest.raises(DataError) as error:
        build(tmp_path, overlapping(5), contamination="refuse")
    message = str(error.value)
    assert "5 rows" in message and "'s' with 'bench': 5" in message
    examples = message.partition("Such as ")[2]
    assert examples.startswith("s.json:500 (test item s.json:0); s.json:501 (test item s.json:1)")
    assert examples.count("test item") == 3 and "s.json:503" not in message
    assert build(tmp_path / "clean", many(20), contamination="refuse")[0]["quarantined"] == 0


def conflicts(folder: Path) -> list[dict]:
    return pq.read_table(folder / "out" / "conflicts.parquet").to_pylist()


def contradicting() -> list[dict]:
    return [
        row(1, group_id="a"),
        risky(2, group_id="a"),
        risky(3, group_id="b", risk_level=1),
        risky(4, group_id="b", risk_level=3),
        risky(5, group_id="c", risk_level=2),
        risky(6, group_id="c", risk_level=3),
        risky(7, group_id="d"),
        risky(8, group_id="d", risk_type="illegal", q="same", a=REFUSAL, image_ids=["d"]),
        risky(9, group_id="d", q="same", a=REFUSAL, image_ids=["d"]),
        row(10, group_id="e"),
        row(11, group_id="e", risk_type="privacy"),
        row(12, group_id="f"),
        row(13, group_id="f", risk_type="privacy", risk_level=4),
    ]


def test_contradicting_labels_of_a_group_are_reported_and_stay(tmp_path):
    counts, labelled = build(tmp_path, [*contradicting(), *many(60)], max_reject_rate=1)
    found = conflicts(tmp_path)
    assert [r["sample_id"] for r in found] == [
        "0001",
        "0002",
        "0003",
        "0004",
        "0007",
        "0008",
        "0009",
    ]
    assert found[0] == {
        "group_id": "a", "sample_id": "0001", "source": "s", "source_key": "s.json:1",
        "risk_type": "clean", "risk_level": 0,
        "detail": "2 rows of one image group are clean, privacy, of levels 0 to 2",
    }  # fmt: skip
    assert (counts["conflicts"], counts["conflicts_rejected"]) == (7, 0)
    assert told(tmp_path)["conflicts"] == {"rows": 7, "groups": 3}
    kept = {r["sample_id"] for r in labelled}
    assert {"0001", "0002", "0003", "0004", "0007", "0008"} <= kept


def test_contradicting_labels_are_set_aside_where_this_is_asked_for(tmp_path):
    rows = contradicting()
    found = judged(rows, label_conflict="reject")
    assert found == {
        **dict.fromkeys(["1", "2", "3", "4", "7", "8"], "label_conflict"),
        "9": "duplicate_sample", "11": "clean_by_level", "13": "level_out_of_range",
    }  # fmt: skip
    counts, _ = build(tmp_path, [*rows, *many(60)], label_conflict="reject")
    assert counts["conflicts_rejected"] == told(tmp_path)["policies"]["label_conflict"]["rows"] - 1


def test_labels_contradict_each_other_only_under_one_policy(tmp_path):
    def under(number: int, policy: str, **changes) -> dict:
        slices = [("judged_under", policy), ("region", "x")]
        return row(number, group_id="a", slices=slices, **changes)

    harm = {"risk_type": "privacy", "risk_level": 2, "a": REFUSAL}
    build(tmp_path, [under(1, "p1"), under(2, "p2", **harm), *many(20)])
    assert conflicts(tmp_path) == []
    build(tmp_path / "two", [under(1, "p1"), under(2, "p1", **harm), under(3, "p2"), *many(20)])
    found = conflicts(tmp_path / "two")
    assert [r["sample_id"] for r in found] == ["0001", "0002"]
    assert found[0]["detail"].endswith("of levels 0 to 2, under policy p1")


def test_a_type_with_level_zero_follows_the_policy():
    rows = [row(1, risk_type="privacy")]
    assert judged(rows) == {"1": "clean_by_level"}
    assert judged(rows, type_with_level_zero="reject") == {"1": "type_with_level_zero"}


def test_a_risky_training_answer_that_does_not_refuse_follows_the_policy():
    rows = [
        risky(1, a="Here it is."),
        risky(2, a="I’M SORRY, I can’t."),
        risky(3, risk_level=1, a="Here it is."),
        risky(4, a="Here it is.", split="calibration"),
        risky(5, a=None),
        row(6, a="Here it is."),
    ]
    assert judged(rows) == {"1": "concept"}
    assert judged(rows, unsafe_target="reject") == {"1": "unsafe_target"}
    assert judged(rows, refusal_markers=[]) == {"1": "concept", "2": "concept"}
    assert judged(rows, refusal_markers=["^here.*[.]$"]) == {"2": "concept"}


def test_every_answer_of_a_risky_conversation_must_refuse():
    turns = [("user", "q"), ("assistant", REFUSAL), ("user", "q"), ("assistant", "Here it is.")]
    rows = [risky(1, messages=[{"role": r, "text": t} for r, t in turns])]
    assert judged(rows) == {"1": "concept"}


@pytest.mark.parametrize("marker", ["(", "(?=x)"])
def test_a_refusal_marker_must_be_an_expression(marker):
    with pytest.raises(ConfigError, match="refusal"):
        judged([row(1)], refusal_markers=[marker])


def many(count: int) -> list[dict]:
    return [row(i) if i % 2 else risky(i) for i in range(100, 100 + count)]


def test_bad_rows_go_to_quarantine_with_a_reason_and_the_rest_stays_as_it_was(tmp_path):
    rows = [row(1, risk_level=1), row(2, risk_type="privacy"), risky(3, a="Yes."), *many(40)]
    counts, labelled = build(tmp_path, list(reversed(rows)))
    assert counts == {
        "in": 43, "accepted": 42, "quarantined": 1, "concept_only": 1, "clean_by_level": 1,
        "several_images": 0, "text_only": 0, "supervises_both": 41, "supervises_concept": 1,
        "supervises_evaluation": 0, "train_unsafe": 21, "train_clean": 21,
        "calibration_unsafe": 0, "calibration_clean": 0, "test_unsafe": 0, "test_clean": 0,
        "conflicts": 0, "unsafe_rejected": 0, "level_zero_rejected": 0, "conflicts_rejected": 0,
        "contaminated": 0,
    }  # fmt: skip
    assert read_parts(tmp_path / "out" / "quarantine", QUARANTINE).to_pylist() == [
        {
            "sample_id": "0001", "source": "s", "source_key": "s.json:1",
            "reason": "clean_with_level", "detail": "1",
        }
    ]  # fmt: skip
    changed = rows[1] | {"risk_type": "clean", "extra": '{"clean_by_level": "privacy"}'}
    assert labelled == [changed, rows[2] | {"supervises": "concept"}, *rows[3:]]

    verdict = told(tmp_path)
    found = {r["reason"]: r["found"] for r in verdict["rules"] if r["found"]}
    assert found == {"clean_with_level": 1, "type_with_level_zero": 1, "unsafe_target": 1}
    assert verdict["success"] is False
    assert verdict["counts"] == counts
    assert verdict["sources"]["s"] == {
        "in": 43, "rejected": 1, "removed": 0, "rate": 1 / 43,
    }  # fmt: skip
    assert "expect" in (tmp_path / "out" / "docs" / "index.html").read_text().lower()


def test_rows_that_lie_in_order_are_told_like_those_that_duckdb_sorts(tmp_path):
    bare = {"messages": None, "slices": None, "licence": None, "extra": '{"ä": [1]}'}
    rows = [row(i, **change) for i, change in enumerate(FAULTS.values(), start=1)]
    rows += [risky(20, a="Yes."), row(21, risk_type="privacy"), row(22, image_ids=[]), *many(300)]
    rows += [row(23, slices=[("b", "1"), ("a", None)], risk_type="fairness", extra='{"k": 1}')]
    rows += [row(600, **bare, supervises="concept"), row(601, sample_id="0600")]
    rows.sort(key=lambda one: one["sample_id"])
    order, found = rules(ValidateConfig(), load_taxonomy()), []
    for cuts, given in (((0, 100, 101, 101, len(rows)), rows), ((0, len(rows)), rows[::-1])):
        place = samples(tmp_path / f"{len(cuts)}", [])
        for number, (start, stop) in enumerate(pairwise(cuts)):
            table = pa.Table.from_pylist(given[start:stop], ROWS)
            pq.write_table(table, place / "rows" / f"part-{number:05d}.parquet", row_group_size=64)
        parts = parts_of(place / "rows", ROWS)
        rejects = parts_of(place / "rejects", REJECTS)
        with examined(parts, rejects=rejects, rules=order, refusal="sorry", home=place) as con:
            assert con.execute(ORDERED).fetchall() == [(given is rows,)]
            found.append(pa.concat_tables(labelled(con, parts)).combine_chunks())
    assert found[0].equals(found[1], check_metadata=True)
    assert found[0].num_rows == len(rows) - 10
    assert sum("clean_by_level" in extra for extra in found[0]["extra"].to_pylist()) == 2


def every_fault() -> list[dict]:
    rows = [row(i, **change) for i, change in enumerate(FAULTS.values(), start=1)]
    rows += [row(50), row(51, sample_id="0050"), row(52, q="same", image_ids=[])]
    rows += [row(53, q="same", a="answer 52", image_ids=[]), row(54, risk_type="privacy")]
    return [*rows, risky(55, a="Here it is."), risky(56), row(57, sample_id="0050")]


# The copies of one id are 3 rows: a batch of 2 would have to cut through them.
@pytest.mark.parametrize("size", [1000, 4, 2])
def test_both_engines_count_every_rule_alike_in_batches_of_any_size(tmp_path, size):
    with opened(every_fault()) as (con, order):
        counts = count_rules(con, order)
        passed = check(con, tmp_path / "docs", rules=order, counts=counts, batch=size)
    checked = {rule.reason for rule, n in zip(order, counts, strict=True) if rule.expect and n}
    assert checked == {*FAULTS, "duplicate_sample", "type_with_level_zero", "unsafe_target"}
    assert not passed
    suites = {p.name for p in (tmp_path / "docs" / "validations").iterdir()}
    assert suites == {
        "schema", "vocabulary", "cross-column rules", "unique sample_id", "unique content_id",
    }  # fmt: skip
    pages = list((tmp_path / "docs" / "validations" / "schema").glob("*/*/*.html"))
    assert len(pages) == -(-len(every_fault()) // size)


def test_no_batch_is_larger_than_asked_for_and_none_cuts_through_equal_keys():
    with opened(every_fault()) as (con, _):
        for key, size in (("sample_id", 3), ("sample_id", 4), ("content_id", 2), ("position", 1)):
            found = [frame[key].tolist() for _, frame in frames(con, [key], key=key, size=size)]
            assert max(map(len, found)) <= size
            assert sum(map(len, found)) == len(every_fault())
            assert all(not set(one) & set(two) for one, two in pairwise(found))


def test_rows_without_a_key_are_in_one_frame_and_whole_numbers_are_numpys():
    with opened([row(i, sample_id=None if i < 3 else f"{i}") for i in range(9)]) as (con, _):
        found = [frame for _, frame in frames(con, ["sample_id"], key="sample_id", size=4)]
        missing = [int(frame["sample_id"].isna().sum()) for frame in found]
        assert missing[0] == 3 and sum(missing) == 3
        assert [len(frame) for frame in found] == [3, 1, 2, 2, 1]
        ((name, frame),) = frames(con, list(SCALARS), key="position", size=9)
        assert name == "batch 1 of 1"
        numbers = {column for column, kind in SCALARS.items() if kind == "int"}
        assert {column for column, kind in frame.dtypes.items() if kind == "int64"} == numbers


def test_the_pages_load_nothing_and_every_link_in_them_leads_somewhere(tmp_path):
    rows = [*every_fault(), row(60, split="<script>alert(1)</script>")]
    with opened(rows) as (con, order):
        check(con, tmp_path, rules=order, counts=count_rules(con, order), batch=4)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    pages = {path: path.read_text(encoding="utf-8") for path in files}
    assert {path.suffix for path in pages} == {".html"}
    for path, text in pages.items():
        told = re.sub('href="[^"]*"', "", text)
        assert not re.search(r"<script|src=|url\(|@import|<link|19[67]\d", told), path
        assert "://" not in text and "default-src 'none'" in text
        for link in re.findall('href="([^"]+)"', text):
            address, _, anchor = link.partition("#")
            assert not address or (path.parent / unquote(address)).resolve() in pages, (path, link)
            assert not anchor or f'id="{anchor}"' in text
    assert any("&lt;script&gt;" in text for text in pages.values())
    reached = re.findall('href="([^"]+)"', pages[tmp_path / "index.html"])
    assert {tmp_path / unquote(link) for link in reached} == {*pages} - {tmp_path / "index.html"}


def test_of_many_faults_the_pages_show_the_same_few_in_any_order_of_rows(tmp_path):
    rows, found = [row(i, split=f"dev {i}") for i in range(60)], []
    for name, given in (("one", rows), ("two", rows[::-1])):
        with opened(given) as (con, order):
            check(con, tmp_path / name, rules=order, counts=count_rules(con, order))
        pages = (tmp_path / name).rglob("*.html")
        found.append({str(page.relative_to(tmp_path / name)): page.read_bytes() for page in pages})
    assert found[0] == found[1]
    assert any(b"dev 1" in page for page in found[0].values())


def test_a_disagreement_of_the_two_engines_is_an_error(tmp_path):
    with opened(every_fault()) as (con, order):
        counts = count_rules(con, order)
        first = next(i for i, rule in enumerate(order) if rule.expect and counts[i])
        counts[first] += 1
        with pytest.raises(DataError, match="Great Expectations counts 1 rows, DuckDB 2"):
            check(con, tmp_path / "docs", rules=order, counts=counts, batch=4)


def test_the_schema_suite_finds_a_column_of_another_type(tmp_path):
    with opened(many(6)) as (con, order):
        counts = count_rules(con, order)
        assert check(con, tmp_path / "docs", rules=order, counts=counts)
        con.execute("ALTER TABLE own_facts ALTER images TYPE DOUBLE")
        assert not check(con, tmp_path / "docs2", rules=order, counts=counts)
        assert not {"messages", "extra", "slices"} & set(SCALARS)


def test_rows_of_another_schema_are_refused_by_name(tmp_path):
    place = samples(tmp_path / "samples", many(4))
    table = pa.Table.from_pylist(many(2), ROWS).drop_columns(["slices"])
    pq.write_table(table, place / "rows" / "part-00002.parquet")
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match=r"part-00002.*\['slices'\]"):
        build_labelled(tmp_path / "out", ValidateConfig(), place, place="x")


def test_too_many_bad_rows_in_one_source_stop_the_step_and_say_where(tmp_path):
    rows = [*many(200), *(row(i, source="bad", risk_level=1) for i in range(3))]
    rows += [row(i, source="bad") for i in range(10, 16)]
    lost = {"source_key": "x.json:7", "reason": "image_missing", "detail": "a.png"}
    with pytest.raises(DataError) as error:
        build(tmp_path, rows, [{"source": "bad", **lost}])
    message = str(error.value)
    assert "source 'bad': 4 of 10 rows are bad, 40.0%, limit 5.0%" in message
    assert "'clean_with_level': 3" in message
    assert "x.json:7 (image_missing: a.png)" in message
    assert "store/ingest/abc" in message


def test_the_limit_itself_is_allowed(tmp_path):
    rows = [*many(19), row(1, risk_level=1)]
    assert build(tmp_path, rows)[0]["quarantined"] == 1


def test_what_a_policy_sets_aside_is_counted_and_is_no_fault_of_the_source(tmp_path):
    rows = [*(risky(i, a="Here it is.") for i in range(8)), *many(20), row(90, a=None)]
    rows += [row(91, split="test", supervises="evaluation")]
    counts, labelled = build(tmp_path / "concept", rows, unsafe_target="concept")
    assert (counts["concept_only"], counts["unsafe_rejected"], counts["accepted"]) == (8, 0, 30)
    taught = {"both": 20, "concept": 9, "evaluation": 1}
    assert {w: counts[f"supervises_{w}"] for w in taught} == told(tmp_path / "concept")["teaches"]
    assert told(tmp_path / "concept")["teaches"] == taught
    assert [r["supervises"] for r in labelled[:8]] == ["concept"] * 8
    counts, labelled = build(tmp_path / "reject", rows, unsafe_target="reject")
    assert (counts["concept_only"], counts["unsafe_rejected"], counts["accepted"]) == (0, 8, 22)
    assert told(tmp_path / "reject")["teaches"] == {**taught, "concept": 1}
    assert told(tmp_path / "reject")["policies"]["unsafe_target"] == {"choice": "reject", "rows": 8}
    assert told(tmp_path / "reject")["sources"]["s"]["removed"] == 8
    assert all(r["sample_id"] >= "0010" for r in labelled)


def test_rows_of_several_images_or_none_stay_and_are_counted_apart(tmp_path):
    rows = [row(1, image_ids=["a", "b"]), row(2, image_ids=[]), risky(3, image_ids=["c", "d"])]
    counts, labelled = build(tmp_path, [*rows, *many(20)])
    assert labelled[:3] == rows
    assert (counts["several_images"], counts["text_only"], counts["accepted"]) == (2, 1, 23)
    assert (counts["train_unsafe"], counts["train_clean"]) == (10, 11)


def test_todays_models_are_given_rows_of_one_image_or_none_and_no_image_is_dropped(tmp_path):
    rows = [
        row(10 * n + len(images), split=split, image_ids=images, group_id=f"{n}{len(images)}")
        for n, split in enumerate(("train", "calibration", "test"), start=1)
        for images in ([], [f"a{n}"], [f"b{n}", f"c{n}"])
    ]
    _, labelled = build(tmp_path, rows)
    assert len(labelled) == 9
    out = tmp_path / "out"
    assert read_pool(out, BalanceConfig()).place.tolist() == [0, 1]
    assert training_items(out)[False].total() == 2
    assert {r["sample_id"] for r in held_out_rows(out)} == {"0030", "0031"}
    (item,) = calibration_items(out, load_taxonomy())
    assert item.image_id == "a2"
    several = [{"split": split, "rows": 1} for split in ("calibration", "test", "train")]
    assert told(tmp_path)["several_images"] == several


def test_too_few_rows_of_a_type_or_level_stop_the_step_where_a_number_is_asked_for(tmp_path):
    every = [t for t in load_taxonomy().type_ids if t != "clean"]
    rows = [
        risky(1000 + 10 * i + n, risk_type=name, risk_level=1 + n)
        for i, name in enumerate(every)
        for n in range(3)
    ]
    rows += [*many(6), risky(900, split="test", risk_type="politics", supervises="evaluation")]
    build(tmp_path / "good", rows, min_rows_per_type=3, min_rows_per_level=3)
    assert told(tmp_path / "good")["training_rows"]["types"]["politics"] == 3
    with pytest.raises(DataError, match="min_rows_per_type = 4.*politics: 3, illegal: 3"):
        build(tmp_path / "types", rows, min_rows_per_type=4)
    with pytest.raises(DataError, match="min_rows_per_level = 7.*safe: 3, low: 6, high: 6"):
        build(tmp_path / "levels", rows, min_rows_per_level=7)
    build(tmp_path / "none", many(2))
    assert told(tmp_path / "none")["training_rows"]["types"]["politics"] == 0


def test_licences_are_rolled_up_by_source_with_rows_images_and_what_they_forbid(tmp_path):
    rows = [
        row(1, licence="CC BY-NC 4.0", image_ids=["a"]),
        row(2, licence="CC BY-NC 4.0", image_ids=["a"]),
        row(3, licence="CC BY-NC 4.0", image_ids=["b"], source="t"),
        row(4, licence="MIT", image_ids=[]),
        row(5, licence="  ", image_ids=["c", "d"]),
        row(6, licence="NC is not a word to guess from", image_ids=["e"]),
        row(7, licence="MIT", image_ids=["f"], risk_level=1),
    ]
    build(tmp_path, rows, max_reject_rate=0.5)
    names = ("licence", "source", "rows", "images", "named", "non_commercial")
    assert [tuple(r[n] for n in names) for r in told(tmp_path)["licences"]] == [
        ("", "s", 1, 2, False, False),
        ("CC BY-NC 4.0", "s", 2, 1, True, True),
        ("CC BY-NC 4.0", "t", 1, 1, True, True),
        ("MIT", "s", 1, 0, True, False),
        ("NC is not a word to guess from", "s", 1, 1, True, False),
    ]


def test_a_list_of_licences_of_ones_own_counts(tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text('version = 1\nnon_commercial = ["research only"]\n')
    assert load_licences(str(own)).forbids_commerce("Research-Only")
    assert not load_licences(str(own)).forbids_commerce("CC-BY-NC-4.0")
    own.with_name("bad.toml").write_text("version = 1\n")
    with pytest.raises(ConfigError, match="non_commercial"):
        load_licences(str(own.with_name("bad.toml")))


def test_no_rows_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        build(tmp_path, [])


@pytest.mark.parametrize("count", [0, 9, 10, 25])
def test_rows_that_come_in_pieces_are_written_like_one_table(tmp_path, monkeypatch, count):
    monkeypatch.setattr("infra.parts.ROWS_PER_PART", 10)
    table = pa.Table.from_pylist(many(count), ROWS)
    write_parts(table, tmp_path / "one")
    write_stream((table.slice(n, 4) for n in range(0, count, 4)), ROWS, tmp_path / "pieces")
    one, pieces = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in NAMES)
    assert len(one) == max(1, -(-count // 10)) and one == pieces


def ingested(store: Store, rows: list[dict], version: int) -> Artifact:
    def fill(folder: Path) -> dict[str, int]:
        made = samples(folder / "made", rows)
        for part in ("rows", "rejects"):
            (made / part).rename(folder / part)
        made.rmdir()
        return {"in": len(rows)}

    return store.artifact("ingest", version, config={}, build=fill)


def test_a_failed_step_leaves_no_artifact_and_a_good_one_is_reused(tmp_path):
    store = Store(str(tmp_path / "store"))
    with pytest.raises(DataError):
        validate(ValidateConfig(), ingested(store, [row(1, risk_level=1)], 1), store=store)
    assert not list((tmp_path / "store" / "validate").rglob("*.parquet"))
    good = ingested(store, many(4), 2)
    assert not validate(ValidateConfig(), good, store=store).reused
    assert validate(ValidateConfig(), good, store=store).reused
    assert not list((tmp_path / "store").glob(f"{REFUSED}/*/attempts/*/rows"))


@pytest.mark.parametrize(
    ("rows", "settings", "reasons"),
    [
        ([row(i, risk_level=1) for i in range(6)], {}, {"clean_with_level": 6}),
        (overlapping(5), {"contamination": "refuse"}, {"contamination": 5}),
        ([row(1, split="dev"), *many(40)], {"min_rows_per_type": 30}, {"unknown_split": 1}),
    ],
)
def test_a_refused_snapshot_leaves_every_bad_row_to_be_looked_at(tmp_path, rows, settings, reasons):
    store = Store(str(tmp_path / "store"))
    samples, messages = ingested(store, rows, 1), []
    for _ in range(2):
        with pytest.raises(DataError) as error:
            validate(ValidateConfig(**settings), samples, store=store)
        messages.append(str(error.value))
    assert messages[0] == messages[1] and "\n" not in messages[0]
    refused = open_artifact(messages[0].rpartition(" in ")[2])
    assert (refused.step, store.verify(refused).parents) == (
        REFUSED, {"samples": f"ingest/{samples.fingerprint}"},
    )  # fmt: skip
    home = store.local(refused)
    aside = read_parts(home / "quarantine", QUARANTINE).to_pylist()
    assert {r["reason"]: [q["reason"] for q in aside].count(r["reason"]) for r in aside} == reasons
    assert all(r["detail"] and r["source_key"].startswith("s.json:") for r in aside)
    verdict = json.loads((home / "verdict.json").read_text())
    assert verdict["success"] is False and verdict["counts"] == refused.counts
    assert verdict["counts"]["quarantined"] == len(aside)
    assert len(list((tmp_path / "store" / REFUSED).iterdir())) == 1


# If this changes, raise VERSION in tasks/validate/step.py: old artifacts are then not reused.
GOLDEN = (4, "c92c8a8f3acd9682ab465ce82f4685bae6d0749eaa984ab5028ee8bdc311c76d")


def test_the_same_input_gives_the_same_rows_for_one_version(tmp_path):
    rows = [row(i, **c) for i, c in enumerate(FAULTS.values(), start=1)]
    rows += [risky(20, a="Yes."), row(21, risk_type="privacy"), *many(200)]
    rows += [clash | {"sample_id": f"9{clash['sample_id']}"} for clash in contradicting()[:4]]
    found = []
    for name, given in (("one", rows), ("two", rows[::-1])):
        build(tmp_path / name, given, refusal_markers=["sorry"], max_reject_rate=0.1)
        out = tmp_path / name / "out"
        files = [file for file in out.rglob("*") if file.is_file()]
        names = [str(file.relative_to(out)) for file in files]
        digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        found.append(dict(zip(names, digests, strict=True)))
    assert found[0] == found[1]
    assert {"docs/index.html", "docs/expectations/schema.html", "verdict.json"} < set(found[0])
    labelled = read_parts(out / "rows", ROWS).to_pylist()
    quarantine = read_parts(out / "quarantine", QUARANTINE).to_pylist()
    verdict = (out / "verdict.json").read_text()
    content = json.dumps([labelled, quarantine, conflicts(out.parent), verdict], sort_keys=True)
    assert (VERSION, hashlib.sha256(content.encode()).hexdigest()) == GOLDEN
