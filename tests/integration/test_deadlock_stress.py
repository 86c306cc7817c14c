"""Many clients of two proxies over few rows: where nobody can deadlock nobody is ended, else all go on.

Deadlocks are looked for all the time here, among chains of waits, prepared blockers and pools that are used up. The
long form is `make deadlocks`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from crowd import LIMITS, TABLES, Crowd, fill
from waiting import eventually

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

SEED = 20261122
CLIENTS = 12
SECONDS = 1.0


@pytest.mark.parametrize("ordered", [True, False], ids=["in one order", "in any order"])
def test_who_is_ended(make_databases: MakeDatabases, start_proxy: StartProxy, *, ordered: bool) -> None:
    print(f"seed {SEED}")  # noqa: T201 - pytest shows it when the test fails
    shards = make_databases(3)
    dsns: list[str] = []
    for _ in range(2):
        dsns.append(start_proxy(shards, TABLES, limits=LIMITS).dsn(shards[0].rpartition("/")[2]))
        if len(dsns) == 1:
            fill(dsns[0])  # the second one finds the table there
    crowd = Crowd(dsns, clients=CLIENTS, seed=SEED, ordered=ordered)
    with crowd.at_work():
        time.sleep(SECONDS)  # the load's length, not a synchronisation
        before = sum(crowd.committed)
        # In any order most are ended, also on one Postgres: two commits a second are a crowd that goes on.
        eventually(lambda: sum(crowd.committed) > before + CLIENTS // 3, "the crowd stands still")
    print(f"{sum(crowd.committed)} commits, {len(crowd.errors)} ended")  # noqa: T201 - figures for whoever looks
    crowd.check()
