"""A cancel that comes between two steps of a statement ends it all the same: no shard that hears it has work to do."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from fault_wire import Fault, Wires
from proxy.wire.frontend import Query
from wire_client import WireClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDatabases, StartProxy

#: Half an hour, if the cancel is lost; the client gives up before.
GATHERED = ["select count(*), pg_sleep(1800) from t", "select (select count(*) from t), pg_sleep(1800)"]
#: The shard has nothing to do, because the answer is on its way, or because the next step is.
STEPS = [("CREATE TEMP TABLE", Fault.HOLD_ANSWER), ("COPY pg_temp", Fault.HOLD_MESSAGE)]


@pytest.fixture(scope="module")
def wires(make_module_databases: MakeDatabases) -> Iterator[Wires]:
    with Wires(make_module_databases(2, "lost")) as made:
        yield made


@pytest.fixture(scope="module")
def dsn(wires: Wires, start_module_proxy: StartProxy) -> str:
    """A proxy with a single link to each shard."""
    process = start_module_proxy(wires.dsns, {"t": {"key": "k"}}, limits={"pool": {"size": 1, "wait_timeout_s": 1800}})
    dsn = process.dsn(wires.dsns[0].rpartition("/")[2])
    with closing(WireClient(dsn)) as client:
        client.query("create table t (k int8 primary key, v int8)")
        client.query("insert into t select g, g from generate_series(1, 20) g")
    return dsn


def cancelled(client: WireClient) -> object:
    """Read an answer that must be of a statement that was cancelled; return its end."""
    trace = client.read()
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["57014"]
    return trace[-1]


@pytest.mark.parametrize("text", GATHERED)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("block", [False, True])
def test_between_the_steps_of_a_gathered_statement(
    wires: Wires, dsn: str, text: str, step: tuple[str, Fault], *, block: bool
) -> None:
    with closing(WireClient(dsn)) as client:
        if block:
            client.query("begin")
        rule = wires.rule(*step)
        client.send(Query(text.encode()))
        rule.wait()
        client.cancel()
        rule.release()
        assert cancelled(client) == ("ready", "E" if block else "I")
        client.query("rollback")
        assert client.rows("select count(*) from t") == [("20",)]
    wires.calm()


@pytest.mark.parametrize("text", ["select count(*) from t", "select v from t where k = 1", "update t set v = 0"])
def test_while_it_waits_for_a_link(dsn: str, text: str) -> None:
    """By either road: one that takes the lane, and those that do not."""
    with closing(WireClient(dsn)) as other, closing(WireClient(dsn)) as client:
        other.query("begin; select count(*) from t")
        client.send(Query(text.encode()))
        client.cancel()
        assert cancelled(client) == ("ready", "I")
        assert other.query("commit")[-1] == ("ready", "I")
        assert client.rows("select count(*) from t") == [("20",)]
