"""One embedded PostgreSQL server: made, started, stopped, killed and started again. The demo and the tests use it.

How it is held:

- ``postgres`` is our own child process, in a session of its own, so that a Ctrl-C at the terminal reaches us and not
  it: we stop it, by its pid, when we are done, and nothing else.
- If we die without a word (SIGKILL), a shell that waits at a pipe of ours sees the end of it and asks the server to
  shut down. (A parent-death signal would not do: it fires when the starting *thread* ends.)
- TCP on 127.0.0.1 only, no Unix socket, ``trust``: every local user may connect. Demo and tests, never real data.
- As root the server runs as another account (``binaries``). It reaches its data directory through a file descriptor
  that we opened (``/proc/self/fd/N``), so the data may lie below a directory that this account could not enter.

Every server is made by an ``initdb`` of its own and never by copying a directory: copies share one system identifier,
and the proxy orders and tells servers apart by it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from typing import IO, TYPE_CHECKING, Self

from proxy.demo.binaries import EmbeddedError, find_installation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from proxy.demo.binaries import Installation

SUPERUSER = "postgres"
HOST = "127.0.0.1"
# Below the range that Linux takes the ports of outgoing connections from (32768 up): between stop and start nobody's
# outgoing connection can sit on our port.
PORTS = range(15_000, 30_000)
START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.005
LOG_LINES_SHOWN = 15

BASE_SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_prepared_transactions": "100",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# What a server gives up that need not survive a crash of the machine. Crashes of Postgres itself lose nothing by it.
VOLATILE_SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "10min",
}

WATCHER = 'cat >/dev/null; read -r pid 2>/dev/null <postmaster.pid && [ "$pid" = "$1" ] && kill -INT "$pid"'

ACCEPTS = {"ready", "standby"}  # what postmaster.pid says when connections are accepted, of a hot standby as well


def free_port(avoid: Sequence[int] = ()) -> int:
    """Return a TCP port of 127.0.0.1 on which nobody listens now. Processes start looking at different places."""
    first = os.getpid() * 97 % len(PORTS)
    for step in range(len(PORTS)):
        port = PORTS[(first + step) % len(PORTS)]
        if port not in avoid and port_is_free(port):
            return port
    msg = f"no free port between {PORTS.start} and {PORTS.stop - 1}"
    raise EmbeddedError(msg)


def port_is_free(port: int, host: str = HOST) -> bool:
    """Say whether a listener could be opened on a port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class EmbeddedServer:
    """One server and its data directory. Not running until ``start``; every method blocks until what it says is so.

    ``directory`` becomes the data directory; the log is beside it. ``port`` 0 finds a free one, kept over restarts.
    ``durable=False`` gives up what only a crash of the machine could need. ``settings`` go on the command line.
    ``installation``: other binaries than the embedded Postgres's.
    """

    def __init__(  # noqa: PLR0913 - what a server is made of
        self,
        directory: Path,
        *,
        name: str = "",
        port: int = 0,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
        installation: Installation | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.name = name or directory.name
        self.port = port
        self.log = self.directory.with_name(self.directory.name + ".log")
        self.durable = durable
        self.settings = {**BASE_SETTINGS, **({} if durable else VOLATILE_SETTINGS), **(settings or {})}
        self._installation = installation or find_installation()
        self._account = self._installation.account
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._any_port = port == 0

    def __repr__(self) -> str:
        return f"<EmbeddedServer {self.name} port={self.port} pid={self.pid}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The postmaster's pid, None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        """Whether the postmaster runs."""
        return self.pid is not None

    def dsn(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Return a DSN that libpq, psycopg and asyncpg read."""
        return f"postgres://{user}@{HOST}:{self.port}/{database}"

    def program(self, name: str) -> str:
        """Return the path of a binary (psql, pgbench, pg_dump ...) that fits this server."""
        return self._installation.program(name)

    # Making it

    def create(self) -> None:
        """Make the data directory unless it is there already."""
        create_all([self])

    @property
    def created(self) -> bool:
        """Whether the data directory is there and whole."""
        return (self.directory / "PG_VERSION").exists()

    def _unfinished(self) -> Path:
        return self.directory.with_name(self.directory.name + ".new")

    def begin_create(self) -> subprocess.Popen[bytes]:
        """Start initdb in a directory beside the final one: an interrupted run leaves nothing that looks whole."""
        fresh = self._unfinished()
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(parents=True, mode=0o700)
        if self._account is not None:
            os.chown(fresh, self._account.uid, self._account.gid)
        options = ["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--no-instructions"]
        locale = ["--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
        sync = [] if self.durable else ["--no-sync"]
        return self._spawn("initdb", [*options, *locale, *sync], fresh)

    def finish_create(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for initdb and put its directory where it belongs."""
        if process.wait(START_SECONDS) != 0:
            msg = f"initdb of {self.name} failed; {self._log_tail()}"
            raise EmbeddedError(msg)
        self._unfinished().rename(self.directory)

    # Running it

    def start(self) -> None:
        """Start the server (making its data directory if need be) and return when it accepts connections."""
        start_all([self])

    def begin_start(self) -> None:
        """Start the postmaster and its watcher, and wait for nothing."""
        if self.running:
            msg = f"{self.name} runs already"
            raise EmbeddedError(msg)
        if self._any_port and self.port == 0:
            self.port = free_port()
        settings = {**self.settings, "port": str(self.port)}
        arguments = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        self._process = self._spawn("postgres", arguments, self.directory)
        self._watcher = self._watch(self._process.pid)

    def finish_start(self) -> None:
        """Wait until the postmaster itself says so, in the file where pg_ctl looks as well."""
        process = self._process
        if process is None:
            msg = f"{self.name} was not started"
            raise EmbeddedError(msg)
        give_up = time.monotonic() + START_SECONDS
        while process.poll() is None:
            if self._says_ready(process.pid):
                return
            if time.monotonic() > give_up:
                self.kill()
                msg = f"{self.name} was not ready after {START_SECONDS:.0f} s; {self._log_tail()}"
                raise EmbeddedError(msg)
            time.sleep(POLL_SECONDS)
        self._end_watch()
        self._process = None
        msg = f"{self.name} (port {self.port}) ended with status {process.returncode} at start; {self._log_tail()}"
        raise EmbeddedError(msg)

    def _says_ready(self, pid: int) -> bool:
        try:
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        status_line = 7
        return len(lines) > status_line and lines[0] == str(pid) and lines[status_line].strip() in ACCEPTS

    def stop(self) -> None:
        """Shut down cleanly (the fast mode: clients are thrown out). Nothing happens when it does not run."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Crash it: every process of the server dies at once, without a checkpoint; the next start recovers.

        SIGQUIT, not SIGKILL: the postmaster takes its children with it, so that the next start finds no old backend.
        """
        self._end(signal.SIGQUIT)

    def restart(self) -> None:
        """Stop (if it runs) and start, on the same port."""
        self.stop()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._end_watch()
        self._process = None

    def _watch(self, pid: int) -> subprocess.Popen[bytes]:
        """Start the shell that asks the server to stop when our end of its standard input is closed, however we die."""
        return subprocess.Popen(  # noqa: S603 - a constant script and a pid
            ["/bin/sh", "-c", WATCHER, "watch", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.directory,
            start_new_session=True,
            env={"PATH": os.defpath},
            user=self._account.uid if self._account else None,
            group=self._account.gid if self._account else None,
            extra_groups=[] if self._account else None,
        )

    def _end_watch(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill()
            watcher.communicate()

    def _spawn(self, program: str, arguments: Sequence[str], data: Path) -> subprocess.Popen[bytes]:
        """Run a program of Postgres on a data directory, its output in the log, in a session of its own."""
        with self.log.open("ab") as log:
            return self._spawn_with_log(program, arguments, data, log)

    def _spawn_with_log(
        self, program: str, arguments: Sequence[str], data: Path, log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        held = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # An open directory is reached without asking for leave to enter its parents. Only root needs that.
            where = str(data) if self._account is None else f"/proc/self/fd/{held}"
            return subprocess.Popen(  # noqa: S603 - the program is our own package's
                [self.program(program), "-D", where, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                pass_fds=[held],
                start_new_session=True,
                env={"PATH": os.defpath, "LC_ALL": "C"},
                user=self._account.uid if self._account else None,
                group=self._account.gid if self._account else None,
                extra_groups=[] if self._account else None,
            )
        finally:
            os.close(held)

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return "\n  ".join([f"the end of {self.log}:", *lines])


def create_all(servers: Sequence[EmbeddedServer]) -> None:
    """Make the data directories that are not there yet, side by side."""
    begun = [(server, server.begin_create()) for server in servers if not server.created]
    try:
        for server, process in begun:
            server.finish_create(process)
    finally:
        for _, process in begun:
            if process.poll() is None:
                process.kill()
                process.wait()


def start_all(servers: Sequence[EmbeddedServer]) -> None:
    """Start servers side by side; when one fails, the others of the list are stopped again."""
    create_all(servers)
    taken: list[int] = []
    try:
        for server in servers:
            if server.port == 0:
                server.port = free_port(taken)
            taken.append(server.port)
            server.begin_start()
        for server in servers:
            server.finish_start()
    except BaseException:
        stop_all(servers)
        raise


def stop_all(servers: Sequence[EmbeddedServer]) -> None:
    """Stop servers cleanly, last started first."""
    for server in reversed(servers):
        server.stop()
