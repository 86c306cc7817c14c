"""The ways from pgbench to the rows: straight to one server, through PgBouncer, through pgchorus over N shards.

Each is a context manager that starts what it needs on free ports of 127.0.0.1 and ends exactly that, by pid. Other
proxies are in others.py. All of them use the same embedded servers; direct and PgBouncer share one database, so
they differ in the way alone.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import proxy
from bench.machine import pgchorus_version, version_of
from bench.model import MODES, BenchError, Contender, Target
from proxy.demo.embedded import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from proxy.demo.embedded import EmbeddedServer

START_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02
UNPRIVILEGED = "nobody"
READY = "pgchorus: ready"
LOG_LINES_SHOWN = 15
ONE_SERVER_DATABASE = "bench_one"
# Where this process has the proxy from: the checkout, or what a compiled wheel was unpacked to.
PACKAGES = Path(proxy.__file__).parent.parent
# Since this version PgBouncer follows prepared statements in transaction pooling.
PGBOUNCER_PREPARES: tuple[int, int] = (1, 21)
NOT_PREPARED = (
    "{} has no prepared statements in transaction pooling (they came with 1.21): its cells with -M prepared use "
    "session pooling, a link per client for its whole life."
)


def clean_environment() -> dict[str, str]:
    """Return the environment without what would redirect libpq; a child in Python finds our proxy first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return kept | {"PYTHONPATH": str(PACKAGES)}


def psql(program: str, target: Target, *statements: str, timeout: float = 120.0) -> list[str]:
    """Run statements one by one (a simple query each) and return all rows, unaligned. The first error ends it."""
    command = [program, "-XAtq", "-v", "ON_ERROR_STOP=1", *target.arguments(), "-d", target.database]
    for statement in statements:
        command += ["-c", statement]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=timeout, env=clean_environment()
    )
    if done.returncode != 0:
        raise BenchError(f"psql on port {target.port}: {done.stderr.strip()[:2000]}")
    return done.stdout.splitlines()


def initialise(server: EmbeddedServer, target: Target, scale: int) -> None:
    """Make pgbench's tables, by pgbench's own client-side generation, through the target."""
    command = [server.program("pgbench"), "-i", "-q", "-s", str(scale), *target.arguments(), target.database]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60 + 30 * scale, env=clean_environment()
    )
    if done.returncode != 0:
        raise BenchError(f"pgbench -i on port {target.port}: {done.stderr.strip()[-2000:]}")


@contextmanager
def direct(server: EmbeddedServer, scale: int) -> Iterator[Contender]:
    """Yield one server without anything before it; its database is made here."""
    postgres = Target(server.port, "postgres")
    psql(server.program("psql"), postgres, f"CREATE DATABASE {ONE_SERVER_DATABASE}")
    target = Target(server.port, ONE_SERVER_DATABASE)
    initialise(server, target, scale)
    yield Contender("direct", "direct", dict.fromkeys(MODES, target), (target,), pids_of([server]))


def find_pgbouncer() -> str | None:
    """Return PgBouncer's path where it is installed (it often lies in sbin, which users do not have in their path)."""
    return shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def parse_pgbouncer_version(line: str) -> tuple[int, int]:
    """Read ``PgBouncer 1.18.0``."""
    found = re.search(r"(\d+)\.(\d+)", line)
    if found is None:
        raise BenchError(f"not a version of PgBouncer: {line!r}")
    return int(found[1]), int(found[2])


def pgbouncer_configuration(listen: Target, server: Target, links: int, version: tuple[int, int]) -> str:
    """Return pgbouncer.ini: one database in transaction pooling, and the same one in session pooling beside it."""
    to = f"host={server.host} port={server.port} dbname={server.database} user={server.user}"
    prepares = "max_prepared_statements = 100\n" if version >= PGBOUNCER_PREPARES else ""
    return (
        "[databases]\n"
        f"transaction = {to} pool_mode=transaction\n"
        f"session = {to} pool_mode=session\n"
        "[pgbouncer]\n"
        f"listen_addr = {listen.host}\n"
        f"listen_port = {listen.port}\n"
        "unix_socket_dir =\n"
        "auth_type = trust\n"
        "auth_file = users.txt\n"
        f"default_pool_size = {links}\n"
        "max_client_conn = 1000\n"
        "log_connections = 0\n"
        "log_disconnections = 0\n" + prepares
    )


@contextmanager
def pgbouncer(program: str, server: EmbeddedServer, links: int) -> Iterator[Contender]:
    """Yield PgBouncer before the database of ``direct``. As root it runs as another account, since it refuses root."""
    text = version_of([program, "--version"])
    version = parse_pgbouncer_version(text)
    behind = Target(server.port, ONE_SERVER_DATABASE)
    port = free_port([server.port])
    with temporary_directory_for(UNPRIVILEGED) as (directory, account):
        listen = Target(port, "transaction")
        (directory / "pgbouncer.ini").write_text(pgbouncer_configuration(listen, behind, links, version))
        (directory / "users.txt").write_text('"postgres" ""\n')
        with child([program, "-q", "pgbouncer.ini"], directory, directory / "log", account) as process:
            wait_for_port(process, port, directory / "log")
            targets = {mode: Target(port, "transaction") for mode in MODES}
            notices: tuple[str, ...] = ()
            marks: dict[str, str] = {}
            if version < PGBOUNCER_PREPARES:
                targets["prepared"] = Target(port, "session")
                marks["prepared"] = "session pooling"
                notices = (NOT_PREPARED.format(text),)
            pids = pids_of([server])
            yield Contender("pgbouncer", "PgBouncer", targets, (behind,), pids, process.pid, notices, text, marks)


@contextmanager
def temporary_directory_for(account: str) -> Iterator[tuple[Path, dict[str, object]]]:
    """Yield a directory and the Popen arguments of the account that owns it: ours, or as root the one named."""
    directory = Path(tempfile.mkdtemp(prefix="pgchorus-bench-"))
    identity: dict[str, object] = {}
    try:
        if os.geteuid() == 0:
            entry = pwd.getpwnam(account)
            os.chown(directory, entry.pw_uid, entry.pw_gid)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        yield directory, identity
    finally:
        shutil.rmtree(directory)


def pgchorus_configuration(listen: Target, shards: Sequence[Target], workers: int, links: int) -> str:
    """Return the proxy's YAML: pgbench's four tables, each by its own key, over these shards."""
    lines = [
        "cluster: bench",
        f"listen: {{host: {listen.host}, port: {listen.port}}}",
        f"workers: {workers}",
        f"limits: {{pool: {{size: {links}}}}}",
        "auth: {method: trust}",
        "log: {connections: off}",  # as PgBouncer is told
        "databases:",
        f"  {listen.database}:",
        "    shards:",
        *(f"      s{index}: postgres://{s.user}@{s.host}:{s.port}/{s.database}" for index, s in enumerate(shards)),
        "    home: s0",
        "    tables:",
        "      pgbench_accounts: {key: aid}",
        "      pgbench_branches: {key: bid}",
        "      pgbench_tellers: {key: tid}",
        "      pgbench_history: {key: aid}",
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def pgchorus(
    servers: Sequence[EmbeddedServer], scale: int, workers: int, links: int, home: Path
) -> Iterator[Contender]:
    """Yield pgchorus over a database of its own on each server, loaded by ``pgbench -i`` through the proxy."""
    count = len(servers)
    name = f"pgchorus-{count}"
    database = f"bench_over_{count}"
    for server in servers:
        psql(server.program("psql"), Target(server.port, "postgres"), f"CREATE DATABASE {database}")
    shards = [Target(server.port, database) for server in servers]
    target = Target(free_port([server.port for server in servers]), "bench")
    configuration = home / f"{name}.yaml"
    configuration.write_text(pgchorus_configuration(target, shards, workers, links))
    log = home / f"{name}.log"
    command = [sys.executable, "-m", "proxy"]
    run_once([*command, "init", "-c", str(configuration)], home)
    with child([*command, "serve", "-c", str(configuration)], home, log) as process:
        wait_for_line(process, log, READY)
        initialise(servers[0], target, scale)
        yield Contender(
            name,
            f"pgchorus, {count} shard{'s' if count > 1 else ''}",
            dict.fromkeys(MODES, target),
            tuple(shards),
            pids_of(servers),
            process.pid,
            version=pgchorus_version(),
        )


def pids_of(servers: Sequence[EmbeddedServer]) -> tuple[int, ...]:
    """Return the postmasters' pids."""
    return tuple(server.pid for server in servers if server.pid is not None)


def run_once(command: list[str], directory: Path) -> None:
    """Run a command to its end; its output is the error's text when it fails."""
    done = subprocess.run(
        command,
        check=False,
        cwd=directory,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_SECONDS,
    )
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stdout.strip()[-2000:]}")


@contextmanager
def child(
    command: list[str], directory: Path, log: Path, identity: dict[str, object] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a running child with its output in ``log``; at the end ask it to stop, and kill it if it does not."""
    with log.open("ab") as output:
        process = subprocess.Popen(  # type: ignore[call-overload]
            command,
            cwd=directory,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **(identity or {}),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when somebody listens on the port."""

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(process, log, listening)


def wait_for_line(process: subprocess.Popen[bytes], log: Path, beginning: str) -> None:
    """Return when a line with this beginning has been printed."""
    wait_until(process, log, lambda: any(line.startswith(beginning) for line in log.read_text().splitlines()))


def wait_until(process: subprocess.Popen[bytes], log: Path, condition: Callable[[], bool]) -> None:
    """Wait for a condition while the process lives, within ``START_SECONDS``."""
    give_up = time.monotonic() + START_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > give_up:
            state = "does not get ready" if process.returncode is None else f"ended with {process.returncode}"
            tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
            raise BenchError(f"{Path(process.args[0]).name} {state}:\n  {tail}")  # type: ignore[index, arg-type]
        time.sleep(POLL_SECONDS)
