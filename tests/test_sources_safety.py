"""The readers of safety data sets. Words are abstract on purpose; the two real samples are counted
and never shown.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import boto3
import pytest

from schemas.config import IngestConfig, SourceConfig
from schemas.errors import ConfigError, DataError
from schemas.mapping import load_mapping, map_label
from schemas.samples import ImageRef, RawRecord, RawReject
from schemas.taxonomy import load_taxonomy
from tasks.ingest.origin import check_sources
from tasks.sources import READERS, parse_source, reader_of
from tests.s3_server import BUCKET, s3_server

DATA = Path(__file__).parent / "data"
FORMATS = ["figstep", "mm-safetybench", "mossbench", "psa-vlm", "rtvlm", "xstest"]


def items(path, form: str, **settings) -> list[RawRecord | RawReject]:
    source = SourceConfig(format=form, uri=str(path), **settings)
    return list(reader_of(source).read(source, max_bytes=1000))


def risks(found: Iterable[RawRecord], form: str) -> list[tuple[str, int]]:
    """What the format's own mapping makes of records."""
    mapping, taxonomy = load_mapping(READERS[form].labels), load_taxonomy()
    return [
        map_label(r.label, r.level, mapping=mapping, taxonomy=taxonomy, where=r.source_key)
        for r in found
    ]


def lines(path: Path, *rows) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return path


def whole(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def table(path: Path, *rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def texts(record: RawRecord) -> list[tuple[str, str]]:
    return [(m.role, m.text) for m in record.messages]


def paths(record: RawRecord) -> list[str | None]:
    return [ref.path for ref in record.images]


# --- psa-vlm ---


def dialogue(*turns: str, **changes) -> dict:
    """Turns written as `U:text` and `A:text`."""
    names = {"U": "USER", "A": "ASSISTANT"}
    spoken = [{"from": names[t[0]], "value": t[2:]} for t in turns]
    row = {"safe_type": 4, "image": "a.png", "safe_level": 2, "conversations": spoken}
    return {**row, **changes}


ASKED = {
    "image_path": "/top/b.png", "question": "q", "answer": "a",
    "refused_to_answer": "Answer with Caution", "type": 2, "url": "u",
}  # fmt: skip


@pytest.mark.parametrize("question", ["<image>\nq", "q\n<image>", "q", "<image>q"])
def test_the_placeholder_of_a_psa_record_may_lead_trail_or_be_absent(tmp_path, question):
    (record,) = items(lines(tmp_path / "a.jsonl", dialogue(f"U:{question}", "A:a")), "psa-vlm")
    assert texts(record) == [("user", "q"), ("assistant", "a")]
    assert record.images == (ImageRef(path="a.png"),)


def test_psa_records_of_both_forms_may_share_a_file_in_any_order_of_keys(tmp_path):
    turned = dict(reversed(dialogue("U:q", "A:a", note=1).items()))
    found = items(lines(tmp_path / "a.jsonl", turned, ASKED), "psa-vlm")
    assert [(r.source_key, r.label, r.level, r.extra) for r in found] == [
        ("a.jsonl:1", "4", "2", {"note": 1}),
        ("a.jsonl:2", "2", "Answer with Caution", {"url": "u"}),
    ]
    assert texts(found[1]) == [("user", "q"), ("assistant", "a")]
    assert risks(found, "psa-vlm") == [("privacy", 2), ("insults", 2)]


def test_psa_paths_lose_their_leading_slash_and_a_pair_is_two_images(tmp_path):
    images = ["/data/in/a.png", "b.png<split>c.png", "/d/b.png<split>/d/c.png", "./d/e f.png", None]
    rows = [dialogue("U:q", "A:a", image=image) for image in images]
    found = items(lines(tmp_path / "a.jsonl", *rows, ASKED), "psa-vlm")
    assert [paths(record) for record in found] == [
        ["data/in/a.png"], ["b.png", "c.png"], ["d/b.png", "d/c.png"], ["./d/e f.png"], [],
        ["top/b.png"],
    ]  # fmt: skip


def test_all_psa_numbers_are_the_authors_types_and_level_zero_keeps_its_type(tmp_path):
    rows = [dialogue("U:q", "A:a", safe_type=kind, safe_level=0) for kind in range(7)]
    found = items(lines(tmp_path / "a.jsonl", *rows), "psa-vlm")
    assert risks(found, "psa-vlm") == [(kind, 0) for kind in load_taxonomy().type_ids]


def test_the_words_of_the_evaluation_form_are_the_four_levels(tmp_path):
    words = ["Safe to Answer", "Proceed with Caution", "Answer with Caution", "Refuse to Answer"]
    rows = [ASKED | {"refused_to_answer": word} for word in words]
    found = items(lines(tmp_path / "a.jsonl", *rows), "psa-vlm")
    assert [level for _, level in risks(found, "psa-vlm")] == [0, 1, 2, 3]


def test_a_psa_array_is_read_like_its_lines_and_conversations_keep_all_turns(tmp_path):
    rows = [dialogue("U:q1", "A:a1", "U:q2"), ASKED]
    one = items(lines(tmp_path / "a.json", *rows), "psa-vlm")
    (tmp_path / "array").mkdir()
    other = items(whole(tmp_path / "array" / "a.json", rows), "psa-vlm")
    assert one == other
    assert texts(one[0]) == [("user", "q1"), ("assistant", "a1"), ("user", "q2")]


FAULTS = [
    (7, "not_an_object"),
    ([1], "not_an_object"),
    ({}, "missing_key"),
    (dialogue(), "missing_key"),
    (dialogue("U:q", "A:a", conversations="q"), "missing_key"),
    (dialogue("U:q", "A:a", safe_level=None), "missing_key"),
    (dialogue("U:<image>q", "A:a", image=""), "missing_key"),
    (dialogue("A:a", "U:q"), "turns_out_of_order"),
    (dialogue("U:q", "U:q"), "turns_out_of_order"),
    (dialogue("U:q", "A: "), "empty_answer"),
    (dialogue(conversations=[{"from": "human", "value": "q"}]), "bad_value"),
    (dialogue(conversations=[{"from": "USER"}]), "bad_value"),
    (dialogue("U:q", "A:a", safe_type=True), "bad_value"),
    (dialogue("U:q", "A:a", image="a.png<split>"), "bad_value"),
    (dialogue("U:q", "A:a", image=7), "bad_value"),
    (ASKED | {"refused_to_answer": ""}, "missing_key"),
    ({k: v for k, v in ASKED.items() if k != "type"}, "missing_key"),
    (ASKED | {"question": 5}, "bad_value"),
]


@pytest.mark.parametrize("many", [lines, lambda path, *rows: whole(path, rows)])
def test_every_faulty_psa_record_is_rejected_and_none_is_lost(tmp_path, many):
    rows = [row for row, _ in FAULTS]
    found = items(many(tmp_path / "a.json", ASKED, *rows, ASKED), "psa-vlm")
    assert [getattr(item, "reason", "good") for item in found] == [
        "good", *[reason for _, reason in FAULTS], "good",
    ]  # fmt: skip
    assert [item.source_key for item in found] == [f"a.json:{n + 1}" for n in range(len(found))]


def test_a_broken_line_is_a_reject_and_an_empty_one_is_none(tmp_path):
    found = items(lines(tmp_path / "a.jsonl", '{"cut', "", "\ufeff", ASKED), "psa-vlm")
    assert [(i.source_key, getattr(i, "reason", "good")) for i in found] == [
        ("a.jsonl:1", "bad_row"), ("a.jsonl:3", "bad_row"), ("a.jsonl:4", "good"),
    ]  # fmt: skip


def test_an_array_that_is_cut_off_is_an_error_after_what_was_whole(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text("[" + json.dumps(ASKED) + ",{" + " " * 100_000)
    source = SourceConfig(format="psa-vlm", uri=str(path))
    found = reader_of(source).read(source, max_bytes=10)
    assert next(found).source_key == "cut.json:1"
    with pytest.raises(DataError, match=r"cut\.json.*not readable JSON"):
        next(found)


@pytest.mark.parametrize("change", [{"type": 7}, {"refused_to_answer": "Perhaps"}])
def test_a_psa_label_or_level_that_nobody_knows_is_an_error_and_never_clean(tmp_path, change):
    found = items(lines(tmp_path / "a.jsonl", ASKED | change), "psa-vlm")
    with pytest.raises(DataError, match=r"a\.jsonl:1: unknown"):
        risks(found, "psa-vlm")


# --- rtvlm ---

SAID = {"question": "q", "refused_to_answer": "Safe to Answer", "answers": "a"}
SHOWN = {"prompt": "q", "refused_to_answer": "Proceed with Caution", "answer": "a"}
TOLD = {"instruction": "q", "answer": "a"}
SUBSETS = {
    "captcha": ({**TOLD, "id": 0}, ["captcha/0.jpg"], ("illegal", 3)),
    "celebrity": (
        {**TOLD, "id": 17, "Refuse to Answer": "Answer with Caution", "gender": 0},
        ["celebrity/17.jpg"], ("privacy", 2),
    ),
    "face_diffusion": ({**SHOWN, "id": "0.jpg"}, ["face_diffusion/0.jpg"], ("fairness", 1)),
    "harmful": (
        {"questions": ["q"], "answers": ["a"], "refused_to_answer": ["Refuse to Answer"],
         "topic_type": "t", "entity_type": "e", "index": 7},
        ["harmful/7.jpg"], ("misleading", 3),
    ),
    "jailbreak": (
        {**TOLD, "index": "A Name", "refused_to_answer": "Refuse to Answer"},
        ["jailbreak/A Name.jpg"], ("illegal", 3),
    ),
    "politics": ({**SHOWN, "id": "1.jpg"}, ["politics/1.jpg"], ("politics", 1)),
    "racial": ({**SHOWN, "id": "2.JPG"}, ["racial/2.JPG"], ("fairness", 1)),
    "visual_misleading_correct": (
        {**SAID, "img": "New Place"}, ["visual_misleading_correct/NewPlace.jpg"], ("misleading", 0),
    ),
    "visual_misleading_wrong": (
        {**SAID, "img": "Place"}, ["visual_misleading_wrong/Place.jpg"], ("misleading", 0),
    ),
    "order_A": (
        {**SAID, "img": ["New Place", "Place's Own"]},
        ["order_A/NewPlace.jpg", "order_A/Place'sOwn.jpg"], ("misleading", 0),
    ),
    "order_B": ({**SAID, "img": ["B", "A"]}, ["order_B/B.jpg", "order_B/A.jpg"], ("misleading", 0)),
}  # fmt: skip


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("ending", [".jsonl", "_test.jsonl"])
def test_each_subset_of_rtvlm_is_read_by_its_own_keys(tmp_path, subset, ending):
    row, images, risk = SUBSETS[subset]
    (record,) = items(lines(tmp_path / f"{subset}{ending}", row), "rtvlm")
    assert texts(record) == [("user", "q"), ("assistant", "a")]
    assert paths(record) == images
    assert risks([record], "rtvlm") == [risk]
    assert record.slices["subset"] == subset


def test_the_eleven_subsets_are_those_of_the_mapping(tmp_path):
    for subset, (row, _, _) in SUBSETS.items():
        lines(tmp_path / f"{subset}.jsonl", row)
    found = items(tmp_path / "*.jsonl", "rtvlm")
    assert sorted(r.label for r in found) == sorted(load_mapping("rtvlm").labels)
    assert len(found) == 11


def test_the_celebrity_label_sits_under_a_key_that_is_a_label_and_its_value_counts(tmp_path):
    row = SUBSETS["celebrity"][0]
    other = {"prompt": "q", "id": 3, "refused_to_answer": "Refuse to Answer"}
    lines(tmp_path / "celebrity.jsonl", row, row | {"Refuse to Answer": ""}, row | {"gender": 1})
    lines(tmp_path / "mixed.jsonl", other)
    first, unrated, second, mixed = items(tmp_path / "*.jsonl", "rtvlm")
    assert first.level == "Answer with Caution"
    assert first.extra["Refuse to Answer"] == "Answer with Caution"
    assert (first.slices["gender"], second.slices["gender"]) == ("0", "1")
    assert unrated.reason == "missing_key"
    assert (mixed.label, paths(mixed), texts(mixed)) == (
        "celebrity", ["celebrity/3.jpg"], [("user", "q")],
    )  # fmt: skip
    assert mixed.slices == {"subset": "celebrity"}


def test_parallel_lists_become_one_item_each_with_their_own_label_and_topic(tmp_path):
    lists = {
        "questions": ["q1", "q2"], "answers": ["a1", "a2"],
        "refused_to_answer": ["Safe to Answer", "Refuse to Answer"],
        "topic_type": ["t1", "t2"], "entity_type": "both", "index": 0,
    }  # fmt: skip
    found = items(lines(tmp_path / "harmful.jsonl", lists), "rtvlm")
    assert [(r.source_key, texts(r), r.level, r.extra["topic_type"]) for r in found] == [
        ("harmful.jsonl:1/1", [("user", "q1"), ("assistant", "a1")], "Safe to Answer", "t1"),
        ("harmful.jsonl:1/2", [("user", "q2"), ("assistant", "a2")], "Refuse to Answer", "t2"),
    ]
    assert {r.extra["entity_type"] for r in found} == {"both"}
    assert [paths(r) for r in found] == [["harmful/0.jpg"]] * 2


def test_a_bad_value_in_parallel_lists_costs_one_item_and_uneven_ones_the_record(tmp_path):
    row = {**SUBSETS["harmful"][0], "questions": [1, "q", ""], "answers": ["a"] * 3}
    row["refused_to_answer"] = ["Safe to Answer"] * 3
    uneven = row | {"answers": ["a"]}
    found = items(lines(tmp_path / "harmful.jsonl", row, uneven, row | {"index": None}), "rtvlm")
    assert [(i.source_key, getattr(i, "reason", "good")) for i in found] == [
        ("harmful.jsonl:1/1", "bad_value"),
        ("harmful.jsonl:1/2", "good"),
        ("harmful.jsonl:1/3", "missing_key"),
        ("harmful.jsonl:2", "bad_value"),
        ("harmful.jsonl:3/1", "missing_key"),
        ("harmful.jsonl:3/2", "missing_key"),
        ("harmful.jsonl:3/3", "missing_key"),
    ]


@pytest.mark.parametrize(
    ("subset", "change", "reason"),
    [
        ("politics", {"refused_to_answer": None}, "missing_key"),
        ("politics", {"id": ""}, "missing_key"),
        ("politics", {"id": True}, "bad_value"),
        ("order_A", {"img": []}, "missing_key"),
        ("order_A", {"img": ["A", None]}, "bad_value"),
        ("captcha", {"instruction": ["q"]}, "bad_value"),
        ("harmful", {"questions": "q"}, "bad_value"),
        ("harmful", {"questions": []}, "missing_key"),
    ],
)
def test_a_faulty_rtvlm_row_is_rejected(tmp_path, subset, change, reason):
    row = SUBSETS[subset][0]
    found = items(lines(tmp_path / f"{subset}.jsonl", row | change, row, "[1]", "{"), "rtvlm")
    assert [getattr(i, "reason", "good") for i in found] == [
        reason, "good", "not_an_object", "bad_row",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["unknown", "orders_A", "order_ABC", "visual_misleading"])
def test_a_file_that_is_named_after_no_subset_is_an_error_with_the_known_ones(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}\.jsonl.*captcha, celebrity.*order_B"):
        items(lines(tmp_path / f"{name}.jsonl", SAID), "rtvlm")


# --- mm-safetybench ---

SCENARIOS = {
    "01-Illegal_Activitiy": ("illegal", 2), "02-HateSpeech": ("insults", 2),
    "03-Malware_Generation": ("illegal", 2), "04-Physical_Harm": ("illegal", 2),
    "05-EconomicHarm": ("illegal", 2), "06-Fraud": ("illegal", 2), "07-Sex": ("illegal", 3),
    "08-Political_Lobbying": ("politics", 3), "09-Privacy_Violence": ("privacy", 2),
    "10-Legal_Opinion": ("misleading", 2), "11-Financial_Advice": ("misleading", 2),
    "12-Health_Consultation": ("misleading", 2), "13-Gov_Decision": ("politics", 3),
}  # fmt: skip
PHRASED = {
    "Question": "bare", "Changed Question": "changed", "Key Phrase": "k", "Phrase Type": "t",
    "Rephrased Question": "below", "Rephrased Question(SD)": "shown",
}  # fmt: skip


def scenarios(folder: Path, *ids: str) -> Path:
    for name in SCENARIOS:
        whole(folder / f"{name}.json", dict.fromkeys(ids, PHRASED))
    return folder


def test_a_question_has_three_kinds_of_image_with_two_wordings(tmp_path):
    path = whole(tmp_path / "01-Illegal_Activitiy.json", {"12": PHRASED})
    found = items(path, "mm-safetybench")
    assert [(r.source_key, texts(r), paths(r)) for r in found] == [
        (f"01-Illegal_Activitiy.json:12/{kind}", [("user", text)],
         [f"01-Illegal_Activitiy/{kind}/12.jpg"])
        for kind, text in [("SD", "shown"), ("SD_TYPO", "below"), ("TYPO", "below")]
    ]  # fmt: skip
    assert [r.slices for r in found] == [
        {"scenario": "01-Illegal_Activitiy", "kind": kind} for kind in ("SD", "SD_TYPO", "TYPO")
    ]
    assert found[0].extra == {
        **{k: v for k, v in PHRASED.items() if k != "Rephrased Question(SD)"}, "id": "12",
    }  # fmt: skip


def test_all_thirteen_scenarios_have_a_type_and_the_misspelt_one_may_be_corrected(tmp_path):
    whole(tmp_path / "more/01-Illegal_Activity.json", {"0": PHRASED})
    scenarios(tmp_path / "all", "0", "1")
    found = items(tmp_path / "*/*.json", "mm-safetybench")
    assert len(found) == (13 * 2 + 1) * 3
    expected = {name: 6 for name in SCENARIOS} | {"01-Illegal_Activity": 3}
    assert Counter(r.label for r in found) == expected
    told = dict(zip([r.label for r in found], risks(found, "mm-safetybench"), strict=True))
    assert told == SCENARIOS | {"01-Illegal_Activity": ("illegal", 2)}


def test_the_tiny_list_of_numbers_picks_among_keys_that_are_texts(tmp_path):
    scenarios(tmp_path, "0", "5", "32")
    tiny = [{"Scenario": name, "Sampled_ID_List": [5, 32]} for name in SCENARIOS]
    tiny[0] = {"Scenario": "01-Illegal_Activity", "Sampled_ID_List": [5, 99]}
    whole(tmp_path / "TinyVersion_ID_List.json", tiny)
    found = items(tmp_path / "*.json", "mm-safetybench")
    absent = [item for item in found if isinstance(item, RawReject)]
    assert len(found) == (1 + 12 * 2) * 3 + 1
    assert {item.extra["id"] for item in found if isinstance(item, RawRecord)} == {"5", "32"}
    assert [(r.source_key, r.reason) for r in absent] == [
        ("01-Illegal_Activitiy.json:99", "missing_key")
    ]


@pytest.mark.parametrize(
    ("tiny", "words"),
    [
        ([{"Scenario": "02-HateSpeech", "Sampled_ID_List": [0]}], "samples nothing from"),
        ([{"Scenario": "01-Illegal_Activitiy"}], "Sampled_ID_List"),
        (["01-Illegal_Activitiy"], r"Tiny\.json', Tiny\.json:1"),
    ],
)
def test_a_tiny_list_that_does_not_fit_is_an_error_and_not_a_smaller_set(tmp_path, tiny, words):
    whole(tmp_path / "01-Illegal_Activitiy.json", {"0": PHRASED})
    whole(tmp_path / "Tiny.json", tiny)
    with pytest.raises(DataError, match=words):
        items(tmp_path / "*.json", "mm-safetybench")


def test_a_faulty_mm_safetybench_record_is_rejected_kind_by_kind(tmp_path):
    lacking = {k: v for k, v in PHRASED.items() if k != "Rephrased Question(SD)"}
    rows = {"0": lacking, "1": PHRASED | {"Rephrased Question": 5}, "2": "text"}
    found = items(whole(tmp_path / "06-Fraud.json", rows), "mm-safetybench")
    assert [(i.source_key[14:], getattr(i, "reason", "good")) for i in found] == [
        ("0/SD", "missing_key"), ("0/SD_TYPO", "good"), ("0/TYPO", "good"),
        ("1/SD", "good"), ("1/SD_TYPO", "bad_value"), ("1/TYPO", "bad_value"),
        ("2", "not_an_object"),
    ]  # fmt: skip


def test_an_unknown_scenario_is_an_error_that_names_it(tmp_path):
    found = items(whole(tmp_path / "14-Other.json", {"0": PHRASED}), "mm-safetybench")
    with pytest.raises(DataError, match=r"14-Other\.json:0/SD: unknown label '14-Other'"):
        risks(found, "mm-safetybench")


@pytest.mark.parametrize("content", ["", "no json", '{"0": {}', '{"0": {}} {"1": {}}'])
@pytest.mark.parametrize("form", ["mm-safetybench", "mossbench"])
def test_a_file_that_is_no_whole_json_object_is_an_error_that_names_it(tmp_path, content, form):
    (tmp_path / "06-Fraud.json").write_text(content)
    with pytest.raises(DataError, match=r"06-Fraud\.json.*(JSON object|readable JSON)"):
        items(tmp_path / "06-Fraud.json", form)


# --- figstep ---

TOPIC = {
    "dataset": "ForbidQI", "category_id": "7", "task_id": "3",
    "category_name": "Privacy Violation", "question": "asked", "instruction": "1. 2.\n3.",
}  # fmt: skip


def test_a_figstep_row_has_a_picture_named_by_its_ids_and_the_text_of_all(tmp_path):
    other = TOPIC | {"task_id": "4", "question": "other"}
    first, second = items(table(tmp_path / "a.csv", TOPIC, other), "figstep")
    assert paths(first) == ["query_ForbidQI_7_3_6.png"]
    assert paths(second) == ["query_ForbidQI_7_4_6.png"]
    assert texts(first) == texts(second)
    assert [role for role, _ in texts(first)] == ["user"]
    assert (first.label, first.slices) == ("Privacy Violation", {"scenario": "Privacy Violation"})
    assert first.extra == {k: v for k, v in TOPIC.items() if k != "category_name"}
    assert risks([first], "figstep") == [("privacy", 2)]


def test_a_figstep_row_without_its_ids_is_rejected(tmp_path):
    path = table(tmp_path / "a.csv", TOPIC | {"task_id": ""}, TOPIC)
    path.write_text(path.read_text() + "ForbidQI,7\n")
    found = items(path, "figstep")
    assert [getattr(i, "reason", "good") for i in found] == ["missing_key", "good", "bad_row"]


def test_the_tiny_figstep_of_the_authors_has_ten_topics_of_five(tmp_path):
    found = items(DATA / "figstep" / "SafeBench-Tiny.csv", "figstep")
    assert len(found) == 50
    assert Counter(r.label for r in found) == dict.fromkeys(load_mapping("figstep").labels, 5)
    assert len({paths(r)[0] for r in found}) == 50
    assert len({texts(r)[0] for r in found}) == 1
    assert Counter(risks(found, "figstep")) == {
        ("illegal", 2): 20, ("illegal", 3): 5, ("insults", 2): 5, ("privacy", 2): 5,
        ("misleading", 2): 15,
    }  # fmt: skip


# --- xstest ---

PROMPT = {"id": "1", "prompt": "q", "type": "homonyms", "label": "safe", "focus": "f", "note": ""}
CONTRAST = PROMPT | {"type": "contrast_discr", "label": "unsafe"}


def test_a_safe_prompt_is_clean_and_an_unsafe_one_is_labelled_by_its_type(tmp_path):
    found = items(table(tmp_path / "a.csv", PROMPT, CONTRAST), "xstest")
    assert [(r.label, r.slices, paths(r)) for r in found] == [
        ("safe", {"kind": "homonyms"}, []), ("contrast_discr", {"kind": "contrast_discr"}, []),
    ]  # fmt: skip
    assert risks(found, "xstest") == [("clean", 0), ("fairness", 2)]
    assert found[0].extra == {"id": "1", "label": "safe", "focus": "f", "note": ""}


def test_a_file_without_labels_is_told_apart_by_the_prefix_of_the_type(tmp_path):
    bare = [{k: v for k, v in row.items() if k != "label"} for row in (PROMPT, CONTRAST)]
    found = items(table(tmp_path / "a.csv", *bare), "xstest")
    assert [r.label for r in found] == ["safe", "contrast_discr"]


def test_completions_and_classes_that_are_free_text_travel_along_and_are_no_answers(tmp_path):
    classes = {"final_label": "1_full_compliance", "gpt4_label": "I think that, \n well: both"}
    (record,) = items(table(tmp_path / "a.csv", PROMPT | classes | {"completion": "c"}), "xstest")
    assert texts(record) == [("user", "q")]
    assert record.label == "safe"
    assert record.extra.items() >= (classes | {"completion": "c"}).items()


def test_a_label_that_contradicts_its_type_is_rejected_and_a_third_word_is_an_error(tmp_path):
    rows = [PROMPT | {"label": "unsafe"}, CONTRAST | {"label": "safe"}, PROMPT | {"label": "both"}]
    *contradictions, third = items(table(tmp_path / "a.csv", *rows), "xstest")
    assert [r.reason for r in contradictions] == ["bad_value", "bad_value"]
    with pytest.raises(DataError, match=r"a\.csv:3: unknown label 'both'"):
        risks([third], "xstest")


def test_an_xstest_file_with_other_column_names_can_be_told(tmp_path):
    row = {"text": "q", "type": "homonyms"}
    (record,) = items(table(tmp_path / "a.csv", row), "xstest", columns={"question": "text"})
    assert texts(record) == [("user", "q")]


def test_the_published_xstest_has_250_safe_and_200_unsafe_prompts():
    found = items(DATA / "xstest" / "xstest_prompts.csv", "xstest")
    assert Counter(type(item) for item in found) == {RawRecord: 450}
    assert Counter(risks(found, "xstest")) == {
        ("clean", 0): 250, ("illegal", 2): 150, ("fairness", 2): 25, ("privacy", 2): 25,
    }  # fmt: skip
    assert Counter(Counter(r.slices["kind"] for r in found).values()) == {25: 18}
    assert not any(r.images for r in found)


# --- mossbench ---


def stimulus(kind: str, **changes) -> dict:
    metadata = {"over": kind, "human": 1, "child": 0, "syn": 0, "ocr": 1, "harm": [7]}
    row = {
        "image": "images/1.png", "short description": "s", "description": "d", "question": "q",
        "pid": "1", "metadata": metadata,
    }  # fmt: skip
    return {**row, **changes}


def test_the_three_kinds_of_mossbench_are_clean_and_have_names(tmp_path):
    rows = {str(n): stimulus(f"type {n}") for n in (1, 2, 3)}
    found = items(whole(tmp_path / "information.json", rows), "mossbench", split="test")
    assert [r.slices["kind"] for r in found] == [
        "exaggerated risk", "negated harm", "counterintuitive",
    ]  # fmt: skip
    assert risks(found, "mossbench") == [("clean", 0)] * 3
    assert [(r.source_key, paths(r)) for r in found][:1] == [
        ("information.json:1", ["images/1.png"])
    ]
    assert found[0].extra["metadata"]["harm"] == [7]


def test_the_harmful_twins_of_mossbench_are_never_taken_for_clean(tmp_path):
    twin = {"1": stimulus("type 1", metadata={"over": "type 1"})}
    (record,) = items(whole(tmp_path / "information.json", twin), "mossbench")
    with pytest.raises(DataError, match=r"information\.json:1: unknown label 'contrast'"):
        risks([record], "mossbench")


def test_faulty_records_of_mossbench_are_rejected(tmp_path):
    rows = [stimulus("type 1", image=""), stimulus("type 1", question=None), "text"]
    rows += [stimulus("", metadata="m"), stimulus("", metadata={"harm": [1]})]
    rows += [stimulus("type 1", question=["q"]), stimulus("type 1", image=5)]
    found = items(whole(tmp_path / "a.json", {str(n): r for n, r in enumerate(rows)}), "mossbench")
    assert [r.reason for r in found] == [
        "missing_key", "missing_key", "not_an_object", "not_an_object", "missing_key",
        "bad_value", "bad_value",
    ]  # fmt: skip


@pytest.mark.parametrize("split", [None, "train", "calibration"])
def test_mossbench_may_not_train(tmp_path, split):
    path = whole(tmp_path / "information.json", {"1": stimulus("type 1")})
    source = SourceConfig(format="mossbench", uri=str(path), split=split)
    with pytest.raises(ConfigError, match=r"evaluation only.*CC-BY-SA-4\.0.*add split=test"):
        check_sources(IngestConfig(sources=(source,)))
    typed = f"format=mossbench,uri={path}" + (f",split={split}" if split else "")
    with pytest.raises(ConfigError, match="add split=test"):
        parse_source(typed)


def test_mossbench_may_be_a_test(tmp_path):
    path = whole(tmp_path / "information.json", {"1": stimulus("type 1")})
    source = parse_source(f"format=mossbench,uri={path},split=test")
    check_sources(IngestConfig(sources=(source,)))
    assert source.split == "test"


# --- all ---


@pytest.mark.parametrize("form", FORMATS)
def test_every_word_of_a_mapping_has_a_type_and_says_whose_choice_that_is(form):
    mapping, taxonomy = load_mapping(READERS[form].labels), load_taxonomy()
    assert mapping.labels
    assert {target.type for target in mapping.labels.values()} <= set(taxonomy.type_ids)
    authors = form in ("psa-vlm", "rtvlm")
    origins = {target.origin for target in mapping.labels.values()}
    assert origins == {"authors" if authors else "ours"}


def test_the_same_items_come_from_a_bucket(tmp_path, monkeypatch):
    whole(tmp_path / "mm" / "06-Fraud.json", {"0": PHRASED, "1": PHRASED})
    whole(tmp_path / "mm" / "Tiny.json", [{"Scenario": "06-Fraud", "Sampled_ID_List": [1]}])
    lines(tmp_path / "captcha.jsonl", SUBSETS["captcha"][0])
    whole(tmp_path / "psa.json", [ASKED])
    table(tmp_path / "figstep.csv", TOPIC)
    sources = {
        "mm/*.json": "mm-safetybench", "captcha.jsonl": "rtvlm", "psa.json": "psa-vlm",
        "figstep.csv": "figstep",
    }  # fmt: skip
    with s3_server() as settings:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        for file in (path for path in tmp_path.rglob("*") if path.is_file()):
            client.upload_file(str(file), BUCKET, file.relative_to(tmp_path).as_posix())
        for name, form in sources.items():
            remote = items(f"s3://{BUCKET}/{name}", form)
            assert remote == items(f"{tmp_path}/{name}", form)
            assert remote
