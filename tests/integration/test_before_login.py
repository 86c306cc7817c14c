"""What clients get, and can make the proxy do, before they have proved who they are."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config_values import MAX_IDENTIFIER_BYTES
from proxy.wire.frames import frame
from proxy.wire.startup import StartupMessage
from waiting import eventually
from wire_client import WireClient, sqlstates

if TYPE_CHECKING:
    from proxy_process import ProxyProcess
    from tests.conftest import MakeDatabases, StartProxy

MEBIBYTE = 1 << 20
METHODS = {"scram-sha-256": "SASL", "md5": "password", "password": "password"}
USERS = {"app": "sommer2024", "postgres": "winter2025"}


def asked(proxy: ProxyProcess, database: str, user: str = "nobody_at_all") -> WireClient:
    """Return a client that has been asked for its password."""
    client = WireClient(proxy.dsn(database, user=user), log_in=False)
    client.send(StartupMessage(3, 0, client.startup))
    client.read("R")
    return client


def made(make_databases: MakeDatabases, start_proxy: StartProxy, **auth: Any) -> tuple[ProxyProcess, str]:
    shards = make_databases(1, "door")
    auth = {"method": "scram-sha-256", "users": USERS, "shards": "trust", **auth}
    return start_proxy(shards, {}, auth=auth), shards[0].rpartition("/")[2]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_held_for_who_has_proved_nothing(
    make_databases: MakeDatabases, start_proxy: StartProxy, method: str
) -> None:
    proxy, database = made(make_databases, start_proxy, method=method)
    resident = Path(f"/proc/{proxy.pid}/statm")
    before = int(resident.read_text().split()[1]) * 4096
    for kind in b"QPBFdXSz":
        with closing(asked(proxy, database)) as client:
            client.socket.sendall(bytes((kind,)))
            (error,) = (entry[1] for entry in client.read_to_end() if entry[0] == "error")
            assert error == {
                "S": "FATAL",
                "C": "08P01",
                "M": f"expected {METHODS[method]} response, got message type {kind}",
            }
    with closing(asked(proxy, database)) as client:
        client.socket.sendall(b"p" + (1 << 20).to_bytes(4, "big"))
        assert "invalid message length" in str(client.read_to_end())
    with closing(asked(proxy, database)) as client, suppress(ConnectionError):
        client.socket.sendall(b"p" + (65_535).to_bytes(4, "big"))
        while True:  # until the proxy has closed the connection
            client.socket.sendall(bytes(MEBIBYTE))
    eventually(lambda: int(resident.read_text().split()[1]) * 4096 - before < 8 * MEBIBYTE)


def test_what_comes_with_the_proof_is_taken_after_it(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    proxy, database = made(make_databases, start_proxy, method="password")
    long = b"select " + b" " * (2 * MEBIBYTE) + b"1\0"
    with closing(asked(proxy, database, "postgres")) as client:
        client.send(frame(b"p", b"winter2025\0"), frame(b"Q", long), frame(b"Q", b"select 2\0"))
        rows = [entry[1] for _ in range(3) for entry in client.read() if entry[0] == "row"]
        assert rows == [[b"1"], [b"2"]]


def test_what_comes_with_the_first_packet_is_taken_after_it(
    make_databases: MakeDatabases, start_proxy: StartProxy
) -> None:
    proxy, database = made(make_databases, start_proxy, method="trust")
    with closing(WireClient(proxy.dsn(database), log_in=False)) as client:
        long = b"select " + b" " * (2 * MEBIBYTE) + b"1\0"
        client.send(StartupMessage(3, 0, client.startup), frame(b"Q", long), frame(b"Q", b"select 2\0"))
        rows = [entry[1] for _ in range(3) for entry in client.read() if entry[0] == "row"]
        assert rows == [[b"1"], [b"2"]]


def test_names_are_cut_before_anybody_looks_at_them(make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    """As in Postgres: who adds a letter to a long name is the same role, by the same rules."""
    role = "r" * MAX_IDENTIFIER_BYTES
    rules = {"those": {"method": "reject", "users": role}}
    proxy, database = made(make_databases, start_proxy, method="trust", rules=rules)
    with closing(WireClient(proxy.dsn(database))) as admin:
        assert not sqlstates(admin.query(f"create role {role} login"))
        assert not sqlstates(admin.query(f"create role {role[1:]}e login"))
        try:
            for name in (role, role + "x"):
                client = WireClient(proxy.dsn(database, user=name), log_in=False)
                client.send(StartupMessage(3, 0, client.startup))
                assert "rejects" in str(client.read_to_end())
                client.close()
            for name in (f"{role[1:]}\u00e9", f"{role[1:]}ex"):
                client = WireClient(proxy.dsn(database), log_in=False)
                client.startup["user"] = name
                client.send(StartupMessage(3, 0, client.startup))
                trace = client.read("ZE")
                assert trace[-1] == ("ready", "I") if name.endswith("x") else "does not exist" in str(trace[-1])
                client.close()
        finally:
            admin.query(f"drop role {role}, {role[1:]}e")
