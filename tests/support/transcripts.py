"""A transcript: what a client sends in one go, and what it sees until the server has closed the connection.

Nothing waits for time to pass: a sequence ends with Terminate (or with what makes the server close), and the answers
are read to the end of the connection. In between, `Wait` reads up to a message of the server, as a client does that
needs the answer before it goes on.
"""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from proxy.wire.frames import frame
from proxy.wire.frontend import Query, Terminate
from wire_client import ServerClosedError, Trace, WireClient


@dataclass(frozen=True)
class Wait:
    """Read up to and with a message of one of these types; of `count` of them."""

    kinds: str = "Z"
    count: int = 1


@dataclass(frozen=True)
class Sequence:
    """`fatal`: the server closes by itself. `ignoring`: letters of error fields in which the two may differ."""

    name: str
    parts: tuple[Any, ...]
    fatal: bool = False
    ignoring: str = ""

    def __str__(self) -> str:
        return self.name


def play(dsn: str, sequence: Sequence, *, piecemeal: bool = False) -> Trace:
    """Return what the server says. `piecemeal`: every message in a packet of its own, as some drivers do it."""
    with closing(WireClient(dsn)) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        trace: Trace = []
        pending: list[Any] = []
        try:
            for part in (*sequence.parts, *(() if sequence.fatal else (Terminate(),))):
                if isinstance(part, Wait):
                    client.send(*pending)
                    pending.clear()
                    for _ in range(part.count):
                        trace += client.read(part.kinds)
                elif piecemeal:
                    client.send(part)
                else:
                    pending.append(part)
            client.send(*pending)
            trace += client.read_to_end()
        except ServerClosedError as closed:
            trace += closed.trace
    for entry in trace:
        if entry[0] in ("error", "notice"):
            for letter in sequence.ignoring:
                entry[1].pop(letter, None)
    return trace


COPY_DONE = frame(b"c", b"")


def q(text: str) -> Query:
    return Query(text.encode())


def data(text: str) -> bytes:
    return frame(b"d", text.encode())


def fail(text: str) -> bytes:
    return frame(b"f", text.encode() + b"\0")


SHOW = q("select k, v, n from notes order by k")
PLAIN = q("select id, v from plain order by id")
