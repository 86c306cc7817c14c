"""`pgchorus demo` as a newcomer runs it: a process, its output, a psql that connects, and nothing left at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.config import load
from proxy.demo import shop
from proxy.demo.embedded import EmbeddedServer, free_port, port_is_free
from router.sharding import slot_of
from watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

READY_SECONDS = 60
STOP_SECONDS = 60


class Demo:
    """One `pgchorus demo`; `lines` is what it printed so far."""

    def __init__(self, *arguments: str) -> None:
        self.lines: list[str] = []
        self.ready = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "--log-level", "warning", "demo", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._watch = Watch(self._process.pid)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip("\n"))
                if line.startswith("pgchorus: ready"):
                    self.ready.set()
        self.ready.set()

    def wait_ready(self) -> Demo:
        assert self.ready.wait(READY_SECONDS)
        assert any(line.startswith("pgchorus: ready") for line in self.lines), self.text
        return self

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def end(self, how: signal.Signals = signal.SIGINT) -> int:
        if self._process.poll() is None:
            self._process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        try:
            return self._process.wait(STOP_SECONDS)
        finally:
            self._process.kill()
            self._watch.end()
            self._reader.join()


class Demos:
    """Starts demos and ends what a failed test leaves behind."""

    def __init__(self) -> None:
        self._all: list[Demo] = []

    def __call__(self, *arguments: str) -> Demo:
        demo = Demo(*arguments)
        self._all.append(demo)
        return demo

    def end(self) -> None:
        for demo in self._all:
            demo.end(signal.SIGTERM)


@pytest.fixture
def demos() -> Iterator[Demos]:
    started = Demos()
    yield started
    started.end()


def postmasters(directory: Path) -> list[int]:
    return [int(file.read_text().split()[0]) for file in sorted(directory.glob("s*/postmaster.pid"))]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_demo_from_start_to_ctrl_c_twice(tmp_path: Path, servers: list[EmbeddedServer], demos: Demos) -> None:
    data = tmp_path / "data"
    port = free_port()
    demo = demos("--data", str(data), "--port", str(port)).wait_ready()
    assert f"pgchorus: ready on 127.0.0.1:{port}" in demo.lines
    pids = postmasters(data)
    assert len(pids) == 3

    config = load(data / "pgchorus.yaml")
    assert len(config.databases["postgres"].dsns) == 3
    database = config.cluster.databases["postgres"]
    one, two = (database.shard_of_slot(slot_of("int8", key, database.slots)) for key in (1, 2))
    assert one != two, "the transaction worth trying should be a distributed one"

    url = f"postgres://postgres@127.0.0.1:{port}/postgres"
    psql = [servers[0].program("psql"), "--no-psqlrc", "--csv", "-v", "ON_ERROR_STOP=1", url]
    give_up = time.monotonic() + STOP_SECONDS
    while "Ctrl-C stops everything." not in demo.lines:  # the last line of what it says
        assert time.monotonic() < give_up, demo.text
        time.sleep(0.01)
    assert any(line.endswith(f"psql {url}") for line in demo.lines)
    for what, query in shop.TO_TRY:
        assert f"    -- {what}" in demo.lines
        assert query in demo.text
        done = subprocess.run([*psql, "-c", query], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) > 2
    with psycopg.connect(url) as connection:
        counts = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            for table in ("countries", "customers", "orders", "order_items")
        ]
        assert counts == [
            (len(shop.COUNTRIES),),
            (shop.CUSTOMERS,),
            (len(list(shop._orders())),),
            (len(list(shop._items())),),
        ]
    metrics = next(line.removeprefix("Metrics: ") for line in demo.lines if line.startswith("Metrics: "))
    with urllib.request.urlopen(metrics) as answer:
        assert b"pgchorus_commits_total" in answer.read()

    assert demo.end() == 0
    assert demo.lines[-1] == "stopping"
    assert not any(map(is_alive, pids)), "servers were left behind"
    assert all(server.running for server in servers), "servers of others were stopped"

    again = demos("--data", str(data), "--port", str(port)).wait_ready()
    assert "loading" not in again.text
    assert load(data / "pgchorus.yaml").databases == config.databases, "the shards' ports should stay"
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT sum(credit) FROM customers WHERE customer_id IN (1, 2)").fetchone()
    assert row is not None
    assert str(row[0]) == "111.39", "the transfer of the first run moved credit and made none"
    assert again.end(signal.SIGTERM) == 0


def test_servers_only_and_a_proxy_served_on_their_configuration(tmp_path: Path, demos: Demos) -> None:
    data = tmp_path / "data"
    port = free_port()
    demo = demos("--data", str(data), "--port", str(port), "--shards", "2", "--shards-only").wait_ready()
    assert port_is_free(port), "no proxy was asked for"
    serve = subprocess.Popen(
        [sys.executable, "-m", "proxy", "--log-level", "warning", "serve", "-c", str(data / "pgchorus.yaml")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert serve.stdout is not None
    with Watch(serve.pid), serve.stdout as lines:
        assert lines.readline() == f"pgchorus: ready on 127.0.0.1:{port}\n"
        with psycopg.connect(f"postgres://postgres@127.0.0.1:{port}/postgres") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(STOP_SECONDS) == 0
    pids = postmasters(data)
    assert len(pids) == 2
    second = demos("--data", str(data), "--shards-only")
    assert second.wait() == 1
    assert f"pgchorus demo: another demo runs in {data}" in second.lines
    assert demo.end() == 0
    assert not any(map(is_alive, pids))
    other = demos("--data", str(data), "--shards", "4", "--shards-only")
    assert other.wait() == 1
    assert "has the data of 2 shards, not 4" in other.text


def test_tables_of_a_file_instead_of_the_shop(tmp_path: Path, demos: Demos) -> None:
    tables = tmp_path / "tables.yaml"
    tables.write_text("tables: {notes: {key: author}, kinds: reference}\nslots: 16\n")
    data = tmp_path / "data"
    port = free_port()
    demo = demos("--data", str(data), "--port", str(port), "--config", str(tables), "--shards", "2").wait_ready()
    url = f"postgres://postgres@127.0.0.1:{port}/postgres"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE notes (author text PRIMARY KEY)")
        connection.execute("INSERT INTO notes SELECT 'a'")
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT FROM customers")
    assert load(data / "pgchorus.yaml").cluster.databases["postgres"].slots == 16
    assert demo.end() == 0


def test_without_a_directory_nothing_stays(tmp_path: Path, demos: Demos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    demo = demos("--shards", "1", "--shards-only").wait_ready()
    assert len(list(tmp_path.iterdir())) == 1
    assert demo.end() == 0
    assert list(tmp_path.iterdir()) == []


def test_mistakes_stop_it_before_anything_is_started(
    tmp_path: Path, servers: list[EmbeddedServer], demos: Demos
) -> None:
    taken = demos("--data", str(tmp_path / "a"), "--port", str(servers[0].port))
    assert taken.wait() == 1
    assert f"pgchorus demo: port {servers[0].port} is taken; choose another one: --port P" in taken.lines
    tables = tmp_path / "tables.yaml"
    tables.write_text("tables: {a: [1]}\n")
    wrong = demos("--data", str(tmp_path / "b"), "--config", str(tables))
    assert wrong.wait() == 2
    assert f"{tables}:1: tables.a: is a list" in wrong.text
    none = demos("--data", str(tmp_path / "c"), "--shards", "-1", "--shards-only")
    assert none.wait() == 1
    assert "from 1 up" in none.text
    assert list(tmp_path.glob("*/s*/PG_VERSION")) == []


def test_the_shop_is_the_same_every_time_and_its_rows_fit_together() -> None:
    assert shop.script() == shop.script()
    customers = {row[0] for row in shop._customers()}
    orders = {row[:2] for row in shop._orders()}
    assert {customer for customer, _ in orders} <= customers
    assert {row[:2] for row in shop._items()} == orders
    assert {row[2] for row in shop._customers()} == set(shop.COUNTRIES), "a country without customers"
