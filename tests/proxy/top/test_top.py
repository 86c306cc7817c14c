"""The terminal view over a source that says what the test wants: figures, order, filter and keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from textual.widgets import Static

from proxy.errors import ProxyError
from proxy.top.figures import VIEWS, Look, arranged, figures, shown
from proxy.top.screen import Table, Top

if TYPE_CHECKING:
    from proxy.top.figures import Row

DATABASE = "shop"


def views(calls: int, *, queries: int = 0) -> dict[str, list[Row]]:
    """What a console says after so many calls."""
    totals: Row = {"database": DATABASE, "xact_count": calls, "query_count": queries or calls}
    totals |= {"query_time": calls * 2000, "bytes_received": calls * 1024, "bytes_sent": calls * 2048}
    statement = {"database": DATABASE, "tier": "one shard", "p99": 9000, "errors": 0}
    return {
        "STATS_TOTALS": [totals],
        "STATS_SHARDS": [
            {"database": DATABASE, "shard": "s0", "exchanges": calls, "time": calls * 1000, "p99": 5000},
            {"database": DATABASE, "shard": "s1", "exchanges": 3 * calls, "time": calls * 1500, "p99": 4000},
        ],
        "SHARDS": [
            {"database": DATABASE, "shard": "s0", "state": "up"},
            {"database": DATABASE, "shard": "s1", "state": "down"},
        ],
        "POOLS": [
            {"database": DATABASE, "shard": "s0", "user": "app", "use": "clients", "sv_active": 2, "sv_idle": 3}
            | {"cl_active": 2, "cl_waiting": 1, "maxwait": 0}
        ],
        "TRANSACTIONS": [
            {"client": 7, "user": "app", "state": "idle in transaction", "shards": "s0", "written": ""},
            {"client": 8, "user": "app", "state": "active", "shards": "s0,s1", "written": "s1"},
            {"client": 9, "user": "ops", "state": "active", "shards": "s1", "written": ""},
        ],
        "IN_DOUBT": [{"shard": "s1", "gid": "shop:s0:1", "commit_point": "s0", "decision": "commit", "age_ms": 1500}],
        "STATEMENTS": [
            {**statement, "statement": "select [b]$1[/b]", "calls": calls, "time": calls * 1000, "rows": calls},
            {**statement, "statement": "update t set a = $1", "calls": 2 * calls, "time": calls * 3000, "rows": 0},
            {**statement, "statement": "vacuum", "calls": 5, "time": 5000, "rows": 0, "tier": "ddl"},
        ],
        "DATABASES": [{"name": DATABASE, "current_client_connections": 3}] * 2,
    }


def test_rates_are_of_what_has_come_between_two_looks() -> None:
    found = figures(Look(100.0, views(100)), Look(102.0, views(300)))
    summary = found.summary
    assert (summary.clients, summary.transactions_s, summary.queries_s) == (3, 100.0, 100.0)
    assert (summary.query_ms, summary.received_s, summary.in_doubt) == (2.0, 102_400.0, 1)
    assert summary.states == (("active", 2), ("idle in transaction", 1))
    shards, pools, transactions, in_doubt, statements = found.panels
    assert [(row["shard"], row["answers/s"], row["mean ms"], row["p99 ms"]) for row in shards.rows] == [
        ("s0", 100.0, 1.0, 5.0),
        ("s1", 300.0, 0.5, 4.0),
    ]
    assert (shards.rows[0]["in use"], shards.rows[0]["waiting"]) == (2, 1)
    assert [row["share %"] for row in statements.rows] == [25.0, 75.0, 0.0]
    assert [row["calls/s"] for row in statements.rows] == [100.0, 200.0, 0.0]
    assert in_doubt.rows[0]["age s"] == 1.5
    assert (len(pools.rows), len(transactions.rows)) == (1, 3)


def test_a_counter_that_has_begun_anew_gives_no_negative_rate() -> None:
    found = figures(Look(100.0, views(500)), Look(102.0, views(20)))
    assert found.summary.transactions_s == 10.0


def test_rows_are_in_order_and_filtered() -> None:
    panel = figures(Look(100.0, views(100)), Look(102.0, views(300))).panels[-1]
    assert next(row["statement"] for row in arranged(panel, "share %")) == "update t set a = $1"
    assert next(row["statement"] for row in arranged(panel, "share %", reverse=True)) == "vacuum"
    assert next(row["statement"] for row in arranged(panel, "statement")) == "select [b]$1[/b]"
    assert [row["tier"] for row in arranged(panel, "share %", wanted="DDL")] == ["ddl"]


@pytest.mark.parametrize(
    ("cell", "text"), [(None, ""), (1234, "1,234"), (0.123, "0.12"), (12.34, "12.3"), (1234.5, "1,234"), ("x", "x")]
)
def test_cells_have_three_digits(cell: Any, text: str) -> None:
    assert shown(cell) == text


class Told:
    """A source; each look finds a hundred calls more."""

    def __init__(self) -> None:
        self.calls = 0
        self.broken = False
        self.closed = False
        self.asked = False

    async def show(self, view: str) -> list[Row]:
        assert not self.asked, "two questions at a time"
        self.asked = True
        await asyncio.sleep(0)
        self.asked = False
        if self.broken:
            raise ProxyError("08006", "the proxy is gone")
        if view == VIEWS[0]:
            self.calls += 100
        return views(self.calls)[view]

    async def close(self) -> None:
        self.closed = True


def column(app: Top, table: str, name: str) -> list[str]:
    shown_rows = app.query_one(f"#{table}", Table)
    return [shown_rows.get_row_at(at)[_place(shown_rows, name)].plain for at in range(shown_rows.row_count)]


def _place(table: Table, name: str) -> int:
    return [str(key.value) for key in table.columns].index(name)


def summary(app: Top) -> str:
    return str(app.query_one("#summary", Static).content)


async def test_the_screen_and_its_keys() -> None:
    told = Told()
    app = Top(told, interval_s=3600)
    async with app.run_test(size=(150, 50)) as pilot:
        await app.workers.wait_for_complete()
        await asyncio.gather(app.look(), app.look())  # a slow one and the next turn
        await pilot.pause()
        assert column(app, "shards", "state") == ["down", "up"]  # the one that answers most first
        assert column(app, "statements", "statement")[0] == "update t set a = $1"
        assert "select [b]$1[/b]" in column(app, "statements", "statement")  # brackets are no markup
        assert "transactions: 2 active, 1 idle in transaction" in summary(app)
        assert "in doubt: 1" in summary(app)
        await pilot.press("r")
        assert column(app, "statements", "statement")[0] == "vacuum"
        for _ in range(7):  # to the last column, from the first
            await pilot.press("s")
        assert column(app, "statements", "statement") == sorted(column(app, "statements", "statement"))
        await pilot.press("slash", *"vacuum", "enter")
        assert column(app, "statements", "statement") == ["vacuum"]
        await pilot.press("slash", "escape")
        assert len(column(app, "statements", "statement")) == 3
        await pilot.press("z")
        assert not app.query_one("#shards", Table).visible or app.query_one("#upper").display is False
        await pilot.press("z")
        assert app.query_one("#upper").display
        await pilot.press("space")
        assert "paused" in summary(app)
        await pilot.press("space")
        assert "paused" not in summary(app)
        await pilot.press("q")
    assert told.closed


async def test_a_proxy_that_cannot_be_asked_is_said_to_be_and_the_last_figures_stay() -> None:
    told = Told()
    app = Top(told, interval_s=3600)
    async with app.run_test(size=(150, 50)) as pilot:
        await app.workers.wait_for_complete()
        told.broken = True
        await app.look()
        await pilot.pause()
        assert "the proxy is gone" in summary(app)
        assert len(column(app, "statements", "statement")) == 3
        told.broken = False
        await app.look()
        assert "the proxy is gone" not in summary(app)
