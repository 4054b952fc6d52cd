"""An image reference -> bytes that were decoded to the last pixel, or the reason why not."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

from infra.places import read_below
from schemas.config import IngestConfig
from schemas.errors import ConfigError
from schemas.samples import ImageRef
from tasks.decoder.children import decode_all
from tasks.decoder.strict import Facts, Refusal


@dataclass(frozen=True)
class Picture(Facts):
    """A decodable image: its facts, its encoded bytes and their sha256."""

    image_id: str
    data: bytes


# An image that is new, the id of one that the root has, or why it cannot be used.
Loaded = Picture | str | Refusal


def load(
    refs: Iterable[ImageRef],
    *,
    read: Callable[[ImageRef], bytes | str | Refusal],
    knows: Callable[[str], bool],
    max_pixels: int,
) -> dict[ImageRef, Loaded]:
    """Read, hash and decode a few images; what is known already is not decoded.

    Args:
        refs: the images, any of them more than once.
        read: the encoded bytes, the id of an image that is known by its path, or a refusal.
        knows: whether the image of an id is known.
        max_pixels: an image of more is refused.
    """
    found: dict[ImageRef, Loaded] = {}
    fresh: dict[ImageRef, tuple[str, bytes]] = {}
    for ref in dict.fromkeys(refs):
        data = read(ref)
        if not isinstance(data, bytes):
            found[ref] = data
        elif knows(image_id := sha256(data).hexdigest()):
            found[ref] = image_id
        else:
            fresh[ref] = (image_id, data)
    decoded = decode_all([data for _, data in fresh.values()], max_pixels=max_pixels)
    for (ref, (image_id, data)), facts in zip(fresh.items(), decoded, strict=True):
        refused = isinstance(facts, Refusal)
        found[ref] = facts if refused else Picture(**vars(facts), image_id=image_id, data=data)
    return found


def fetch(ref: ImageRef, *, folder: str, config: IngestConfig) -> bytes | Refusal:
    """The encoded bytes, read within the byte limit."""
    data = ref.data if ref.data is not None else _fetch(ref.path or "", folder, config)
    if isinstance(data, bytes) and len(data) > config.max_image_bytes:
        return Refusal("image_too_big", f"more than {config.max_image_bytes} bytes")
    return data


def _fetch(path: str, folder: str, config: IngestConfig) -> bytes | Refusal:
    if path.lower().startswith(("http://", "https://", "ftp://")):
        return Refusal("remote_image", path)
    if not folder:
        raise ConfigError(
            f"image {path!r} is named by a path, and its source names no folder; add "
            "images=<folder> to the source"
        )
    try:
        return read_below(folder, path, limit=config.max_image_bytes)
    except PermissionError as error:
        # The system's own "may not be read" has a number, ours has none.
        outside = error.errno is None
        return Refusal("path_outside_folder" if outside else "image_unreadable", path)
    except OSError:
        return Refusal("image_missing", path)
