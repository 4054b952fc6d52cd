"""Whether the encoder's features are kept, as it is decided and told before anything is encoded."""

from typing import Literal

from schemas.frozen import Frozen


class CacheDecision(Frozen):
    """What `cache` comes to in a root, and why.

    `images` are those without features there, `bytes_per_image` the mean of theirs, `bytes` all of
    them, `room` what they may take (None: no limit). What was not asked for is None.
    """

    cache: Literal["always", "never"]
    why: str
    images: int | None = None
    bytes_per_image: int | None = None
    bytes: int | None = None
    room: int | None = None
