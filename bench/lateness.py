"""``python -m bench.lateness``: for how long one client's large statement keeps the proxy's loop from all others.

Two shards, one worker, one client that does one thing after the other (bench.late_kinds has them): bulk inserts, IN
lists, scripts, large values, COPY, merged answers. Meanwhile the proxy's loop ticks (bench.late_proxy); for each kind
this prints the longest stretch without a tick. A text is never the same twice where it does not say "again".
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from bench.contenders import READY, child, psql, wait_for_line
from bench.late_kinds import KINDS, SCHEMA, TABLES
from bench.model import BenchError, Target
from bench.standing import facts_of, standing, store
from bench.streams import ANSWER_SECONDS
from proxy.demo.embedded import free_port
from proxy.wire.frames import HEADER_BYTES
from proxy.wire.frontend import Query
from proxy.wire.startup import StartupMessage

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from contextlib import ExitStack

    from proxy.demo.embedded import EmbeddedServer

SHARDS: Final = 2
DATABASE: Final = "late"
GOAL_MS: Final = 5.0
RECEIVED_BYTES: Final = 1 << 18
PAGE = """\
# How long one client's statement keeps the loop from the others

Written by `{command}`, {when}.

The longest stretch, in milliseconds, in which the proxy's loop did nothing for any other client, in {rounds} runs.
*In a turn*: what the loop's thread computed meanwhile, the median of the runs and the longest. *Held*: with what it
waited for the process's other thread, the longest. *By the clock*: with what others had of {cores},
the longest.
Two shards, one worker. Seconds: until the answer was there. The goal is {goal:g} ms.

| | in a turn, ms: median | of all | held | by the clock | seconds |
|---|---:|---:|---:|---:|---:|
{table}

{facts}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One kind once: the longest of each reading (bench.late_proxy) in milliseconds, the seconds until the answer."""

    kind: str
    turn: float
    block: float
    wall: float
    seconds: float
    where: tuple[tuple[str, int], ...] = ()


class Client:
    """A connection that sends messages, and reads up to as many ReadyForQuery as these lead to."""

    def __init__(self, target: Target) -> None:
        self._socket = socket.create_connection((target.host, target.port), ANSWER_SECONDS)
        self._socket.sendall(StartupMessage(3, 0, {"user": target.user, "database": target.database}).encode())
        self._refused = False
        self._read(1)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def run(self, messages: Sequence[bytes], answers: int = 1, *, refused: bool = False) -> None:
        """Send messages, and read their answers; raises BenchError for one that is an error, unless it may be."""
        self._refused = refused
        for message in messages:
            self._socket.sendall(message)
        self._read(answers)

    def _read(self, answers: int) -> None:
        """Read messages from the beginning of one on."""
        left = 0  # of a message's body
        held = b""
        while answers:
            data = self._socket.recv(RECEIVED_BYTES)
            if not data:
                raise BenchError("the proxy has closed the connection")
            if left >= len(data):
                left -= len(data)
                continue
            data, left = held + data[left:], 0
            at, held = 0, b""
            while len(data) - at >= HEADER_BYTES:
                kind, length = struct.unpack_from(">BI", data, at)
                if kind == ord("E") and not self._refused:
                    raise BenchError(f"the answer is {data[at : at + 500]!r}")
                answers -= kind == ord("Z")
                at += 1 + length
                if at > len(data):
                    left = at - len(data)
                    break
            else:
                held = data[at:]


class Probe:
    """The proxy's account of its loop."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")

    def close(self) -> None:
        """Hang up, which ends the proxy."""
        self._connection.shutdown(socket.SHUT_RDWR)

    def longest(self) -> dict[str, Any]:
        """Return the longest stretch since this was asked last."""
        self._connection.sendall(b"?")
        said: dict[str, Any] = json.loads(self._lines.readline())
        return said


def proxy_before(
    servers: Sequence[EmbeddedServer], home: Path, stack: ExitStack, options: Sequence[str]
) -> tuple[Target, Probe, subprocess.Popen[bytes]]:
    """Start the proxy before databases that there are; ``stack`` ends it, and so does the end of this process."""
    port = free_port([server.port for server in servers])
    configuration: dict[str, Any] = {
        "cluster": "bench",
        "listen": {"host": "127.0.0.1", "port": port},
        "auth": {"method": "trust"},
        "databases": {
            DATABASE: {
                "shards": {
                    f"s{at}": f"postgres://postgres@127.0.0.1:{one.port}/{DATABASE}" for at, one in enumerate(servers)
                },
                "home": "s0",
                "tables": {table: {"key": "k"} for table in TABLES},
            }
        },
    }
    path, log = home / "late.yaml", home / "late.log"
    path.write_text(json.dumps(configuration))
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    # By its file, without that file's directory: it finds the packages of the build that is measured, and no others.
    command = [sys.executable, "-P", str(Path(__file__).with_name("late_proxy.py")), str(path), address, *options]
    process = stack.enter_context(child(command, home, log))
    wait_for_line(process, log, READY)
    connection, _ = listener.accept()
    stack.enter_context(connection)
    return Target(port, DATABASE), Probe(connection), process


def measure(target: Target, probe: Probe, wanted: Sequence[str], rounds: int) -> list[Run]:
    """Do everything, round by round."""
    found: list[Run] = []
    for number in range(rounds):
        for kind in wanted:
            work = KINDS[kind]
            with closing(Client(target)) as client:
                for text in work.before:
                    client.run([Query(text.encode()).encode()])
                messages = work.messages(number)
                for again in range(work.times):
                    time.sleep(0.05)  # what is freed behind the statement before
                    probe.longest()
                    begun = time.perf_counter()
                    client.run(messages, work.answers, refused=work.refused)
                    seconds = time.perf_counter() - begun
                    said = probe.longest()
                    if again == work.times - 1:
                        where = tuple((line, times) for line, times in said["where"])
                        found.append(Run(kind, said["turn"], said["block"], said["wall"], seconds, where))
            last = found[-1]
            sys.stderr.write(f"{last.turn:8.1f} {last.block:8.1f} {last.wall:8.1f} ms {last.seconds:8.2f} s  {kind}\n")
            for line, times in last.where:
                sys.stderr.write(f"      {times:4} {line}\n")
    return found


def table_of(found: Sequence[Run]) -> str:
    """Return the lines of the table, in the order in which kinds came first."""
    lines = []
    for kind in dict.fromkeys(run.kind for run in found):
        runs = [run for run in found if run.kind == kind]
        turns = [run.turn for run in runs]
        worst, held = (
            f"**{ms:.1f}**" if ms > GOAL_MS else f"{ms:.1f}" for ms in (max(turns), max(r.block for r in runs))
        )
        wall, seconds = max(run.wall for run in runs), median(run.seconds for run in runs)
        lines.append(f"| {kind} | {median(turns):.1f} | {worst} | {held} | {wall:.1f} | {seconds:.2f} |")
    return "\n".join(lines)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.lateness", description=__doc__, allow_abbrev=False)
    parser.add_argument("--name", default="lateness", help="directory below bench/results (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--only", default="", help="kinds with one of these in their names, by commas")
    parser.add_argument("--where", action="store_true", help="show what ran while the loop stood still, store nothing")
    given = parser.parse_args(argv)
    given.command = " ".join(["python -m bench.lateness", *argv])
    given.kinds = [kind for kind in KINDS if any(part in kind for part in given.only.split(","))]
    if not given.kinds:
        parser.error(f"no such kind: {given.only}")
    return given


def main(argv: Sequence[str]) -> None:
    """Measure, and write the page."""
    given = arguments(argv)
    when = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
    with standing("lateness", SHARDS) as (servers, home, stack):
        facts = facts_of(servers[0])
        program = servers[0].program("psql")
        for server in servers:
            psql(program, Target(server.port, "postgres"), f"CREATE DATABASE {DATABASE}")
        target, probe, _ = proxy_before(servers, home, stack, ["--where"] if given.where else [])
        for statement in SCHEMA:
            psql(program, target, statement)
        found = measure(target, probe, given.kinds, given.rounds)
    text = PAGE.format(
        command=given.command,
        when=when,
        rounds=given.rounds,
        goal=GOAL_MS,
        cores=facts["processor"].rpartition(", ")[2],
        table=table_of(found),
        facts="\n".join(f"- {label}: {fact}" for label, fact in facts.items()),
    )
    if given.where:
        sys.stdout.write(text)
        return
    store(given.name, text, [[run.kind, run.turn, run.block, run.wall, round(run.seconds, 3)] for run in found])


if __name__ == "__main__":
    main(sys.argv[1:])
