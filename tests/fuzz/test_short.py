"""The short form of `make fuzz`: the same inputs each time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from fuzzing import try_session, try_wire
from wire_client import connected

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

SEED = 20_261_122
WIRE_INPUTS = 4_000
SESSION_INPUTS = 80


def test_wire() -> None:
    chance = random.Random(SEED)
    for number in range(WIRE_INPUTS):
        try:
            try_wire(chance)
        except Exception as error:
            error.add_note(f"input {number} of seed {SEED}")
            raise


def test_session(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    (shard,) = make_databases(1, "fuzz")
    proxy = start_proxy([shard], {})
    dsn = proxy.dsn(shard.rpartition("/")[2])
    with connected(dsn) as client:
        client.query("create table plain (id int4 primary key, v text)")
        client.query("create table notes (k int8 primary key, v text, n int4)")
    chance = random.Random(SEED)
    for number in range(SESSION_INPUTS):
        try:
            try_session(chance, dsn)
        except Exception as error:
            error.add_note(f"input {number} of seed {SEED}")
            raise
    with connected(dsn) as client:
        assert client.rows("select 1") == [("1",)]
    assert "Traceback" not in proxy.log.read_text()
