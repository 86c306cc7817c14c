"""A proxy that systemd started: its sockets, and what it is told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from structlog.testing import capture_logs

from proxy import systemd
from proxy_process import ProxyProcess, write_config
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDatabases

# What systemd does between fork and exec: the socket becomes descriptor 3, and the process is told its own number.
AS_SYSTEMD = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
AS_SYSTEMD += "os.execv(sys.executable, [sys.executable, '-m', 'proxy', 'serve', '-c', sys.argv[2]])"


@pytest.fixture
def notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield heard


def test_nothing_is_passed_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert systemd.listening_sockets({}) == []
    assert systemd.listening_sockets({"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}) == []
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.ready()


def test_what_is_said(notices: socket.socket) -> None:
    systemd.ready()
    systemd.reloading()
    systemd.stopping()
    assert notices.recv(1000) == b"READY=1"
    assert notices.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert notices.recv(1000) == b"STOPPING=1"


def test_how_often_the_watchdog_is_fed() -> None:
    own = str(os.getpid())
    assert systemd.watchdog_s({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": own}) == 1.5
    assert systemd.watchdog_s({"WATCHDOG_USEC": "3000000"}) == 1.5
    assert systemd.watchdog_s({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": f"{own}0"}) == 0.0, "it is another's"
    assert systemd.watchdog_s({}) == 0.0


def test_nobody_has_to_hear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with capture_logs() as said:
        systemd.stopping()
    assert [entry["state"] for entry in said] == ["STOPPING=1"]


def test_who_hears_and_does_not_read_keeps_nobody(notices: socket.socket) -> None:
    with capture_logs() as said:
        while not said:
            systemd.ready()  # until the queue is full
    assert notices.recv(1000) == b"READY=1"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_proxy_serves_reloads_and_ends_where_nobody_hears(
    notices: socket.socket,
    make_databases: MakeDatabases,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    shards = make_databases(1, "u")
    database = shards[0].rpartition("/")[2]
    config = write_config(tmp_path / "pgchorus.yaml", {database: shards}, workers=workers)
    monkeypatch.setattr(ProxyProcess, "start_from", None)  # that one has the environment of the tests' start
    proxy = ProxyProcess(config)
    with closing(proxy):
        proxy.start()
        assert notices.recv(1000) == b"READY=1"
        Path(notices.getsockname()).unlink()
        os.kill(proxy.pid, signal.SIGHUP)
        eventually(lambda: proxy.log.read_text().count("systemd was not told") == 2, "RELOADING, and READY")
        with psycopg.connect(proxy.dsn(database), connect_timeout=30) as client:
            assert client.execute("select 1").fetchone() == (1,)
        assert proxy.stop() == 0


def test_no_client_is_refused_while_the_proxy_restarts(
    notices: socket.socket, make_databases: MakeDatabases, tmp_path: Path
) -> None:
    shards = make_databases(1, "d")
    database = shards[0].rpartition("/")[2]
    config = write_config(tmp_path / "pgchorus.yaml", {database: shards})
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        port = listening.getsockname()[1]
        dsn = f"postgres://postgres@127.0.0.1:{port}/{database}"

        def start() -> subprocess.Popen[bytes]:
            environment = dict(os.environ, LISTEN_FDS="1", WATCHDOG_USEC="100000000")
            arguments = [sys.executable, "-c", AS_SYSTEMD, str(listening.fileno()), str(config)]
            return subprocess.Popen(
                arguments, pass_fds=[listening.fileno()], env=environment, stdout=subprocess.DEVNULL
            )

        def answers() -> bool:
            with psycopg.connect(dsn, connect_timeout=30) as client:
                return client.execute("select 1").fetchone() == (1,)

        first = start()
        try:
            assert notices.recv(1000) == b"READY=1"
            assert notices.recv(1000) == b"WATCHDOG=1"
            assert answers()
        finally:
            first.terminate()
            assert first.wait(30) == 0
        assert notices.recv(1000) == b"STOPPING=1"
        waiting: list[bool] = []
        client = threading.Thread(target=lambda: waiting.append(answers()))
        client.start()  # nobody accepts now
        second = start()
        try:
            client.join(30)
            assert waiting == [True]
        finally:
            second.terminate()
            assert second.wait(30) == 0
