"""A bare client of the protocol: frames out, a readable trace in; and two of them side by side.

A trace is what a client can see, message by message, in tuples that print well. Left out is what may differ between
two servers that agree: the source file and line of an error, table OIDs (kept as "from a table"), OIDs of types that
were created there, process ids.
"""

from __future__ import annotations

import socket
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from proxy.wire import backend
from proxy.wire.frames import walk
from proxy.wire.frontend import (
    Bind,
    Close,
    Describe,
    Execute,
    Flush,
    Parse,
    Query,
    Sync,
    Terminate,
)
from proxy.wire.startup import CancelRequest, StartupMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# How long a server may take for anything here; nothing waits for it to pass.
PATIENCE_SECONDS = 20.0
FIRST_OWN_OID = 16_384  # below are those that every server has

Entry = tuple[Any, ...]
Trace = list[Entry]

_HIDDEN_ERROR_FIELDS = frozenset("FLRV")


class ServerClosedError(Exception):
    """The server closed the connection; `trace` is what it had said."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(f"closed by the server after {trace}")
        self.trace = trace


class WireClient:
    """One connection. `key` is (pid, secret) of BackendKeyData, `parameters` what ParameterStatus has said."""

    def __init__(self, dsn: str, *, log_in: bool = True, **startup: str) -> None:
        where = urlsplit(dsn)
        self.address = (where.hostname, where.port)
        self.startup = {
            "user": where.username or "postgres",
            "database": where.path.lstrip("/"),
            "client_encoding": "UTF8",
            **startup,
        }
        self.socket = socket.create_connection(self.address, PATIENCE_SECONDS)
        self.parameters: dict[str, str] = {}
        self.key = (0, b"")
        self._unread = b""
        if log_in:
            try:
                self.log_in()
            except BaseException:
                self.socket.close()
                raise

    def close(self) -> None:
        """Close politely; what the server does with it is not waited for."""
        with suppress(OSError):
            self.socket.sendall(Terminate().encode())
        self.socket.close()

    def vanish(self) -> None:
        """Close without a word, as a killed client does: with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def cancel(self) -> None:
        """Send a CancelRequest for this connection; returns when the server has closed it."""
        send_cancel(self.address, *self.key)

    def log_in(self) -> Trace:
        self.send(StartupMessage(3, 0, self.startup).encode())
        return self.read()

    def send(self, *messages: Any) -> None:
        """Send messages (or raw bytes) in one piece."""
        self.socket.sendall(b"".join(one if isinstance(one, bytes) else one.encode() for one in messages))

    def frames(self, enough: Callable[[int], bool]) -> list[tuple[int, bytes]]:
        """Read frames up to and with the first of a type that is `enough`; what follows is kept."""
        got: list[tuple[int, bytes]] = []
        while True:
            index, _ = walk(self._unread, 0, len(self._unread))
            for kind, start, end in index:
                got.append((kind, self._unread[start + 5 : end]))
                if enough(kind):
                    self._unread = self._unread[end:]
                    return got
            if index:
                self._unread = self._unread[index[-1][2] :]
            more = self.socket.recv(1 << 16)
            if not more:
                raise ServerClosedError(self._trace(got))
            self._unread += more

    def read(self, until: str = "Z") -> Trace:
        """Read up to and with the first message of one of the types in `until`."""
        kinds = frozenset(until.encode())
        return self._trace(self.frames(kinds.__contains__))

    def read_to_end(self) -> Trace:
        """Read until the server closes."""
        try:
            got = self.frames(lambda _: False)
        except ServerClosedError as closed:
            return closed.trace
        except ConnectionResetError:
            return []  # it closed with bytes of ours unread
        raise AssertionError(got)

    def ask(self, *messages: Any) -> Trace:
        """Send messages, read to ReadyForQuery."""
        self.send(*messages)
        return self.read()

    def query(self, text: str) -> Trace:
        """Run a simple query."""
        return self.ask(Query(text.encode()))

    def rows(self, text: str) -> list[tuple[str | None, ...]]:
        """Run a simple query that must succeed; return its rows as text."""
        trace = self.query(text)
        assert not [entry for entry in trace if entry[0] == "error"], trace
        return [
            tuple(None if value is None else value.decode() for value in entry[1])
            for entry in trace
            if entry[0] == "row"
        ]

    @property
    def status_of_last(self) -> str:
        """The status byte of an empty query's ReadyForQuery."""
        return str(self.query("")[-1][1])

    def _trace(self, frames: list[tuple[int, bytes]]) -> Trace:
        trace = []
        for kind, body in frames:
            entry = readable(kind, body)
            if entry[0] == "parameter":
                self.parameters[entry[1]] = entry[2]
            if kind == ord("K"):
                self.key = (int.from_bytes(body[:4], "big"), body[4:])
            trace.append(entry)
        return trace


def readable(kind: int, body: bytes) -> Entry:  # noqa: PLR0911 - a form for each type
    """Return a message as a tuple that begins with its name."""
    letter = chr(kind)
    if letter == "T":
        fields = backend.decode_row_description(body)
        return (
            "columns",
            *(
                (
                    f.name.decode(errors="surrogateescape"),
                    bool(f.table_oid),
                    f.column,
                    _type(f.type_oid),
                    f.type_modifier,
                    f.format,
                )
                for f in fields
            ),
        )
    if letter == "D":
        return ("row", backend.decode_data_row(body))
    if letter == "C":
        return ("tag", body.rstrip(b"\0").decode())
    if letter == "Z":
        return ("ready", body.decode())
    if letter in "EN":
        fields_by_letter = dict(backend.decode_error(body).fields)
        kept = {name: value for name, value in fields_by_letter.items() if name not in _HIDDEN_ERROR_FIELDS}
        return ("error" if letter == "E" else "notice", kept)
    if letter == "S":
        name, value = backend.decode_parameter_status(body)
        return ("parameter", name, value)
    if letter == "t":
        return ("parameters", *map(_type, backend.decode_parameter_description(body)))
    if letter == "K":
        return ("key",)
    return (_NAMES.get(letter, letter), *([body] if body else []))


def _type(oid: int) -> int | str:
    return oid if oid < FIRST_OWN_OID else "own type"


_NAMES = {
    "1": "parsed",
    "2": "bound",
    "3": "closed",
    "n": "no data",
    "s": "suspended",
    "I": "empty",
    "G": "copy in",
    "H": "copy out",
    "d": "data",
    "c": "copy done",
    "A": "notification",
    "R": "authentication",
}


def send_cancel(address: tuple[Any, Any], pid: int, secret: bytes) -> None:
    """Send a CancelRequest; returns when the server has closed the connection."""
    with closing(socket.create_connection(address, PATIENCE_SECONDS)) as other:
        other.sendall(CancelRequest(pid, secret).encode())
        assert other.recv(1) == b""


@contextmanager
def connected(dsn: str, **startup: str) -> Iterator[WireClient]:
    """Give a logged-in client, closed at the end."""
    with closing(WireClient(dsn, **startup)) as client:
        yield client


class Twins:
    """One Postgres and the proxy, asked the same."""

    def __init__(self, one: WireClient, proxy: WireClient) -> None:
        self.one = one
        self.proxy = proxy

    def same(self, *messages: Any, until: str = "Z", ready: int = 1, ignoring: str = "") -> Trace:
        """Send the same to both and hold the answers against each other; returns the proxy's.

        `ready`: how many ends there are to read to; `ignoring`: letters of error fields that may differ.
        """
        traces = []
        for client in (self.one, self.proxy):
            client.send(*messages)
            traces.append([entry for _ in range(ready) for entry in client.read(until)])
        for trace in traces:
            for entry in trace:
                if entry[0] in ("error", "notice"):
                    for letter in ignoring:
                        entry[1].pop(letter, None)
        expected, got = traces
        assert got == expected, difference(expected, got)
        return got

    def query(self, text: str, ignoring: str = "") -> Trace:
        """Run the same simple query on both; `ignoring` as in `same`."""
        return self.same(Query(text.encode()), ignoring=ignoring)

    def close(self) -> None:
        self.one.close()
        self.proxy.close()


def sqlstates(trace: Trace) -> list[str]:
    """Return the SQLSTATE of each error of a trace."""
    return [entry[1]["C"] for entry in trace if entry[0] == "error"]


def difference(expected: Trace, got: Trace) -> str:
    """Return two traces side by side, marked where they part."""
    lines = ["one Postgres (-) and the proxy (+) answer differently:"]
    for number in range(max(len(expected), len(got))):
        pair = [trace[number] if number < len(trace) else None for trace in (expected, got)]
        lines += [f"  {pair[0]}"] if pair[0] == pair[1] else [f"- {pair[0]}", f"+ {pair[1]}"]
    return "\n".join(lines)


def parse(text: str, name: str = "", oids: Sequence[int] = ()) -> Parse:
    return Parse(name.encode(), text.encode(), tuple(oids))


def bind(
    *values: bytes | None,
    statement: str = "",
    portal: str = "",
    formats: Sequence[int] = (),
    results: Sequence[int] = (),
) -> Bind:
    return Bind(portal.encode(), statement.encode(), tuple(formats), values, tuple(results))


def describe(kind: str, name: str = "") -> Describe:
    return Describe(kind.encode(), name.encode())


def execute(portal: str = "", limit: int = 0) -> Execute:
    return Execute(portal.encode(), limit)


def close(kind: str, name: str = "") -> Close:
    return Close(kind.encode(), name.encode())


SYNC, FLUSH = Sync(), Flush()
