"""CSV files that would harm a careless reader."""

from random import Random

from tests.hostile import ACCEPTED, ERROR, whole

HEAD = b"question,type,answer\n"
GOOD = HEAD + b"q,clean,a\n"


@whole(ERROR, "csv")
def quote_without_end(draw: Random) -> bytes:
    return GOOD + draw.choice([b'"q,clean,a\n', b'"a"b,clean,c\n', b'q,clean,"'])


@whole(ERROR, "csv")
def csv_of_another_encoding(draw: Random) -> bytes:
    text = "question,type,answer\né,clean,ü\n"
    return text.encode(draw.choice(["latin-1", "utf-16", "utf-16-le", "utf-32", "cp037"]))


@whole(ERROR, "csv")
def cells_that_are_parted_otherwise(draw: Random) -> bytes:
    mark, quote = draw.choice([";", "\t", "|"]), draw.choice(["", '"'])
    lines = [["question", "type", "answer"], ["q, r", "clean", "a"]]
    return "\r\n".join(mark.join(quote + c + quote for c in line) for line in lines).encode()


@whole(ERROR, "csv")
def thousands_of_columns(draw: Random) -> bytes:
    names = ",".join(f"c{i}" for i in range(draw.choice([10_000, 50_000, 300_000])))
    return f"question,type,{names}\nq,clean\n".encode()


@whole(ERROR, "csv")
def column_that_is_there_twice(draw: Random) -> bytes:
    return draw.choice([b"type,question,type\nclean,q,privacy\n", b"answer," + GOOD])


@whole(ERROR, "csv")
def no_table(draw: Random) -> bytes:
    return draw.choice([b"", b"\xef\xbb\xbf", b"\n\n\n", bytes(99), b"PK\3\4words", b"{}", b"\x93"])


@whole(ERROR, "csv")
def row_without_end(draw: Random) -> bytes:
    piece = draw.choice([b"a" * 99 + b"\n", b"a" * 99, b'a"",""' * 9])
    return GOOD + b'"' + piece * (16_000_000 // len(piece) + 1)


@whole("bad_value", "csv")
def cell_that_no_text_is(draw: Random) -> bytes:
    return GOOD + draw.choice([b"a" * 1_100_000, b"a\0b", b"\0"]) + b",clean,c\n"


@whole("bad_row", "csv")
def row_of_another_length(draw: Random) -> bytes:
    return GOOD + draw.choice([b"q\n", b"q,clean,a,b\n", b"q," * 100_000 + b"\n", b'"q,clean,a"\n'])


@whole(ACCEPTED, "csv")
def csv_that_only_looks_odd(draw: Random) -> bytes:
    cells = ["=1+1", "@SUM(A1)", "+1", "-1", '"a\nb"', '"a""b"', "a\tb", "'; --", "\u202ea"]
    ends = draw.choice(["\n", "\r\n", "\r"])
    text = f"question,type,answer{ends}{draw.choice(cells)},clean,{draw.choice(cells)}{ends}"
    return draw.choice(["", "\ufeff"]).encode() + text.encode()
