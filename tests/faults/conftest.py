"""A ledger whose proxy reaches its shards through wires that can be made to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fault_wire import Wires
from ledger import QUICK, Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDatabases, StartProxy

SHARDS = 3
TABLES: dict[str, Any] = {"acc": {"key": "id"}}


@pytest.fixture(scope="module")
def module_wires(make_module_databases: MakeDatabases) -> Iterator[Wires]:
    """Wires before three fresh databases."""
    with Wires(make_module_databases(SHARDS, "faults")) as made:
        yield made


@pytest.fixture(scope="module")
def module_ledger(module_wires: Wires, start_module_proxy: StartProxy) -> Ledger:
    return Ledger(start_module_proxy(module_wires.dsns, TABLES, limits=dict(QUICK)), module_wires.direct)


@pytest.fixture
def wires(module_wires: Wires) -> Iterator[Wires]:
    """The wires of this module, without a fault before and after the test."""
    yield module_wires
    module_wires.calm()


@pytest.fixture
def ledger(module_ledger: Ledger, wires: Wires) -> Ledger:
    """The ledger of this module: its proxy runs, all shards are served, nothing is prepared."""
    assert wires
    if not module_ledger.process.running:
        module_ledger.process.start()
    module_ledger.until_served()
    module_ledger.until_nothing_is_prepared()
    return module_ledger
