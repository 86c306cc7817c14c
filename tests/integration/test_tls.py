"""TLS towards clients, and the ways to prove who one is: with libpq's and asyncpg's own words for them.

The certificates of tests/support/tls: `ca` signs `server` and `renewed` (localhost, 127.0.0.1), `clients` signs `app`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from databases import create_databases, drop_databases
from proxy.wire.scram import Verifier
from proxy.wire.startup import SSLRequest, StartupMessage
from waiting import eventually
from wire_client import PATIENCE_SECONDS, WireClient, connected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.demo.embedded import EmbeddedServer
    from proxy_process import ProxyProcess
    from tests.conftest import StartProxy

FILES = Path(__file__).parents[1] / "support" / "tls"
ROOT = str(FILES / "ca.crt")
PASSWORD = "right 'one'"  # noqa: S105 - of test users
RULES = {
    "by certificate": {"method": "cert", "connection": "tls", "users": "app, other"},
    "clear": {"method": "password", "users": "clear"},
    "nobody": {"method": "reject", "users": "banned"},
    "elsewhere": {"method": "reject", "networks": "192.0.2.0/24"},
    "plain": {"method": "trust", "connection": "plain", "databases": "pgchorus"},
}
TLS = {"certificate": "server.crt", "key": "server.key", "client_ca": "clients.crt"}
SLEEPING = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
ROLES = ("app", "other", "old", "clear", "verified", "banned", "scrammed")


class House:
    """A proxy with TLS, its own copy of the certificates, and the database behind it."""

    def __init__(self, process: ProxyProcess, files: Path, shard: str) -> None:
        database = shard.rpartition("/")[2]
        self.shard = shard
        self.process = process
        self.files = files
        self.database = database
        self.dsn = process.dsn(database)

    def connect(self, user: str = "scrammed", **more: Any) -> psycopg.Connection[Any]:
        given = {"password": PASSWORD, "sslmode": "verify-full", "sslrootcert": ROOT, **more}
        return psycopg.connect(
            host="127.0.0.1", port=self.process.port, dbname=self.database, user=user, autocommit=True, **given
        )

    @property
    def certificate(self) -> dict[str, str]:
        """What a client says to show the certificate of `app`."""
        return {"sslcert": str(self.files / "app.crt"), "sslkey": str(self.files / "app.key")}

    def refused(self, user: str = "scrammed", **more: Any) -> str:
        with pytest.raises(psycopg.OperationalError) as caught:
            self.connect(user, **more)
        return str(caught.value)


@pytest.fixture(scope="module")
def house(
    servers: list[EmbeddedServer], start_module_proxy: StartProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    files = tmp_path_factory.mktemp("tls")
    for name in ("server.crt", "server.key", "clients.crt", "app.crt", "app.key"):
        shutil.copy(FILES / name, files / name)
    (files / "app.key").chmod(0o600)  # or libpq does not take it
    shards = create_databases(servers[:1], "tls")
    with psycopg.connect(shards[0], autocommit=True) as connection:
        for role in ROLES:
            connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    process = start_module_proxy(
        shards,
        {},
        tls={name: str(files / file) for name, file in TLS.items()},
        auth={
            "method": "scram-sha-256",
            "shards": "trust",
            "users": dict.fromkeys(ROLES, PASSWORD),
            "rules": RULES,
        },
    )
    yield House(process, files, shards[0])
    process.kill()
    with psycopg.connect(servers[0].dsn(), autocommit=True) as connection:
        drop_databases(servers[:1], "tls")
        for role in ROLES:
            connection.execute(f"DROP ROLE {role}".encode())


# ---- TLS ----


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_libpq_verifies_and_binds_the_channel(house: House, negotiation: str) -> None:
    with house.connect(sslnegotiation=negotiation, channel_binding="require") as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("select current_user").fetchone() == ("scrammed",)
        (long,) = connection.execute("select repeat('x', 3000000)").fetchone() or ("",)
        assert len(long) == 3_000_000
        assert connection.execute("select length(%s::text)", ["y" * 3_000_000]).fetchone() == (3_000_000,)
        with connection.cursor().copy("COPY (SELECT generate_series(1, 20000)) TO STDOUT") as copy:
            assert sum(1 for _ in copy.rows()) == 20_000


async def test_asyncpg(house: House) -> None:
    context = ssl.create_default_context(cafile=ROOT)
    context.set_alpn_protocols(["postgresql"])
    for direct in (False, True):
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=house.process.port,
            database=house.database,
            user="scrammed",
            password=PASSWORD,
            ssl=context,
            direct_tls=direct,
        )
        assert await connection.fetchval("select 7") == 7
        await connection.close()


def test_who_does_not_ask_speaks_plain(house: House) -> None:
    with house.connect(sslmode="disable") as connection:
        assert not connection.pgconn.ssl_in_use


def test_a_certificate_of_somebody_else_is_seen_by_the_client(house: House) -> None:
    assert "certificate verify failed" in house.refused(sslrootcert=str(FILES / "clients.crt"))


def test_direct_negotiation_needs_the_protocols_name(house: House) -> None:
    context = ssl.create_default_context(cafile=ROOT)
    with (
        socket.create_connection(("127.0.0.1", house.process.port), PATIENCE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(StartupMessage(3, 0, {"user": "scrammed"}).encode())
        assert b"08P01" in tls.recv(1000)


def test_nothing_may_come_with_the_request_for_tls(house: House) -> None:
    """What was sent in clear before TLS could be somebody else's (CVE-2021-23214)."""
    with closing(WireClient(house.dsn, log_in=False)) as client:
        client.send(SSLRequest(), StartupMessage(3, 0, client.startup))
        assert client.socket.recv(1) == b"S"
        (error,) = client.read_to_end()
        assert (error[1]["S"], error[1]["C"]) == ("FATAL", "08P01")


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x00\x05hello", b"\x16", b"\x16" + b"\xff" * 300])
def test_what_is_no_handshake_ends_the_connection(house: House, data: bytes) -> None:
    for first in (b"", SSLRequest().encode()):
        with socket.create_connection(("127.0.0.1", house.process.port), PATIENCE_SECONDS) as client:
            client.sendall(first)
            if first:
                assert client.recv(1) == b"S"
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(1000):
                pass
    house.connect().close()


def test_a_renewed_certificate_is_used_without_being_told(house: House) -> None:
    def served() -> str:
        context = ssl.create_default_context(cafile=ROOT)
        context.set_alpn_protocols(["postgresql"])
        with (
            socket.create_connection(("127.0.0.1", house.process.port), PATIENCE_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            return str((tls.getpeercert() or {})["serialNumber"])

    with house.connect() as stays:
        before = served()
        (house.files / "server.crt").write_text("half a certific")
        assert served() == before, "one that is no good must not replace one that is"
        shutil.copy(FILES / "renewed.key", house.files / "server.key")
        shutil.copy(FILES / "renewed.crt", house.files / "server.crt")
        assert served() != before
        assert stays.execute("select 1").fetchone() == (1,)
    house.connect(channel_binding="require").close()  # bound by SHA-384 now, as its signature is
    os.kill(house.process.pid, signal.SIGHUP)
    house.connect().close()


def test_a_certificate_that_nothing_can_be_bound_to(house: House, start_proxy: StartProxy) -> None:
    tls = {"certificate": str(FILES / "ed448.crt"), "key": str(FILES / "ed448.key")}
    auth = {"method": "scram-sha-256", "shards": "trust", "users": {"scrammed": PASSWORD}}
    process = start_proxy([house.shard], {}, tls=tls, auth=auth)
    where = {"host": "127.0.0.1", "port": process.port, "dbname": house.database, "user": "scrammed"}
    given = {"password": PASSWORD, "sslmode": "verify-full", "sslrootcert": str(FILES / "ed448.crt")}
    with psycopg.connect(**where, **given) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        psycopg.connect(**where, **given, channel_binding="require")


def test_cancel_over_tls(house: House) -> None:
    with house.connect() as connection, psycopg.connect(house.shard, autocommit=True) as watch:
        connection.pgconn.send_query(b"select pg_sleep(30)")
        eventually(lambda: watch.execute(SLEEPING).fetchall())
        connection.cancel_safe(timeout=PATIENCE_SECONDS)
        result = connection.pgconn.get_result()
        assert result is not None
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
        assert connection.pgconn.get_result() is None


# ---- who may enter ----


def test_client_certificates(house: House) -> None:
    with house.connect("app", password="", **house.certificate) as connection:
        assert connection.execute("select current_user").fetchone() == ("app",)
    assert 'certificate authentication failed for user "other"' in house.refused("other", **house.certificate)
    assert "requires a valid client certificate" in house.refused("app")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_tickets_to_resume_sessions_with(house: House, version: ssl.TLSVersion) -> None:
    """As in Postgres: who resumes one shows no certificate again, and it may have expired."""
    context = ssl.create_default_context(cafile=ROOT)
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", house.process.port), PATIENCE_SECONDS) as plain:
        plain.sendall(SSLRequest().encode())
        assert plain.recv(1) == b"S"
        with context.wrap_socket(plain, server_hostname="localhost") as secured:
            secured.sendall(StartupMessage(3, 0, {"user": "scrammed", "database": house.database}).encode())
            assert secured.recv(1) == b"R"  # what the server has of its own to say has come before
            assert secured.session is None or not secured.session.has_ticket


@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_clear_passwords(house: House, sslmode: str) -> None:
    with house.connect("clear", sslmode=sslmode, require_auth="password") as connection:
        assert connection.execute("select current_user").fetchone() == ("clear",)
    said = house.refused("clear", password="wrong", sslmode=sslmode)
    assert 'password authentication failed for user "clear"' in said


def test_rejected(house: House) -> None:
    assert 'pgchorus rejects connection for host "127.0.0.1", user "banned"' in house.refused("banned")


def test_a_wrong_password_and_an_unknown_user_sound_the_same(house: House) -> None:
    said = {house.refused(user, password="wrong").replace(user, "USER") for user in ("scrammed", "nobody_at_all")}
    assert len(said) == 1, said


def test_md5_and_verifiers(house: House, start_proxy: StartProxy) -> None:
    shards = [house.shard]
    verifier = Verifier.of_password(PASSWORD, b"0123456789abcdef").format()
    old = start_proxy(shards, {}, auth={"method": "md5", "users": {"old": PASSWORD}})
    where = {"host": "127.0.0.1", "dbname": "tls", "sslmode": "disable"}
    with psycopg.connect(user="old", password=PASSWORD, port=old.port, require_auth="md5", **where) as connection:
        assert connection.execute("select current_user").fetchone() == ("old",)
    for user in ("old", "clear"):
        with pytest.raises(psycopg.OperationalError, match=f'password authentication failed for user "{user}"'):
            psycopg.connect(user=user, password="wrong", port=old.port, **where)
    auth = {"method": "scram-sha-256", "shards": "trust", "users": {"verified": verifier}}
    auth["rules"] = {"clear": {"method": "password", "networks": "127.0.0.1, ::1"}}
    mixed = start_proxy(shards, {}, auth=auth)
    with psycopg.connect(user="verified", password=PASSWORD, port=mixed.port, require_auth="password", **where):
        pass
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(user="verified", password="wrong", port=mixed.port, **where)


def test_who_never_logs_in_is_shown_out(house: House, start_proxy: StartProxy) -> None:
    hurried = start_proxy([house.shard], {}, limits={"login": {"timeout_s": 0.3}})
    silent = WireClient(hurried.dsn("tls"), log_in=False)
    with closing(silent):
        assert [entry[1]["C"] for entry in silent.read_to_end()] == ["57014"]
    with connected(hurried.dsn("tls")) as client:  # who has entered may stay as long as he likes
        assert client.rows("select pg_sleep(0.5), 1")[0][1] == "1"
