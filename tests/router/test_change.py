"""What a reload may change of where rows live, as far as the configurations alone can say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.change import Replaced, difference
from router.cluster import Database, Home, Placement, Reference, Sharded, TableName, Vouch

NOTES, KINDS, PLAIN = (TableName("public", name) for name in ("notes", "kinds", "plain"))
BEFORE = Database("d", ("a", "b"), 0, {NOTES: Sharded("k"), KINDS: Reference()})


def placed(**tables: Placement) -> Database:
    return replace(BEFORE, placements={TableName("public", name): place for name, place in tables.items()})


def test_nothing_changes() -> None:
    assert not difference(BEFORE, BEFORE)
    assert not difference(BEFORE, placed(notes=Sharded("k"), kinds=Reference(), plain=Home())), "not named is home"


def test_tables_that_are_new() -> None:
    change = difference(BEFORE, placed(notes=Sharded("k"), kinds=Reference(), plain=Sharded("id")))
    assert change.replaced == (Replaced(PLAIN, Home(), Sharded("id")),)
    assert not change.impossible
    assert str(change.replaced[0]) == "public.plain is on the home shard and would be sharded by id"


def test_tables_that_are_placed_in_another_way_or_no_more() -> None:
    change = difference(BEFORE, placed(notes=Sharded("n")))
    assert change.replaced == (
        Replaced(KINDS, Reference(), Home()),
        Replaced(NOTES, Sharded("k"), Sharded("n")),
    )


@pytest.mark.parametrize(
    ("before", "after", "absent"),
    [
        (Home(), Sharded("k"), False),
        (Sharded("k"), Sharded("n"), False),
        (Home(), Reference(), True),
        (Reference(), Sharded("k"), True),
        (Sharded("k"), Reference(), True),
        (Sharded("k"), Home(), True),
        (Reference(), Home(), True),
    ],
)
def test_what_may_only_change_while_the_table_is_not_there(
    before: Placement, after: Placement, *, absent: bool
) -> None:
    assert Replaced(NOTES, before, after).only_if_absent is absent


def test_a_shard_without_slots_may_come_behind_the_others() -> None:
    change = difference(BEFORE, replace(BEFORE, shards=("a", "b", "c"), spread=(0, 1)))
    assert change.added == ("c",)
    assert not change.impossible
    one = replace(BEFORE, shards=("a",))
    assert "the only shard" in difference(one, replace(BEFORE, spread=(0,))).impossible[0]


def test_functions_that_are_vouched_for() -> None:
    change = difference(BEFORE, replace(BEFORE, functions={"f": Vouch.PURE}))
    assert change.functions
    assert not change.impossible


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (replace(BEFORE, home=1), "the home shard is a and would be b"),
        (replace(BEFORE, slots=64), "slots are 4096 and would be 64"),
        (replace(BEFORE, shards=("a",)), "shard b would be gone"),
        (replace(BEFORE, shards=("a", "c")), "shard b would be gone"),
        (replace(BEFORE, shards=("b", "a"), home=1), "their order says where rows are"),
        (replace(BEFORE, shards=("a", "b", "c")), "rows are spread over a, b and would be over a, b, c"),
        (replace(BEFORE, shards=("c", "a", "b"), spread=(1, 2)), "their order says where rows are"),
    ],
)
def test_what_no_look_at_the_rows_could_allow(after: Database, reason: str) -> None:
    (found,) = difference(BEFORE, after).impossible
    assert reason in found
