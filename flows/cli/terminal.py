"""Where tables are printed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console(width: int) -> "Console":
    """The terminal as wide as it is; a pipe has no width, and gets the one that a table needs.

    Args:
        width: characters of a line in a pipe.
    """
    from rich.console import Console

    terminal = Console(highlight=False, markup=False)
    return terminal if terminal.is_terminal else Console(width=width, markup=False)
