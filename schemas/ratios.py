"""What a training order was asked for and what it holds: `ratios.json` of a balance artifact."""

from typing import Literal

from schemas.frozen import Frozen


class EpochRatio(Frozen):
    """The items of one epoch of the plan, counted from 1."""

    epoch: int
    unsafe: int
    clean: int


class Share(Frozen):
    """A risk type, level or source in the training order.

    `there` are its rows in the training split, `pool` those that `held_out` and `source_caps` leave
    to choose from, `asked` its items of an epoch if each side had exactly the pool's proportions;
    `unsafe` and `clean` are its items of an epoch.
    """

    name: str
    there: int
    pool: int
    asked: float
    unsafe: int
    clean: int


class Ratios(Frozen):
    """Asked (the first fields, see BalanceConfig) and achieved, counted in the plan itself.

    `rows` are the different rows of an epoch, `most_uses` how often the most repeated one comes.
    Every epoch holds the same items: types, levels and sources are those of any.
    """

    clean_per_unsafe: float
    size: Literal["keep_unsafe", "fixed_total"]
    total: int | None
    max_repeat: int
    source_caps: dict[str, int]
    rows: int
    most_uses: int
    epochs: tuple[EpochRatio, ...]
    types: tuple[Share, ...]
    levels: tuple[Share, ...]
    sources: tuple[Share, ...]
