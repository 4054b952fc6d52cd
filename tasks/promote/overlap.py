"""Which item sets share a budget: those that hang together by groups of items.

A set with one more item, or with half of its items changed, is no new evidence where it holds what
was looked at before. Groups are known by the bytes of an image, so that another name of a source
makes no other items of them.
"""

from collections.abc import Collection, Iterable, Mapping

import pyarrow.parquet as pq

from infra.store import Store
from schemas.decision import Decision
from schemas.errors import StorageError
from tasks.evaluate.step import ITEMS
from tasks.promote.questions import Rows
from tasks.promote.spending import looked


def same_budget(decisions: Iterable[Decision], items: str, rows: Rows, *, store: Store) -> set[str]:
    """Item sets that were looked at and hang together with this one, which is among them.

    Args:
        decisions: all so far.
        items: the item set's hash.
        rows: its items.
        store: where the evaluations of earlier sets lie. One that is gone cannot show that its
            items were others, so that it counts as sharing some.
    """
    earlier = {one.items: one.evaluations for one in decisions if looked(one) and one.items}
    earlier.pop(items, None)
    groups = {name: _groups(made, store) for name, made in earlier.items()}
    lost = {name for name, found in groups.items() if found is None}
    there = {name: found for name, found in groups.items() if found is not None}
    mine = {row["group_id"] for row in rows}
    return {items} | lost | hanging_together(mine, there)


def hanging_together(groups: Collection[str], sets: Mapping[str, Collection[str]]) -> set[str]:
    """The sets that share a group with these ones, or with a set that does, and so on."""
    reached, found, before = set(groups), set[str](), -1
    while len(found) > before:
        before = len(found)
        for name, own in sets.items():
            if name not in found and not reached.isdisjoint(own):
                found.add(name)
                reached |= set(own)
    return found


def _groups(evaluations: tuple[str, ...], store: Store) -> set[str] | None:
    try:
        found = store.find(*evaluations[0].split("/")) if evaluations else None
        if found is None:
            return None
        table = pq.read_table(store.local(found) / ITEMS, columns=["group_id"])
    except StorageError:
        return None
    return set(table["group_id"].to_pylist())
