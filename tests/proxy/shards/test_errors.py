"""What a client is told of a shard's failure."""

from __future__ import annotations

import asyncpg

from proxy.shards.errors import translate


def test_the_drivers_own_state_is_not_told() -> None:
    """A connection that breaks in mid-command leaves asyncpg in one that nobody asked about."""
    error = translate(asyncpg.InternalClientError("cannot switch to state 12"), 0, "s0")
    assert (error.sqlstate, error.fields.get("D")) == ("08006", "")
    assert translate(OSError("broken pipe"), 0, "s0").fields.get("D") == "broken pipe"
