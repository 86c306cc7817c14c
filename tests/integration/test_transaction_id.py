"""SHOW pgchorus.transaction_id: a client that asks before COMMIT can find out later what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.twophase import record
from proxy.twophase.gid import GlobalId
from wire_client import SYNC, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import Town
    from wire_client import WireClient

ASK = "show pgchorus.transaction_id"


def outcome(client: WireClient, gid: str) -> str:
    ((answer,),) = client.rows(f"show pgchorus.transaction '{gid}'")
    return answer


@pytest.mark.parametrize("writes", [1, 2, 3])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_outcome_can_be_asked_for(town: Town, connect: Callable[..., WireClient], writes: int, end: str) -> None:
    client, other = connect(town.dsn), connect(town.dsn)
    assert client.rows(ASK) == [("",)]
    client.query("begin")
    client.query(f"select v from notes where k = {town.spread[2]}")
    assert client.rows(ASK) == [("",)], "nothing is written"
    for key in town.spread[:writes]:
        client.query(f"insert into notes values ({key}, 'x')")
    ((gid,),) = client.rows(ASK)
    assert gid.startswith("pgchorus:test:s")
    assert client.rows(ASK) == [(gid,)]
    assert outcome(other, gid) == "in doubt"
    client.query(end)
    assert client.rows(ASK) == [("",)]
    if end == "commit":
        assert outcome(other, gid) == "committed"
        assert len(town.stored()) == writes
    client.query("begin")
    client.query(f"delete from notes where k = {town.spread[0]}")
    ((another,),) = client.rows(ASK)
    assert another != gid
    client.query("rollback")


def test_a_failed_commit_is_told_and_the_session_goes_on(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    a, b, _ = town.spread
    client.query(f"begin; insert into children values ({a}, 1)")
    assert client.rows(ASK) != [("",)]
    trace = client.query("commit")
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["23503"]
    client.query(f"begin; insert into notes values ({a}, 'a')")
    client.rows(ASK)
    client.query(f"insert into notes values ({b}, 'b')")
    assert client.query("commit")[0] == ("tag", "COMMIT")
    assert len(town.stored()) == 2


def test_by_the_extended_protocol_and_not_to_be_set(any_town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(any_town.dsn)
    client.query(f"begin; insert into notes values ({any_town.spread[0]}, 'a')")
    client.send(parse(ASK), bind(), execute(), SYNC)
    rows = [entry for entry in client.read("Z") if entry[0] == "row"]
    gid = rows[0][1][0].decode()
    client.query("commit")
    assert outcome(client, gid) == "committed"
    client.send(parse(f"show pgchorus.transaction '{gid}'"), bind(), describe("P"), execute(), SYNC)
    trace = client.read("Z")
    assert [entry for entry in trace if entry[0] == "row"] == [("row", [b"committed"])]
    assert [entry[1][0] for entry in trace if entry[0] == "columns"] == ["transaction"]
    trace = client.ask(parse("show pgchorus.transaction 'no id'"), bind(), execute(), SYNC)
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["22023"]
    for text in ("set pgchorus.transaction_id = 'x'", "reset pgchorus.transaction_id"):
        assert client.query(text)[0][1]["C"] == "55P02"


def test_what_cannot_be_prepared_must_be_where_the_id_points(town: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town.dsn)
    client.query(f"begin; insert into notes values ({town.spread[1]}, 'b')")
    client.rows(ASK)
    client.query("notify somebody")  # on home, which would have to be the commit point
    trace = client.query("commit")
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"]
    assert town.stored() == []
    client.query(f"begin; notify somebody; insert into notes values ({town.spread[1]}, 'b')")
    ((gid,),) = client.rows(ASK)
    assert gid.startswith("pgchorus:test:s0:")
    client.query("commit")
    assert outcome(client, gid) == "committed"


@pytest.mark.parametrize("failed", [False, True])
def test_an_id_that_was_asked_for_in_a_savepoint_is_alive_after_going_back(
    any_town: Town, connect: Callable[..., WireClient], *, failed: bool
) -> None:
    client = connect(any_town.dsn)
    key = any_town.spread[0]
    client.query("begin; savepoint s")
    client.query(f"insert into notes values ({key}, 'x')")
    ((text,),) = client.rows(ASK)
    gid = GlobalId.parse(text)
    assert gid is not None
    shard = int(gid.commit_point.removeprefix("s"))
    if failed:
        client.query("select 1/0")
    client.query("rollback to s")
    assert (gid.lock_key,) in any_town.on_shard(shard, record.LIVE_DECIDERS)
    assert client.rows(ASK) == [(text,)]
    client.query(f"insert into notes values ({key}, 'y')")
    client.query("commit")
    assert outcome(client, text) == "committed"
    assert any_town.stored() == [(key, "y")]
