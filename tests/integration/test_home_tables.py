"""Tables that only home has, in transactions that have used another shard first: home says what statements give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wire_client import SYNC, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import Twins, WireClient

STATEMENTS = (
    "select v from plain where id = $1",
    "select notes.k, plain.v from notes join plain on plain.id = notes.n where notes.k > $1 - 10 order by 1",
    "insert into plain (id, v) select k + 100 + $1, v from notes returning v",
    "update plain set v = 'changed' where id = $1 returning id, v",
)


@pytest.mark.parametrize("text", STATEMENTS)
def test_what_only_home_has_is_described_by_home(town: Town, twins: Twins, text: str) -> None:
    twins.query("insert into plain values (1, 'one'), (2, 'two')")
    for key in town.spread:
        twins.query(f"insert into notes values ({key}, 'note', 1)")
    for key in town.spread:
        twins.query("begin")
        twins.query(f"select v from notes where k = {key}")
        twins.same(parse(f"{text} -- {key}"), bind(b"1"), describe("P"), execute(), SYNC)
        twins.query("rollback")


def test_a_refusal_is_not_taken_for_a_missing_table(town: Town, connect: Callable[[str], WireClient]) -> None:
    proxy = connect(town.dsn)
    for key in town.spread:
        proxy.query("begin")
        proxy.query(f"select v from notes where k = {key}")
        trace = proxy.query("update notes set k = (select max(p.id) from plain p)")
        assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"], trace
        proxy.query("rollback")
