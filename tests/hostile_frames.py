"""Images of few pixels and many parts: scans, frames, chunks and comments without end."""

import io
import zlib
from random import Random

from PIL import Image

from tests.hostile import ACCEPTED, encoded, image
from tests.hostile_images import HEAD, chunk, png


@image("image_unreadable")
def passes_without_end(draw: Random) -> bytes:
    data = encoded("JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * draw.randrange(100, 2_000) + data[-2:]


@image(ACCEPTED)
def frames_without_end(draw: Random) -> bytes:
    frame, out = Image.new("P", (8, 8)), io.BytesIO()
    more = [Image.new("P", (8, 8), n % 250 + 1) for n in range(draw.randrange(20, 300))]
    frame.save(out, draw.choice(["GIF", "PNG", "WEBP"]), save_all=True, append_images=more)
    return out.getvalue()


@image(ACCEPTED)
def frames_by_the_ten_thousand(draw: Random) -> bytes:
    data = encoded("GIF", mode="L", size=(2, 2))
    start = data.rindex(b",\0\0\0\0\2\0\2\0")
    return data[:start] + data[start:-1] * draw.choice([20_000, 40_000]) + b";"


@image(ACCEPTED)
def small_header_over_much_data(draw: Random) -> bytes:
    return png(
        30, 30, chunk(b"IDAT", zlib.compress(bytes(91 * 30) + bytes(10 ** draw.randrange(7))))
    )


@image(ACCEPTED)
def chunks_and_comments_without_end(draw: Random) -> bytes:
    data = encoded("PNG")
    jpeg = encoded("JPEG")
    many = [data[:HEAD] + chunk(b"prVt") * 30_000 + data[HEAD:]]
    many.append(data[:HEAD] + chunk(b"tEXt", b"a\0b") * 30_000 + data[HEAD:])
    many.append(jpeg[:2] + b"\xff\xe0\0\2" * 100_000 + jpeg[2:])
    many.append(jpeg[:2] + b"\xff" * 500_000 + jpeg[2:])
    return draw.choice(many)
