"""``pgchorus demo``: embedded servers, the proxy before them, and a small shop that is loaded through it.

Everything is in one directory: a data directory and a log for each server, and ``pgchorus.yaml``, the effective
configuration, from which a second run learns the ports and finds its data. Without ``--data`` the directory is
temporary and goes at the end. Whatever ends the demo (Ctrl-C, a signal, an error), the servers that it started are
stopped, and nothing else is.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvloop

from proxy.config import CONSOLE_DATABASE, Config, dump, load, load_tables, plain_tables
from proxy.demo import shop
from proxy.demo.binaries import EmbeddedError
from proxy.demo.embedded import HOST, SUPERUSER, EmbeddedServer, free_port, port_is_free, start_all, stop_all
from proxy.server import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

DATABASE = "postgres"
DEFAULT_SHARDS = 3
CONFIG_NAME = "pgchorus.yaml"
HEADER = "# Written by pgchorus demo at every start. The ports are kept, whatever else you change here is lost.\n"


class DemoError(RuntimeError):
    """The demo cannot go on; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said. ``tables`` is a file with ``tables:``; ``data`` None is a temporary directory."""

    shards: int | None = None
    port: int = 6432
    data: Path | None = None
    tables: Path | None = None
    shards_only: bool = False


def run(options: Options) -> int:
    """Run the demo until it is told to stop; returns the exit status. Raises DemoError and ConfigError."""
    tables = plain_tables(load_tables(options.tables)) if options.tables else {"tables": shop.PLACEMENTS}
    if not options.shards_only:
        _check_port(options.port)
    with ExitStack() as stack:
        stack.enter_context(_signals_interrupt())
        directory = stack.enter_context(_directory(options.data))
        try:
            servers = _servers(directory, options)
            file = directory / CONFIG_NAME
            _write_config(file, servers, tables, options)
            stack.callback(_stop, servers)
            say(f"starting {len(servers)} PostgreSQL servers in {directory}")
            start_all(servers)
        except EmbeddedError as error:
            raise DemoError(str(error)) from error
        if options.shards_only:
            with suppress(KeyboardInterrupt):
                _say_shards(servers, file)
                while True:
                    signal.pause()
            return 0
        config = load(file)
        uvloop.run(_serve(config, servers[0], with_shop=options.tables is None))
    return 0


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the demo as Ctrl-C does, also where no server handles them."""

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    # SIGINT too: shells start programs in the background of a script with SIGINT ignored.
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _directory(data: Path | None) -> Iterator[Path]:
    """Make the directory and hold it against a second demo."""
    if data is None:
        path = Path(tempfile.mkdtemp(prefix="pgchorus-demo-"))
        try:
            yield path
        finally:
            shutil.rmtree(path)
        return
    path = data.absolute()
    path.mkdir(parents=True, exist_ok=True)
    with (path / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DemoError(f"another demo runs in {path}") from error
        yield path


def _servers(directory: Path, options: Options) -> list[EmbeddedServer]:
    """Return the servers of this directory: as many as it has, or as many as are wanted in a new one."""
    ports = _ports_before(directory / CONFIG_NAME)
    found = len(ports) or len(list(directory.glob("s*/PG_VERSION")))
    wanted = options.shards or found or DEFAULT_SHARDS
    if found and found != wanted:
        raise DemoError(
            f"{directory} has the data of {found} shards, not {wanted}: rows do not move; use another --data"
        )
    if wanted < 1:
        raise DemoError("--shards takes a number from 1 up")
    servers = []
    taken = [options.port]
    for number in range(wanted):
        name = f"s{number}"
        port = ports.get(name, 0)
        if not port or port in taken or not port_is_free(port):
            port = free_port(taken)
        taken.append(port)
        servers.append(EmbeddedServer(directory / name, port=port))
    return servers


def _ports_before(file: Path) -> dict[str, int]:
    """Return the shards' ports of the run before, by name. Raises ConfigError for a file that was spoilt."""
    if not file.exists():
        return {}
    database = load(file).databases[DATABASE]
    return {name: urlsplit(dsn).port or 0 for name, dsn in zip(database.logical.shards, database.dsns, strict=True)}


def _write_config(file: Path, servers: list[EmbeddedServer], tables: dict[str, Any], options: Options) -> None:
    taken = [options.port, *(server.port for server in servers)]
    content = {
        "cluster": "demo",
        "listen": {"host": HOST, "port": options.port},
        "metrics": {"host": HOST, "port": free_port(taken)},
        "auth": {"method": "trust"},
        "console": {"admins": "postgres"},
        "databases": {
            DATABASE: {"shards": {server.name: server.dsn(DATABASE) for server in servers}, "home": "s0", **tables}
        },
    }
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(HEADER + dump(content), encoding="utf-8")
    fresh.replace(file)


def _check_port(port: int) -> None:
    if not port_is_free(port):
        raise DemoError(f"port {port} is taken; choose another one: --port P")


def _stop(servers: list[EmbeddedServer]) -> None:
    """Stop what was started. It takes a moment; an impatient second Ctrl-C must not leave half of it running."""
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        if any(server.running for server in servers):
            say("stopping")
        stop_all(servers)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_shards(servers: list[EmbeddedServer], file: Path) -> None:
    for server in servers:
        say(f"  {server.name}: {server.dsn(DATABASE)}")
    say(f"pgchorus: ready, servers only: pgchorus serve -c {file}")


async def _serve(config: Config, server: EmbeddedServer, *, with_shop: bool) -> None:
    """Serve, and when the port is open load the shop through it and say what there is."""
    opened = asyncio.Event()
    # Awaited below, whatever happens: its exception is ours, nobody else needs to hear of it.
    serving = asyncio.ensure_future(serve(config, opened.set))
    opening = asyncio.ensure_future(opened.wait())
    try:
        await asyncio.wait({serving, opening}, return_when=asyncio.FIRST_COMPLETED)
        if opened.is_set() and with_shop:
            loading = asyncio.ensure_future(_load_shop(config, server))
            try:
                await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                loading.cancel()
                await asyncio.wait({loading})
            if not loading.cancelled():
                loading.result()
        if opened.is_set() and not serving.done():
            say(f"pgchorus: ready on {config.listen}")
            _say_how_to(config, server, with_shop=with_shop)
        await serving
    finally:
        opening.cancel()
        serving.cancel()
        await asyncio.wait({serving, opening})


async def _load_shop(config: Config, server: EmbeddedServer) -> None:
    """Load the shop unless it is there, as any client would: psql, through the proxy."""
    if await _psql(config, server, "SELECT to_regclass('public.order_items') IS NOT NULL") == "t":
        return
    say("loading the shop through the proxy")
    await _psql(config, server, shop.script())


async def _psql(config: Config, server: EmbeddedServer, script: str) -> str:
    """Run a script in the shipped psql and return what it printed; raises DemoError."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    process = await asyncio.create_subprocess_exec(
        server.program("psql"),
        *("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"),
        url(config),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        output, errors = await process.communicate(script.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise DemoError(f"the shop could not be loaded: {errors.decode(errors='replace').strip()}")
    return output.decode().strip()


def url(config: Config, database: str = DATABASE) -> str:
    """Return the URL of the proxy for clients on this machine."""
    return f"postgres://{SUPERUSER}@{config.listen}/{database}"


def _say_how_to(config: Config, server: EmbeddedServer, *, with_shop: bool) -> None:
    psql = "psql" if shutil.which("psql") else server.program("psql")
    pgbench = "pgbench" if shutil.which("pgbench") else server.program("pgbench")
    shards = len(config.databases[DATABASE].dsns)
    lines = ["", f"Connect ({shards} shards behind one port; every local user may, so keep no secrets here):", ""]
    lines += [f"    {psql} {url(config)}", ""]
    if with_shop:
        lines += ["Worth trying:", ""]
        for what, query in shop.TO_TRY:
            lines += [f"    -- {what}", f"    {query}", ""]
        lines += ["pgbench finds its four tables placed:", ""]
        lines += [f"    {pgbench} -i -s 10 {url(config)}", f"    {pgbench} -c 8 -j 2 -T 30 {url(config)}", ""]
    lines += [f"Configuration: {config.file}", f"Metrics: http://{config.metrics}/metrics"]
    lines += [
        f"Console: {psql} {url(config, CONSOLE_DATABASE)} (SHOW HELP lists what it knows)",
        "Ctrl-C stops everything.",
    ]
    say("\n".join(lines))
