"""The short form of soak.py: clients of all kinds through two proxies while each kind of fault happens once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger import QUICK
from soak_checks import Soak
from soak_workers import TABLES, Bank

if TYPE_CHECKING:
    from proxy.demo.embedded import EmbeddedServer
    from tests.conftest import MakeDatabases, StartProxy

SEED = 20261122
PROGRESS = 2


def test_everything_at_once_while_proxies_and_shards_die(
    make_databases: MakeDatabases, start_proxy: StartProxy, servers: list[EmbeddedServer]
) -> None:
    direct = make_databases(3, "soak")
    proxies = [start_proxy(direct, TABLES, limits=dict(QUICK)) for _ in range(2)]
    soak = Soak(Bank(proxies, direct, SEED), servers[:3], pauses=[0.0], stalls=[1.5])
    soak.bank.fill()
    soak.start(transfers=2, counts=2, lists=2, snapshots=1)
    try:
        for fault in (soak.kill_proxy_in_commit, soak.stall_proxy, soak.crash_shard):
            soak.until_progress(PROGRESS)
            print(fault())  # noqa: T201 - pytest shows it when the test fails, with the seed
        soak.until_progress(PROGRESS)
    finally:
        soak.bank.stopping.set()
    soak.finish()
    print(f"seed {SEED}", *soak.check(), soak.notes().errors, sep="\n")  # noqa: T201 - figures for whoever looks
    assert any(soak.in_doubt), "no kill left anything in doubt"
