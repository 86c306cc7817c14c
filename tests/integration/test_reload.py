"""SIGHUP: users, rules and certificates are read again, and nobody who is in notices."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml

from proxy.wire.frames import frame
from proxy.wire.startup import StartupMessage
from waiting import eventually
from wire_client import WireClient

if TYPE_CHECKING:
    from proxy_process import ProxyProcess
    from tests.conftest import MakeDatabases, StartProxy

FILES = Path(__file__).parents[1] / "support" / "tls"


class House:
    """A proxy whose configuration changes."""

    def __init__(self, process: ProxyProcess, database: str) -> None:
        self.process = process
        self.database = database

    def change(self, **sections: Any) -> None:
        content = yaml.safe_load(self.process.config.read_text())
        self.process.config.write_text(yaml.safe_dump({**content, **sections}))

    def reload(self, expected: str) -> str:
        """Send SIGHUP; return what the log says when `expected` is in it."""
        before = len(self.process.log.read_text())
        os.kill(self.process.pid, signal.SIGHUP)
        eventually(lambda: expected in self.process.log.read_text()[before:], f"the log never said: {expected}")
        return self.process.log.read_text()[before:]

    def connect(self, password: str, **more: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.process.port,
            dbname=self.database,
            user="postgres",
            password=password,
            autocommit=True,
            **{"sslmode": "disable", **more},
        )

    def refused(self, password: str, **more: Any) -> str:
        with pytest.raises(psycopg.OperationalError) as caught:
            self.connect(password, **more)
        return str(caught.value)


@pytest.fixture
def house(make_databases: MakeDatabases, start_proxy: StartProxy, tmp_path: Path) -> House:
    shards = make_databases(1, "reload")
    (tmp_path / "password").write_text("one\n")
    auth = {"method": "scram-sha-256", "shards": "trust", "users": {"postgres": f"file:{tmp_path / 'password'}"}}
    return House(start_proxy(shards, {}, auth=auth), shards[0].rpartition("/")[2])


def auth_of(password: str, **more: Any) -> dict[str, Any]:
    return {"method": "scram-sha-256", "shards": "trust", "users": {"postgres": password}, **more}


def test_users_and_rules_are_renewed_and_sessions_stay(house: House, tmp_path: Path) -> None:
    with house.connect("one") as stays:
        (tmp_path / "password").write_text("two\n")
        assert "password authentication failed" in house.refused("two"), "nothing changes before SIGHUP"
        house.reload("users, rules and certificate reloaded")
        house.connect("two").close()
        assert "password authentication failed" in house.refused("one")
        rules = {"nobody": {"method": "reject", "networks": "127.0.0.0/8"}}
        house.change(auth=auth_of("three", rules=rules))
        house.reload("users, rules and certificate reloaded")
        assert "rejects connection" in house.refused("three")
        assert stays.execute("select 1").fetchone() == (1,)
        house.change(auth=auth_of("four", rules={}), limits={"merge": {"max_rows": 7}})
        assert "sections=limits" in house.reload("other changes wait for a restart")
        house.connect("four").close()
        assert stays.execute("select 1").fetchone() == (1,)


def salt_of(dsn: str, user: str) -> str:
    """Ask for the challenge of SCRAM, and go away."""
    first = b"SCRAM-SHA-256\0" + len(b"n,,n=,r=mine").to_bytes(4) + b"n,,n=,r=mine"
    with closing(WireClient(dsn, log_in=False, user=user)) as client:
        client.send(StartupMessage(3, 0, client.startup).encode())
        client.frames(b"R".__contains__)
        client.send(frame(b"p", first))
        challenge = client.frames(b"R".__contains__)[-1][1][4:].decode()
    return dict(part.split("=", 1) for part in challenge.split(","))["s"]


def test_salts_agree_between_proxies_and_hang_on_no_password(
    make_databases: MakeDatabases, start_proxy: StartProxy
) -> None:
    """Somebody who does not exist has the same one everywhere, as one who does; and nobody can try guesses by it."""
    shards = make_databases(2, "salts")
    users = ("nobody", "postgres")
    found = []
    for password in ("one", "two"):
        process = start_proxy(shards, {}, auth=auth_of(password))
        found.append([salt_of(process.dsn(shards[0].rpartition("/")[2]), user) for user in users])
    assert found[0] == found[1]
    assert len(set(found[0])) == 2


@pytest.mark.parametrize("mistake", ["no yaml", "an unknown key", "no file", "no certificate", "a missing password"])
def test_a_bad_file_changes_nothing(house: House, mistake: str) -> None:
    good = house.process.config.read_text()
    if mistake == "no yaml":
        house.process.config.write_text(good + "\nauth: [")
    elif mistake == "an unknown key":
        house.change(auth=auth_of("two", metod="md5"))
    elif mistake == "no file":
        house.process.config.unlink()
    elif mistake == "no certificate":
        house.change(auth=auth_of("two"), tls={"certificate": "nowhere.crt"})
    else:
        house.change(auth=auth_of("file:nowhere"))
    house.reload("not reloaded, all stays as it was")
    house.connect("one").close()
    assert "password authentication failed" in house.refused("two")
    house.process.config.write_text(good)
    house.change(auth=auth_of("three"))
    house.reload("users, rules and certificate reloaded")
    house.connect("three").close()


def test_tls_comes_and_goes(house: House, tmp_path: Path) -> None:
    assert "does not support SSL" in house.refused("one", sslmode="require")
    for name in ("server.crt", "server.key"):
        shutil.copy(FILES / name, tmp_path / name)
    rules = {"plain": {"method": "reject", "connection": "plain"}}
    tls = {"certificate": str(tmp_path / "server.crt"), "key": str(tmp_path / "server.key")}
    house.change(auth=auth_of("one", rules=rules), tls=tls)
    house.reload("users, rules and certificate reloaded")
    root = str(FILES / "ca.crt")
    with house.connect("one", sslmode="verify-full", sslrootcert=root, channel_binding="require") as secure:
        assert "rejects connection" in house.refused("one")
        house.change(auth=auth_of("one"), tls=None)
        house.reload("users, rules and certificate reloaded")
        assert secure.execute("select 1").fetchone() == (1,)
        house.connect("one").close()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_the_log_is_renewed_and_has_a_line_for_what_matters_without_values(house: House) -> None:
    log = {"level": "info", "format": "json", "slow_ms": 5, "connections": "on", "errors": "on"}
    before = len(house.process.log.read_text())
    house.change(log=log)
    house.reload("users, rules and certificate reloaded")
    with house.connect("one", application_name="secret") as client:
        client.execute("select pg_sleep(0.02), 'secret'", prepare=False)
        for _ in range(3):  # on the long road, then on the lane
            with pytest.raises(psycopg.errors.InvalidTextRepresentation):
                client.execute("select 'secret'::int", prepare=False)
        house.change(log={**log, "connections": "off", "errors": "off", "slow_ms": 1000, "level": "warning"})
        house.reload("")
        eventually(lambda: not slow(client, house), "statements that are not slow any more are still logged")
        said = house.process.log.read_text()[before:]
    found = lines(said)
    (login,) = (line for line in found if line["event"] == "client logged in")
    assert (login["user"], login["database"]) == ("postgres", house.database)
    first = next(line for line in found if line["event"] == "slow statement")
    assert (first["statement"], first["tier"], first["client"]) == (
        "select pg_sleep($1), $2",
        "one shard",
        login["client"],
    )
    assert first["ms"] >= 20
    errors = [line for line in found if line["event"] == "error"]
    assert [(line["sqlstate"], line["statement"]) for line in errors] == [("22P02", "select $1::int")] * 3
    assert "secret" not in said


def slow(client: psycopg.Connection[Any], house: House) -> bool:
    """Run a slow statement, and see whether it is logged; the line stands there before the answer comes."""
    before = len(house.process.log.read_text())
    client.execute("select pg_sleep(0.02)", prepare=False)
    return "slow statement" in house.process.log.read_text()[before:]


def test_the_sizes_of_pools_are_renewed_and_what_waits_for_a_restart_is_named(house: House) -> None:
    """With pools of one link, two blocks at a time wait for each other; then there is room."""
    house.change(limits={"pool": {"size": 1, "extra": 1, "wait_timeout_s": 0.3}})
    house.reload("users, rules and certificate reloaded")
    with house.connect("one") as first, house.connect("one") as second:
        first.execute("BEGIN; SELECT 1")
        with pytest.raises(psycopg.OperationalError) as caught:
            second.execute("SELECT 1")
        assert caught.value.sqlstate == "53300"
        limits = {"pool": {"size": 2, "extra": 1}, "clients": {"max": 2}, "merge": {"max_rows": 7}}
        house.change(limits=limits)
        said = house.reload("other changes wait for a restart")
        assert "sections=limits" in said
        assert second.execute("SELECT 1").fetchone() == (1,)
        assert "too many clients" in house.refused("one")
        first.execute("COMMIT")
