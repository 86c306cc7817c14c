"""Fixtures: real shards that commits, crashes and reads behind the fence are tried on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from twophase_servers import CommitCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SHARDS = 3


@pytest.fixture(scope="module")
def dsns(request: pytest.FixtureRequest, make_module_databases: Callable[[int, str], list[str]]) -> list[str]:
    """DSNs of three databases, on one server each, named after the module: test_commit's are ``commit``."""
    return make_module_databases(SHARDS, request.module.__name__.rpartition("test_")[2])


@pytest.fixture
async def cluster(dsns: list[str]) -> AsyncIterator[CommitCluster]:
    """Shards s0, s1, s2 with an empty table ``t``; closed, and rid of what is prepared, afterwards."""
    made = await CommitCluster.make(dsns)
    yield made
    await made.close()
