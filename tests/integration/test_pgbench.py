"""pgbench through the proxy: no errors, the money adds up, and every row is where it belongs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from programs import run_well
from router.cluster import Database

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.conftest import MakeDatabases, StartProxy

KEYS = {
    "pgbench_accounts": "aid",
    "pgbench_branches": "bid",
    "pgbench_tellers": "tid",
    "pgbench_history": "aid",
}
SLOTS = 4096
# Transactions of each client. A minute of them, while proxies die, is `make tpcb`.
EACH = "50"

# All rows of a shard, and those that belong there: our guess of the slot is held against Postgres's own judgement.
RIGHTLY_PLACED = f"""
    SELECT count(*), count(*) FILTER (WHERE slot BETWEEN {{low}} AND {{high}}
                                      AND satisfies_hash_partition('hashed'::regclass, {SLOTS}, slot::int4, {{key}}))
    FROM (SELECT {{key}},
                 ((hashint8extended({{key}}, 8816678312871386365) & 4095) + 2275) & 4095 AS slot
          FROM {{table}})
"""

# The four balances of TPC-B: money that one table has and another has not would be a torn transaction.
BALANCES = (
    "SELECT sum(abalance) FROM pgbench_accounts",
    "SELECT sum(tbalance) FROM pgbench_tellers",
    "SELECT sum(bbalance) FROM pgbench_branches",
    "SELECT sum(delta) FROM pgbench_history",
)


class Bank:
    """pgbench's tables behind a proxy."""

    def __init__(self, dsn: str, shards: Sequence[str]) -> None:
        self.dsn = dsn
        self.shards = shards

    def one(self, query: str) -> Any:
        """Return the only value of a query's only row."""
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute(query).fetchone()
            assert row is not None
            return row[0]

    def bench(self, *options: str) -> int:
        """Run pgbench; return the number of transactions, none of which failed."""
        said = run_well("pgbench", "-n", "-c", "4", "-j", "2", *options, self.dsn)
        assert "number of failed transactions: 0 (0.000%)" in said, said
        for word in ("ERROR", "FATAL", "WARNING", "aborted"):
            assert word not in said, said
        found = re.search(r"number of transactions actually processed: (\d+)", said)
        assert found is not None, said
        return int(found[1])

    def check_places(self) -> None:
        """No shard has a row whose slot Postgres itself would not put there, and none is in doubt."""
        spans = Database("bank", tuple(self.shards), 0)
        for shard, dsn in enumerate(self.shards):
            low, high = spans.slot_range(shard)
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("CREATE TEMP TABLE hashed (key int4) PARTITION BY HASH (key)")
                for table, key in KEYS.items():
                    row = connection.execute(RIGHTLY_PLACED.format(table=table, key=key, low=low, high=high)).fetchone()
                    assert row is not None
                    assert row[0] == row[1], (table, dsn)
                prepared = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
                assert connection.execute(prepared).fetchall() == []
                rows = connection.execute("SELECT count(*) FROM pgbench_accounts").fetchone()
                assert rows is not None
                assert rows[0] > 0, "a shard without a row shows nothing"


@pytest.fixture(scope="module", params=[3, 1], ids=["3 shards", "1 shard"])
def bank(request: pytest.FixtureRequest, make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Bank:
    shards = make_module_databases(request.param, "bank")
    proxy = start_module_proxy(shards, {table: {"key": key} for table, key in KEYS.items()})
    bank = Bank(proxy.dsn(shards[0].rpartition("/")[2]), shards)
    said = run_well("pgbench", "-i", "-s", "1", bank.dsn)
    assert "done in" in said, said
    assert "ERROR" not in said, said
    return bank


def test_what_pgbench_made(bank: Bank) -> None:
    counts = [bank.one(f"SELECT count(*) FROM {table}") for table in KEYS]
    assert counts == [100_000, 1, 10, 0]
    assert bank.one("SELECT min(aid) FROM pgbench_accounts") == 1
    assert bank.one("SELECT max(aid) FROM pgbench_accounts") == 100_000
    bank.check_places()


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_tpc_b(bank: Bank, mode: str) -> None:
    before = [bank.one(query) or 0 for query in BALANCES]
    rows = bank.one("SELECT count(*) FROM pgbench_history")
    done = bank.bench("-M", mode, "-t", EACH)
    assert done == 4 * int(EACH)
    assert bank.one("SELECT count(*) FROM pgbench_history") - rows == done
    moved = {(bank.one(query) or 0) - earlier for query, earlier in zip(BALANCES, before, strict=True)}
    assert len(moved) == 1, moved
    bank.check_places()


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_select_only(bank: Bank, mode: str) -> None:
    before = [bank.one(query) for query in BALANCES]
    assert bank.bench("-S", "-M", mode, "-t", EACH) == 4 * int(EACH)
    assert [bank.one(query) for query in BALANCES] == before


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_simple_update_leaves_tellers_and_branches_alone(bank: Bank, mode: str) -> None:
    before = [bank.one(query) or 0 for query in BALANCES]
    rows = bank.one("SELECT count(*) FROM pgbench_history")
    done = bank.bench("-N", "-M", mode, "-t", EACH)
    assert bank.one("SELECT count(*) FROM pgbench_history") - rows == done
    accounts, tellers, branches, history = (
        (bank.one(query) or 0) - earlier for query, earlier in zip(BALANCES, before, strict=True)
    )
    assert accounts == history
    assert (tellers, branches) == (0, 0)
    bank.check_places()
