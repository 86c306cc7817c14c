"""Executor tests run against three real shards, each in a fresh database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio
import uvloop

from executor_kit import Shards, close_shards, open_shards

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Mapping

    import pytest


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    assert config
    assert item
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def shards(module_databases: list[str]) -> AsyncIterator[Shards]:
    """Links to three shards whose schema ``public`` is empty."""
    made = await open_shards(module_databases[:3])
    await made.everywhere("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    yield made
    await close_shards(made)
