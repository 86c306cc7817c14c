"""Shard links on uvloop and on asyncio's own loop: the loan of asyncpg's wire must work on both."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

from proxy.shards.endpoint import ShardEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.conftest import MakeDatabases

# Files whose subject touches the transport; the others run on uvloop alone.
_BOTH_LOOPS = {"test_lending.py", "test_link.py", "test_link_loss.py"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    assert config
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.path.name in _BOTH_LOOPS:
        factories["asyncio"] = asyncio.new_event_loop
    return factories


@pytest.fixture
def endpoint(make_databases: MakeDatabases) -> ShardEndpoint:
    """A fresh database that stands for a shard."""
    return ShardEndpoint("s0", 0, make_databases(1)[0])
