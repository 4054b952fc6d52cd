"""How many items of each stratum: shares kept, and nested from one size to the next."""

from collections.abc import Mapping


def apportion(sizes: Mapping[str, int], total: int) -> dict[str, int]:
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
