"""Views of several workers, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.console.merged import HOW, is_merged, merged
from proxy.console.table import Table
from proxy.console.views import VIEWS

if TYPE_CHECKING:
    from collections.abc import Sequence


def answer(columns: str, *rows: Sequence[Any]) -> dict[str, Any]:
    table = Table.of(columns)
    return {"columns": table.columns, "numbers": sorted(table.numbers), "rows": [list(row) for row in rows]}


def test_pools_are_added_up_where_they_are_the_same() -> None:
    columns = "database user cl_active# cl_waiting# sv_active# sv_idle# maxwait# pool_mode shard use opened# closed#"
    one = answer(columns, ["d", "u", 1, 0, 1, 2, 5, "transaction", "s0", "clients", 3, 0])
    two = answer(
        columns,
        ["d", "u", 2, 1, 2, 0, 3, "transaction", "s0", "clients", 4, 2],
        ["d", "u", 1, 0, 1, 0, 0, "transaction", "s1", "clients", 1, 0],
    )
    table = merged("POOLS", [one, two])
    assert table.rows == [
        ["d", "u", 3, 1, 3, 2, 5, "transaction", "s0", "clients", 7, 2],
        ["d", "u", 1, 0, 1, 0, 0, "transaction", "s1", "clients", 1, 0],
    ]
    assert "cl_active" in table.numbers


def test_a_shard_is_down_when_one_worker_does_not_serve_it() -> None:
    columns = "database shard state reason"
    up, down = answer(columns, ["d", "s0", "up", None]), answer(columns, ["d", "s0", "down", "refused"])
    for answers in ([up, down], [down, up]):
        assert merged("SHARDS", answers).rows == [["d", "s0", "down", "refused"]]


def test_a_lock_names_the_client_whoever_knows_it() -> None:
    columns = "database shard pid# locktype mode relation problem client# waited_ms#"
    known = answer(columns, ["d", "s0", 7, "tuple", "X", "t", None, 42, 10])
    unknown = answer(columns, ["d", "s0", 7, "tuple", "X", "t", None, None, 11])
    assert merged("LOCKS", [unknown, known]).rows == [["d", "s0", 7, "tuple", "X", "t", None, 42, 11]]


def test_averages_are_weighed_and_counts_are_added_up() -> None:
    names = "xact_count query_count xact_time query_time"
    columns = "database " + " ".join(f"total_{name}# avg_{name}#" for name in names.split())
    one = answer(columns, ["d", 10, 1, 10, 1, 100, 1000, 100, 500])
    two = answer(columns, ["d", 20, 3, 30, 0, 900, 2000, 900, 0])
    assert merged("STATS", [one, two]).rows == [["d", 30, 4, 40, 1, 1000, 1750, 1000, 500]]


def test_statements_stand_by_their_time_in_all_workers() -> None:
    columns = "database tier calls# errors# rows# time# mean# p99# longest# shards# statement"
    one = answer(columns, ["d", "x", 1, 0, 1, 50, 50, 50, 50, 1, "a"], ["d", "x", 1, 0, 1, 40, 40, 40, 40, 1, "b"])
    two = answer(columns, ["d", "x", 3, 1, 2, 90, 30, 60, 70, 5, "b"])
    table = merged("STATEMENTS", [one, two])
    assert table.rows == [["d", "x", 4, 1, 3, 130, 32, 60, 70, 6, "b"], ["d", "x", 1, 0, 1, 50, 50, 50, 50, 1, "a"]]


def test_clients_are_all_there() -> None:
    assert merged("CLIENTS", [answer("id# worker#", [1, 1]), answer("id# worker#", [2, 2])]).rows == [[1, 1], [2, 2]]


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_every_view_is_known_to_be_of_all_or_of_any(view: str) -> None:
    anybodys = {"CONFIG", "IN_DOUBT", "TABLES", "VERSION", "WORKERS"}
    assert is_merged(view) == (view not in anybodys)
    assert HOW.keys() <= VIEWS.keys()
