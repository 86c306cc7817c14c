"""The short form of soak_tpcb.py: TPC-B by pgbench and by our own writers while the proxy is killed three times."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from ledger import QUICK
from tpcb import TABLES, Load

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

SEED = 20261122
KILLS = 3
PROGRESS = 10
WITHIN_SECONDS = 0.2


@pytest.mark.long
def test_tpcb_with_the_proxy_killed(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    print(f"seed {SEED}")  # noqa: T201 - pytest shows it when the test fails
    direct = make_databases(3, "soak")
    load = Load(start_proxy(direct, TABLES, limits=dict(QUICK)), direct, seed=SEED, scale=1)
    load.fill()
    moments = random.Random(SEED)
    load.start(writers=3, pgbench_clients=3)
    try:
        for _ in range(KILLS):
            load.until_progress(PROGRESS)
            time.sleep(moments.random() * WITHIN_SECONDS)  # kills should not all come in the same phase
            load.kill_proxy()
        load.until_progress(PROGRESS)
    finally:
        load.finish()
    print(load.report())  # noqa: T201 - the same
    assert any(load.in_doubt), "no kill left anything in doubt"
    load.check()
