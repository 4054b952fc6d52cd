"""Rows and files of JSON that would harm a careless reader."""

import json
from random import Random

from tests.hostile import ACCEPTED, ERROR, line, row, whole


def talk(value: str = "what is it") -> dict[str, object]:
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "a square"}]
    return {"conversations": turns}


# --- one line of JSON ---


@line("bad_row")
def line_nested_too_deeply(draw: Random) -> bytes:
    depth, one = draw.choice([70, 300, 900, 100_000]), draw.random() < 0.5
    inner = b"[" * depth + b"]" * depth if one else b'{"a":' * depth + b"1" + b"}" * depth
    return json.dumps(row(more=0)).encode().replace(b'"more": 0', b'"more": ' + inner)


@line("bad_row")
def line_that_is_no_json(draw: Random) -> bytes:
    odd = [b'{"question": "q", "type": "cle', b"{'question': 'q'}", b'{"question": "q",}', b"{} {}"]
    odd += [b'{"type": "\xff\xfe"}', b"\0", b'{"a": 1} // b', b"{" * 9, b'"', b"[1, 2", b"nul"]
    return draw.choice(odd)


@line("bad_row")
def line_that_is_no_object(draw: Random) -> bytes:
    return draw.choice([b"1", b"null", b'"words"', b"[1]", b"[[[]]]", b"true", b"NaN", b"-1e999"])


@line("bad_row")
def number_of_thousands_of_digits(draw: Random) -> bytes:
    return b'{"question": "q", "type": "clean", "n": ' + b"7" * draw.randrange(4_301, 99_999) + b"}"


@line("bad_row")
def key_that_is_there_twice(draw: Random) -> bytes:
    inner = b'"type": "privacy", "level": 3'
    odd = [b'{"question": "q", %s, "type": "clean"}' % inner]
    odd.append(b'{"question": "q", "type": "clean", "more": [{"a": 1, "\\u0061": 2}]}')
    return draw.choice(odd)


@line("bad_row")
def line_of_megabytes(draw: Random) -> bytes:
    return json.dumps(row(question="q" * draw.randrange(4_000_000, 5_000_000))).encode()


@line("bad_value")
def text_longer_than_a_book(draw: Random) -> bytes:
    return json.dumps(row(**{draw.choice(["question", "answer"]): "q" * 1_500_000})).encode()


@line("bad_value")
def half_a_character(draw: Random) -> bytes:
    field, half = draw.choice(["question", "answer", "language"]), draw.choice(["\ud800", "\udfff"])
    return json.dumps(row(**{field: f"a{half}b"})).encode()


@line("bad_value")
def text_that_ends_early(draw: Random) -> bytes:
    return json.dumps(row(**{draw.choice(["question", "answer"]): "a\0b"})).encode()


@line("bad_value")
def value_of_another_kind(draw: Random) -> bytes:
    field = draw.choice(["question", "answer", "image"])
    odd = draw.choice([7, 1.5, True, {"a": 1}, {"bytes": "x", "path": 3}])
    return json.dumps(row(**{field: odd})).encode()


@line("bad_value")
def label_of_another_kind(draw: Random) -> bytes:
    odd = draw.choice([b'"\\ud800"', b"1e999", b"Infinity", b"true", b'{"a": 1}', b"1.5", b"[[1]]"])
    return b'{"question": "q", "type": ' + odd + b"}"


@line("missing_key")
def line_without_its_keys(draw: Random) -> bytes:
    many = {f"k{i}": 1 for i in range(draw.choice([0, 9, 20_000]))}
    return json.dumps({"type": "clean", **many}).encode()


@line(ACCEPTED)
def line_that_only_looks_odd(draw: Random) -> bytes:
    odd = [
        row(question="=1+1", answer="@A1"),
        row(more=[[[[[1]]]]], b=float("nan"), c=1e300, d=10**4_000),
        row(question="\u202ea\u2066 \ufeff\u200b", answer="\U0001f600"),
        row(**{"": 1, "__proto__": 2, "a.b": {"$ref": "#"}, "\ud800": 3}),
        row(question="'; drop table rows; --", more="${x} {{ x }} %s <script>"),
        row(**{"question": "b\\u0000"}),
    ]
    return json.dumps(draw.choice(odd)).encode()


# --- whole files of JSON ---


@whole(ERROR, "json", "llava")
def array_cut_short(draw: Random) -> bytes:
    data = json.dumps([talk() for _ in range(5)]).encode()
    return data[: draw.randrange(1, len(data) - 1)]


@whole(ERROR, "json", "llava")
def array_that_is_none(draw: Random) -> bytes:
    odd = [b"", b"  \n" * 40_000, b"{}", b"\x89PNG", b"[" + bytes(9), b"[1] [2]", b"[,]", b"[1,]"]
    return draw.choice([*odd, b"[1]x", json.dumps([talk()]).encode("utf-16"), b'["\xff"]'])


@whole(ERROR, "json", "llava")
def array_with_a_record_without_end(draw: Random) -> bytes:
    endless = [b"[" * 5_000_000, b'[{"a":' * 900_000, b'["' + b"a" * 9_000_000]
    endless += [b"[" * 2_000 + b"]" * 2_000]
    return draw.choice([*endless, b"[[" + b"1," * 4_500_000, b"[" + b" " * 5_000_000])


@whole(ERROR, "json", "llava")
def array_with_a_number_without_end(draw: Random) -> bytes:
    return b'[{"n": ' + b"7" * draw.randrange(4_400, 90_000) + b"}]"


@whole("bad_row", "json", "llava")
def array_nested_too_deeply(draw: Random) -> bytes:
    depth = draw.choice([70, 200, 400])
    pair = draw.choice([(b"[", b"]"), (b'{"a":', b"}")])
    inner = pair[0] * depth + b"1" + pair[1] * depth
    return b"[" + json.dumps(talk()).encode() + b"," + inner + b"]"


@whole("bad_row", "json", "llava")
def key_twice_in_an_array(draw: Random) -> bytes:
    one = json.dumps(talk()).encode()
    twice = one[:-1] + b', "a": 1, "b": {"c": 2, "c": 3}}'
    return b"[" + one + b"," + draw.choice([twice, one[:-1] + b"," + one[1:]]) + b"]"


@whole("not_an_object", "json", "llava")
def array_of_other_things(draw: Random) -> bytes:
    return b"[" + json.dumps(talk()).encode() + b"," + draw.choice([b"1", b"[]", b'"a"']) + b"]"


@whole("bad_value", "json", "llava")
def turn_of_another_kind(draw: Random) -> bytes:
    odd = draw.choice([{"conversations": [1]}, {"conversations": [[]]}, talk("a\0b")])
    return json.dumps([talk(), odd]).encode()


@whole(ERROR, "json", "mm-safetybench")
def object_cut_short(draw: Random) -> bytes:
    data = json.dumps({str(n): {"Question": "q"} for n in range(9)}).encode()
    return data[: draw.randrange(1, len(data) - 1)]


@whole(ERROR, "json")
def json_of_another_encoding(draw: Random) -> bytes:
    text = json.dumps([row(question="\u00e9")] * 2, ensure_ascii=False)
    return text.encode(draw.choice(["latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]))


@whole(ERROR, "jsonl")
def lines_of_another_encoding(draw: Random) -> bytes:
    text = "\n".join([json.dumps(row(question="\u00e9"), ensure_ascii=False)] * 2)
    return text.encode(draw.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"]))
