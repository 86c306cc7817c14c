"""What a client is told of a shard's failure."""

from __future__ import annotations

import asyncpg

from proxy.shards.errors import ShardError, not_let_in, translate
from proxy.wire.fields import ErrorFields


def test_the_drivers_own_state_is_not_told() -> None:
    """A connection that breaks in mid-command leaves asyncpg in one that nobody asked about."""
    error = translate(asyncpg.InternalClientError("cannot switch to state 12"), 0, "s0")
    assert (error.sqlstate, error.fields.get("D")) == ("08006", "")
    assert translate(OSError("broken pipe"), 0, "s0").fields.get("D") == "broken pipe"


def test_who_is_not_let_in_is_told_by_which_shard() -> None:
    """The message is the server's own, which names the role alone; several shards may have it."""
    said = ErrorFields.make("FATAL", "28P01", 'password authentication failed for user "pgchorus"')
    told = not_let_in(ShardError(said, 1, lost=True), "s1")
    assert (told.message, told.sqlstate, told.shard, told.lost) == (said.message, "28P01", 1, True)
    assert "shard s1" in (told.fields.detail or "")
    assert "PGPASSWORD" in (told.fields.hint or "")
    assert "".join(told.fields.fields) == "SVCMDH"
    other = ShardError(ErrorFields.make("FATAL", "53300", "too many"), 0)
    assert not_let_in(other, "s0") is other
