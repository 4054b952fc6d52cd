"""Images that would harm a careless reader."""

import io
import struct
import zipfile
import zlib
from random import Random

from PIL import Image

from tests.hostile import ACCEPTED, encoded, image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
REFUSED = ("TIFF", "ICO", "EPS", "PPM", "TGA", "PCX", "ICNS", "JPEG2000", "DDS", "SGI", "PDF")
HEAD = 33  # bytes of a PNG's signature and header


def chunk(called: bytes, data: bytes = b"") -> bytes:
    body = called + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, *parts: bytes, depth: int = 8, colour: int = 2, lace: int = 0):
    """A PNG of any header and any chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, lace))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + chunk(b"IEND")


def packed(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def archive(draw: Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("words.txt", draw.randbytes(50).hex())
    return out.getvalue()


@image("image_unreadable")
def cut_image(draw: Random) -> bytes:
    data = encoded(draw.choice(FORMATS), seed=draw.randrange(9))
    return data[: draw.randrange(1, len(data) * 9 // 10)]


@image("image_unreadable")
def nothing_or_zeros(draw: Random) -> bytes:
    return bytes(draw.choice([0, 0, 1, 100, 100_000]))


@image("image_unreadable")
def noise_with_a_magic_number(draw: Random) -> bytes:
    magic = draw.choice([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"RIFF"])
    return magic + draw.randbytes(draw.randrange(400))


@image("image_unreadable")
def another_kind_of_file(draw: Random) -> bytes:
    heads = [b"%PDF-1.7\n", b"\x7fELF\2\1\1", b"\x1f\x8b\x08\0", b"<html><body>words</body></html>"]
    return draw.choice([*heads, archive(draw)]) + draw.randbytes(60)


@image("image_unreadable")
def objects_that_run_code(draw: Random) -> bytes:
    # If anything unpickled it, the process would abort.
    aborts = b"\x80\x04cposix\nabort\n)R."
    about = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    array = b"\x93NUMPY\1\0" + struct.pack("<H", len(about)) + about + aborts
    return draw.choice([aborts, array, draw.choice(FORMATS).encode() + aborts])


@image("image_unreadable")
def drawing_with_entities(draw: Random) -> bytes:
    deep = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 9}">' for i in range(draw.randrange(1, 9)))
    outside = '<!ENTITY f SYSTEM "file:///none">' if draw.random() < 0.5 else ""
    return f'<!DOCTYPE svg [<!ENTITY e0 "a">{deep}{outside}]><svg>&e1;</svg>'.encode()


@image("image_unreadable")
def format_that_is_refused(draw: Random) -> bytes:
    return encoded(draw.choice(REFUSED), size=(64, 64))[:900_000]


@image("image_unreadable")
def image_behind_a_page(draw: Random) -> bytes:
    head = draw.choice([b"<html><body>", b"#!/bin/sh\n", b"\n", b"GIF8"])
    return head + encoded(draw.choice(FORMATS))


@image(ACCEPTED)
def image_before_an_archive(draw: Random) -> bytes:
    tail = draw.choice([archive(draw), b"<html><script>1</script></html>", draw.randbytes(500)])
    return encoded(draw.choice(FORMATS)) + tail


@image("image_too_many_pixels")
def pixels_that_a_header_claims(draw: Random) -> bytes:
    side, form = draw.choice([2_001, 20_000, 65_000]), draw.choice(FORMATS)
    if form == "PNG":
        return png(side, side * 30_000, chunk(b"IDAT", packed(9)))
    data = bytearray(encoded(form, mode="L" if form == "GIF" else "RGB"))
    if form == "WEBP":
        frame = struct.pack("<I", 10) + bytes(4) + (16_000).to_bytes(3, "little") * 2
        return b"RIFF" + struct.pack("<I", len(data) + 10) + b"WEBPVP8X" + frame + bytes(data[12:])
    place = {"GIF": 6, "BMP": 18, "JPEG": data.find(b"\xff\xc0") + 5}[form]
    data[place : place + (8 if form == "BMP" else 4)] = struct.pack(
        {"GIF": "<HH", "BMP": "<ii", "JPEG": ">HH"}[form], side, side
    )
    return bytes(data)


@image("image_too_many_pixels")
def black_picture_of_few_bytes(draw: Random) -> bytes:
    out = io.BytesIO()
    size = (draw.randrange(2_100, 2_500), draw.randrange(2_000, 2_500))
    Image.new("1", size).save(out, draw.choice(["PNG", "GIF"]))
    return out.getvalue()


@image("image_too_big")
def bytes_behind_the_image(draw: Random) -> bytes:
    return encoded(draw.choice(FORMATS)) + bytes(1_000_000 + draw.randrange(9))


@image("image_unreadable")
def texts_that_unpack_to_megabytes(draw: Random) -> bytes:
    bomb = packed(draw.randrange(2_000_000, 9_000_000))
    kinds = [(b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")]
    called, head = draw.choice(kinds)
    data = encoded("PNG")
    return data[:HEAD] + chunk(called, head + bomb) + data[HEAD:]


@image("image_unreadable")
def broken_checksum(draw: Random) -> bytes:
    data = bytearray(encoded("PNG", seed=draw.randrange(9)))
    place = draw.choice([HEAD - 1, 17, data.find(b"IDAT") + 20, len(data) - 20])
    data[place] ^= 1 << draw.randrange(8)
    return bytes(data)


@image("image_unreadable")
def header_that_cannot_be(draw: Random) -> bytes:
    body = chunk(b"IDAT", packed(3_000))
    odd = [
        png(0, 9, body),
        png(9, 0, body),
        png(9, 9, body, depth=3),
        png(9, 9, body, colour=9),
        png(9, 9, chunk(b"sRGB")),
        png(1_000, 1_000, body),
    ]
    return draw.choice(odd)


@image(ACCEPTED)
def odd_and_legal(draw: Random) -> bytes:
    forms = [("PNG", m) for m in ("1", "L", "LA", "P", "I;16", "RGBA")]
    forms += [("JPEG", "CMYK"), ("JPEG", "L"), ("WEBP", "RGBA"), ("GIF", "1"), ("BMP", "P")]
    form, mode = draw.choice(forms)
    sizes = [(1, 1), (1, 9_000), (9_000, 1), (40, 30)]
    options = {"progressive": True} if form == "JPEG" else {}
    return encoded(form, mode=mode, size=draw.choice(sizes), **options)
