"""Servers that are down for a while, and what clients are told meanwhile."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.demo.embedded import EmbeddedServer

LOST = ("08", "57")  # connection exception, operator intervention
FAST_SECONDS = 3.0


@contextmanager
def crashed(server: EmbeddedServer) -> Iterator[None]:
    """Have a server down for a while."""
    server.kill()
    try:
        yield
    finally:
        server.start()


def refused(client: psycopg.Connection[Any], sql: str, *values: object) -> psycopg.Error:
    """Run what a dead shard is needed for; return the error, which must be one and come soon."""
    begin = time.monotonic()
    with pytest.raises(psycopg.OperationalError) as caught:
        client.execute(sql.encode(), values or None)
    assert time.monotonic() - begin < FAST_SECONDS
    assert caught.value.sqlstate is not None, "the proxy hung up"
    assert caught.value.sqlstate[:2] in LOST, caught.value
    assert caught.value.diag.severity_nonlocalized == "ERROR", "the session goes on, so this is not FATAL"
    return caught.value


READ = "SELECT balance FROM acc WHERE id = %s"
WRITE = "UPDATE acc SET balance = balance + %s WHERE id = %s"
