"""How many items of each side and stratum: shares kept, and nested from one size to the next."""

from collections.abc import Mapping
from math import floor
from typing import NamedTuple, TypeVar


class Stratum(NamedTuple):
    """Rows of one type, level and source."""

    risk_type: str
    level: int
    source: str

    @property
    def name(self) -> str:
        """As messages tell it, and in whose order ties between strata are broken."""
        return f"{self.risk_type}/{self.level}/{self.source}"


Name = TypeVar("Name", Stratum, str)


def sides(total: int, clean_per_unsafe: float) -> tuple[int, int]:
    """Unsafe and clean items of `total` at a ratio; neither falls as the total grows."""
    unsafe = floor(total / (1 + clean_per_unsafe) + 0.5)
    return unsafe, total - unsafe


def largest_total(unsafe: int, clean: int, clean_per_unsafe: float) -> int:
    """The most items that a ratio can be drawn from without repeats; 0 if not one unsafe item is.

    Args:
        unsafe: items there are.
        clean: items there are.
        clean_per_unsafe: the ratio.
    """

    def fits(total: int) -> bool:
        want_unsafe, want_clean = sides(total, clean_per_unsafe)
        return want_unsafe <= unsafe and want_clean <= clean

    low, high = 0, unsafe + clean
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low if sides(low, clean_per_unsafe)[0] else 0


def apportion(sizes: Mapping[Name, int], total: int) -> dict[Name, int]:
    """Split `total` over strata in proportion to their sizes.

    Webster's method: the `total` smallest values of (k + 1/2) / size over all strata and places
    k. Unlike the largest remainder it is monotone (a larger total never takes an item away), so
    that with hash order a larger selection contains every smaller one. Up to the sum of sizes no
    stratum gives more than it has; up to m times the sum none gives more than m times.
    """
    whole = sum(sizes.values())
    given = {name: (2 * total * size + whole) // (2 * whole) for name, size in sizes.items()}
    # Rounding may miss the total by a few; the next (or last) place in the order makes it up.
    while (missing := total - sum(given.values())) > 0:
        given[min(given, key=lambda n: ((2 * given[n] + 1) / sizes[n], n))] += 1
    while missing < 0:
        given[max(given, key=lambda n: ((2 * given[n] - 1) / sizes[n], n))] -= 1
        missing += 1
    return given


def capped(sizes: Mapping[Stratum, int], caps: Mapping[str, int]) -> dict[Stratum, int]:
    """The sizes that are left when each source gives at most its cap, its strata in proportion."""
    left = dict(sizes)
    for source, cap in caps.items():
        own = {stratum: size for stratum, size in sizes.items() if stratum.source == source}
        if sum(own.values()) > cap:
            left |= apportion(own, cap)
    return left
