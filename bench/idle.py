"""``python -m bench.idle``: what a client costs that does nothing.

So many clients log in at one worker and stay; then each runs a query by its key, then each prepares one and runs it.
After each of these the proxy's resident memory is read, and what it has more than before anybody came is divided by
the number of clients. The kernel's memory for sockets is not in that.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bench.contenders import psql
from bench.model import BenchError, Target
from bench.process import add_up, snapshot
from bench.standing import facts_of, serve, standing, store
from proxy.demo.embedded import EmbeddedServer, free_port
from proxy.wire.frames import walk
from proxy.wire.frontend import Bind, Execute, Parse, Query, Sync
from proxy.wire.startup import StartupMessage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROWS = 1000
SPARE_FILES = 200
ANSWER_SECONDS = 60.0
BATCH = 64  # clients that wait for their answers together: as many as a listening socket may have waiting
READY = ord("Z")
ERROR = ord("E")
PAGE = """\
# What an idle client costs

Written by `{command}`, {when}.

{clients:,} clients at one worker over {shards} shards, by TCP on one machine, nobody with TLS. Resident memory of the
proxy without a client: {before_mib:.0f} MiB. What it has more, divided by the clients:

| every client has | KiB for each |
|---|---:|
{rows}

{facts}
"""


class Client:
    """A connection that waits for its answers when it is told to."""

    def __init__(self, target: Target) -> None:
        self.socket = socket.create_connection((target.host, target.port), ANSWER_SECONDS)
        self.socket.sendall(StartupMessage(3, 0, {"user": target.user, "database": target.database}).encode())

    def until_ready(self) -> None:
        """Read up to ReadyForQuery; raises BenchError for an error."""
        data = b""
        while True:
            index, _ = walk(data, 0, len(data))
            kinds = [kind for kind, _, _ in index]
            if ERROR in kinds:
                raise BenchError(f"the proxy answered {data!r}")
            if kinds and kinds[-1] == READY:
                return
            more = self.socket.recv(1 << 14)
            if not more:
                raise BenchError("the proxy has closed a connection")
            data += more


class Place:
    """The proxy over some servers, with a table of rows to look at."""

    def __init__(self, servers: Sequence[EmbeddedServer], directory: Path, clients: int, stack: ExitStack) -> None:
        program = servers[0].program("psql")
        for server in servers:
            psql(program, Target(server.port, "postgres"), "CREATE DATABASE idle")
        shards = {f"s{at}": f"postgres://postgres@127.0.0.1:{server.port}/idle" for at, server in enumerate(servers)}
        self.target = Target(free_port([server.port for server in servers]), "idle")
        configuration = {
            "cluster": "bench",
            "listen": {"host": self.target.host, "port": self.target.port},
            "auth": {"method": "trust"},
            "limits": {"clients": {"max": clients + 10}},
            "databases": {"idle": {"shards": shards, "home": "s0", "tables": {"cell": {"key": "k"}}}},
        }
        self._process = serve(stack, json.dumps(configuration), directory, "idle")
        psql(program, self.target, "CREATE TABLE cell (k int4 PRIMARY KEY, v int8 NOT NULL)")
        rows = ", ".join(f"({key}, 0)" for key in range(ROWS))
        psql(program, self.target, f"INSERT INTO cell VALUES {rows}")

    def resident_bytes(self) -> int:
        """Return the proxy's resident memory."""
        return add_up(snapshot(), [self._process.pid]).resident_bytes


def in_turn(clients: Sequence[Client], text: str, *, prepared: bool) -> None:
    """Have every client run a query for one of the rows."""
    for start in range(0, len(clients), BATCH):
        batch = clients[start : start + BATCH]
        for number, client in enumerate(batch, start):
            key = b"%d" % (number % ROWS)
            if prepared:
                parse, bind = Parse(b"look", text.encode(), ()), Bind(b"", b"look", (), (key,), ())
                client.socket.sendall(parse.encode() + bind.encode() + Execute(b"", 0).encode() + Sync().encode())
            else:
                client.socket.sendall(Query(text.replace("$1", key.decode()).encode()).encode())
        for client in batch:
            client.until_ready()


def measure(place: Place, count: int) -> tuple[int, dict[str, float]]:
    """Return the bytes before anybody came, and KiB for each client after each step."""
    before = place.resident_bytes()
    found: dict[str, float] = {}
    with ExitStack() as stack:
        clients: list[Client] = []
        while len(clients) < count:
            batch = [Client(place.target) for _ in range(min(BATCH, count - len(clients)))]
            for client in batch:
                stack.callback(client.socket.close)
                client.until_ready()
            clients += batch
        query = "SELECT v FROM cell WHERE k = $1"
        found["logged in"] = (place.resident_bytes() - before) / 1024 / count
        in_turn(clients, query, prepared=False)
        found["run a query as well"] = (place.resident_bytes() - before) / 1024 / count
        in_turn(clients, query, prepared=True)
        found["and a prepared statement, which it keeps"] = (place.resident_bytes() - before) / 1024 / count
    return before, found


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__, allow_abbrev=False)
    parser.add_argument("--name", default="idle", help="directory below bench/results (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--shards", type=int, default=2, help="(default: %(default)s)")
    given = parser.parse_args(argv)
    given.command = " ".join(["python -m bench.idle", *argv])
    return given


def allow_files(count: int) -> None:
    """See that this process, and the proxy that it starts, may have so many connections; raises BenchError."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + SPARE_FILES:
        raise BenchError(f"{count} clients need {count + SPARE_FILES} open files, and ulimit -Hn is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + SPARE_FILES, hard))


def main(argv: Sequence[str]) -> None:
    """Measure, and write the page."""
    given = arguments(argv)
    when = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    allow_files(given.clients)
    with standing("idle", given.shards) as (servers, home, stack):
        facts = facts_of(servers[0])
        before, found = measure(Place(servers, home, given.clients, stack), given.clients)
    text = PAGE.format(
        when=when,
        before_mib=before / (1 << 20),
        rows="\n".join(f"| {what} | {kib:.1f} |" for what, kib in found.items()),
        facts="\n".join(f"- {label}: {fact}" for label, fact in facts.items()),
        **vars(given),
    )
    store(given.name, text)


if __name__ == "__main__":
    main(sys.argv[1:])
