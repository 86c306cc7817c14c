"""The wire package beside a real PostgreSQL 18: same complaints, same states, same bytes."""

from __future__ import annotations

import random
import socket
from contextlib import closing
from struct import pack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from proxy.wire import backend
from proxy.wire.errors import ProtocolViolation
from proxy.wire.frames import FrameReader, frame, walk
from proxy.wire.frontend import (
    FLUSH,
    SYNC,
    TERMINATE,
    Bind,
    Close,
    CopyData,
    CopyDone,
    CopyFail,
    Describe,
    Execute,
    Flush,
    Parse,
    Query,
    Sync,
    Terminate,
    decode,
    decode_bind,
)
from proxy.wire.scram import Verifier
from proxy.wire.startup import StartupMessage, StartupReader
from proxy.wire.state import TAKING, ProtocolState, Said, State, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How long Postgres may take for anything here; nothing waits for it to pass.
PATIENCE_SECONDS = 20

Frames = list[tuple[int, bytes]]


class Wire:
    """A bare connection: bytes out, frames in."""

    def __init__(self, dsn: str) -> None:
        where = urlsplit(dsn)
        self.database = where.path.lstrip("/")
        self.user = where.username or "postgres"
        self.socket = socket.create_connection((where.hostname, where.port), PATIENCE_SECONDS)

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def log_in(self, minor: int = 0) -> Frames:
        self.send(StartupMessage(3, minor, {"user": self.user, "database": self.database}).encode())
        return self.read_to_ready()

    def read_to_ready(self, count: int = 1) -> Frames:
        """Read up to and with the ``count``-th ReadyForQuery."""
        data = b""
        while True:
            found, rest = walk(data, 0, len(data))
            frames = [(kind, data[start + 5 : end]) for kind, start, end in found]
            if [kind for kind, _ in frames].count(backend.READY_FOR_QUERY) >= count:
                assert rest == len(data)
                return frames
            more = self.socket.recv(65_536)
            assert more, f"closed by the server after {frames}"
            data += more

    def read_to_end(self) -> bytes:
        data = b""
        try:
            while more := self.socket.recv(65_536):
                data += more
        except ConnectionResetError:
            pass  # it closed with our bytes unread
        return data

    def query(self, text: str) -> Frames:
        self.send(Query(text.encode()).encode())
        return self.read_to_ready()


def split(data: bytes) -> Frames:
    found, rest = walk(data, 0, len(data))
    assert rest == len(data)
    return [(kind, data[start + 5 : end]) for kind, start, end in found]


@pytest.fixture
def wire(module_databases: list[str]) -> Iterator[Wire]:
    with closing(Wire(module_databases[0])) as opened:
        yield opened


# ---- what is wrong with one message ----

PREPARE = Parse(b"", b"select $1::text").encode()
NAMES = b"\0\0"
MALFORMED_BODIES = [
    (b"Q", b"select 1"),
    (b"Q", b""),
    (b"Q", b"select 1\0x"),
    (b"Q", b"select 1\0\0"),
    (b"S", b"x"),
    (b"H", b"x"),
    (b"D", b"Xa\0"),
    (b"D", b"Xa\0z"),
    (b"D", b""),
    (b"D", b"S"),
    (b"D", b"Sabc"),
    (b"D", b"S\0x"),
    (b"C", b"Xa\0"),
    (b"C", b""),
    (b"E", b"\0\0\0"),
    (b"E", b"abc"),
    (b"E", b"\0\0\0\0\0x"),
    (b"P", b"abc"),
    (b"P", b"abc\0"),
    (b"P", b"\0select 1\0"),
    (b"P", b"\0select 1\0\0\2\0\0\0\x17"),
    (b"P", b"\0select 1\0\xff\xff\0\0\0\x17"),
    (b"P", b"\0select 1\0\0\0x"),
    (b"B", b"ab"),
    (b"B", b"ab\0"),
    (b"B", NAMES),
    (b"B", NAMES + b"\0"),
    (b"B", NAMES + b"\0\2\0\0"),
    (b"B", NAMES + b"\0\2\0\0\0\0\0\1\0\0\0\1x\0\0"),
    (b"B", NAMES + b"\0\0"),
    (b"B", NAMES + b"\0\0\0\1\0\0\0\5x"),
    (b"B", NAMES + b"\0\0\0\1\xff\xff\xff\xfex\0\0"),
    (b"B", NAMES + b"\0\0\0\1\xff\xff\xff\xff"),
    (b"B", NAMES + b"\0\0\0\1\xff\xff\xff\xff\0\1"),
    (b"B", NAMES + b"\0\0\0\1\xff\xff\xff\xff\0\0x"),
]


@pytest.mark.parametrize(("kind", "body"), MALFORMED_BODIES)
def test_a_malformed_body_gets_postgres_own_complaint(wire: Wire, kind: bytes, body: bytes) -> None:
    wire.log_in()
    with pytest.raises(ProtocolViolation) as caught:
        decode(kind[0], body)
    # A Query and a Sync get their own ReadyForQuery, with or without an error.
    wire.send(PREPARE + FLUSH + frame(kind, body) + SYNC)
    frames = wire.read_to_ready(2 if kind in b"QS" else 1)
    errors = [backend.decode_error(data) for type_, data in frames if type_ == backend.ERROR_RESPONSE]
    assert [(error.severity, error.sqlstate, error.message) for error in errors] == [
        (caught.value.severity, caught.value.sqlstate, caught.value.message)
    ]


LENIENT_IN_COPY = [(b"c", b"junk", "CZ"), (b"f", b"why\0junk", "EZ"), (b"S", b"junk", ""), (b"H", b"junk", "")]


@pytest.mark.parametrize(("kind", "body", "answers"), LENIENT_IN_COPY)
def test_bodies_that_postgres_does_not_look_into(wire: Wire, kind: bytes, body: bytes, answers: str) -> None:
    wire.log_in()
    wire.query("create table if not exists lenient (a int)")
    wire.send(Query(b"copy lenient from stdin").encode() + frame(kind, body))
    if not answers:
        wire.send(CopyDone().encode())
    kinds = "".join(chr(type_) for type_, _ in wire.read_to_ready())
    assert kinds == "G" + (answers or "CZ")
    machine = ProtocolState(State.COPY_IN)
    if machine.client(kind[0]) is Verdict.TAKE:
        decode(kind[0], body)


def take(reader: FrameReader) -> None:
    framed = reader.next()
    assert framed is not None
    ProtocolState(State.READY).client(framed[0])


@pytest.mark.parametrize("data", [b"z", b"\0", b"p\0\0\0\x08abc\0", b"R\0\0\0\4"])
def test_a_type_that_no_client_may_send(wire: Wire, data: bytes) -> None:
    wire.log_in()
    wire.send(data)
    (answer,) = split(wire.read_to_end())
    error = backend.decode_error(answer[1])
    reader = FrameReader(1 << 20)
    reader.feed(data)
    with pytest.raises(ProtocolViolation) as caught:
        take(reader)
    assert (error.severity, error.sqlstate, error.message) == (
        caught.value.severity,
        caught.value.sqlstate,
        caught.value.message,
    )


@pytest.mark.parametrize(("kind", "length"), [(b"Q", 3), (b"Q", -1), (b"S", 10_001), (b"Q", 0x4000_0000)])
def test_an_impossible_length_ends_the_connection(wire: Wire, kind: bytes, length: int) -> None:
    wire.log_in()
    wire.send(kind + pack(">i", length))
    assert wire.read_to_end() == b""  # Postgres logs "invalid message length" and tells its client nothing; we do
    reader = FrameReader(0x3FFF_FFFF)
    reader.feed(kind + pack(">i", length))
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        reader.next()


# ---- start-up ----


def startup_packet(body: bytes) -> bytes:
    return pack(">i", len(body) + 4) + body


@pytest.mark.parametrize(
    "data",
    [
        startup_packet(b"\0\4\0\0"),
        startup_packet(b"\0\3\0\0"),
        startup_packet(b"\0\3\0\0user"),
        startup_packet(b"\0\3\0\0user\0"),
        startup_packet(b"\0\3\0\0user\0postgres\0"),
        startup_packet(b"\0\3\0\0user\0postgres\0\0z"),
    ],
)
def test_a_wrong_startup_packet_gets_postgres_own_complaint(wire: Wire, data: bytes) -> None:
    wire.send(data)
    (answer,) = split(wire.read_to_end())
    error = backend.decode_error(answer[1])
    reader = StartupReader()
    reader.feed(data)
    with pytest.raises(ProtocolViolation) as caught:
        reader.next()
    assert (error.severity, error.sqlstate, error.message) == (
        caught.value.severity,
        caught.value.sqlstate,
        caught.value.message,
    )


@pytest.mark.parametrize("code", [b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"])
def test_bytes_sent_ahead_of_tls(wire: Wire, code: bytes) -> None:
    data = startup_packet(code) + b"\0"
    wire.send(data)
    answer = wire.read_to_end()
    error = backend.decode_error(split(answer[1:])[0][1])
    reader = StartupReader()
    reader.feed(data)
    reader.next()
    with pytest.raises(ProtocolViolation) as caught:
        reader.next()
    assert answer[:1] == b"N"
    assert (error.severity, error.sqlstate, error.message, error.detail) == (
        caught.value.severity,
        caught.value.sqlstate,
        caught.value.message,
        caught.value.detail,
    )


@pytest.mark.parametrize(("minor", "options", "wanted"), [(0, ["_pq_.a", "_pq_.b"], 0), (9, [], 2)])
def test_negotiation_is_byte_for_byte_postgres_own(wire: Wire, minor: int, options: list[str], wanted: int) -> None:
    asked = StartupMessage(3, minor, {"user": wire.user, "database": wire.database}, dict.fromkeys(options, "1"))
    wire.send(asked.encode())
    kind, body = wire.read_to_ready()[0]
    assert frame(bytes((kind,)), body) == backend.negotiate_protocol_version(wanted, options)
    reader = StartupReader()
    reader.feed(asked.encode())
    assert reader.next() == asked


def test_cancel_secrets_grow_with_3_2(module_databases: list[str]) -> None:
    for minor, length in ((0, 4), (2, 32)):
        with closing(Wire(module_databases[0])) as wire:
            frames = dict(wire.log_in(minor))
            pid, secret = backend.decode_backend_key_data(frames[backend.BACKEND_KEY_DATA])
            assert (pid > 0, len(secret)) == (True, length)


# ---- real bytes, there and back ----

CAPTURED = b"".join(
    [
        Query(b"select 1 as a, null::text as b, 'x'::varchar(7) as c; ; select 2 where false; sel").encode(),
        Query(b"").encode(),
        Parse(b"", b"select $1::int8 + $2, relname from pg_class where oid = $3", (0, 23, 26)).encode(),
        Bind(b"", b"", (1, 0, 0), (pack(">q", 40), b"2", b"1259"), (1,)).encode(),
        Describe(b"S", b"").encode(),
        Describe(b"P", b"").encode(),
        Execute(b"", 0).encode(),
        Close(b"P", b"").encode(),
        Sync().encode(),
        Query(b"do $$ begin raise notice 'n' using detail = 'd', hint = 'h'; end $$").encode(),
        Query(b"copy (select 1, null) to stdout; copy (select 2) to stdout (format binary)").encode(),
        Query(b"listen c; notify c, 'p'").encode(),
    ]
)

REBUILD: dict[int, Callable[[bytes], bytes]] = {
    backend.PARAMETER_STATUS: lambda body: backend.parameter_status(*backend.decode_parameter_status(body)),
    backend.READY_FOR_QUERY: lambda body: backend.ready_for_query(backend.decode_ready_for_query(body)),
    backend.COMMAND_COMPLETE: lambda body: backend.command_complete(backend.decode_command_tag(body)),
    backend.ROW_DESCRIPTION: lambda body: backend.row_description(backend.decode_row_description(body)),
    backend.DATA_ROW: lambda body: backend.data_row(backend.decode_data_row(body)),
    backend.ERROR_RESPONSE: lambda body: backend.error_response(backend.decode_error(body)),
    backend.NOTICE_RESPONSE: lambda body: backend.notice_response(backend.decode_error(body)),
    backend.NOTIFICATION_RESPONSE: lambda body: backend.notification_response(*backend.decode_notification(body)),
    backend.PARAMETER_DESCRIPTION: lambda body: backend.parameter_description(
        backend.decode_parameter_description(body)
    ),
    backend.COPY_OUT_RESPONSE: lambda body: backend.copy_out_response(
        backend.decode_copy_response(body).format, backend.decode_copy_response(body).column_formats
    ),
    backend.COPY_DATA: backend.copy_data,
    backend.BACKEND_KEY_DATA: lambda body: backend.backend_key_data(*backend.decode_backend_key_data(body)),
    backend.AUTHENTICATION: lambda _: backend.authentication_ok(),
    backend.PARSE_COMPLETE: lambda _: backend.parse_complete(),
    backend.BIND_COMPLETE: lambda _: backend.bind_complete(),
    backend.CLOSE_COMPLETE: lambda _: backend.close_complete(),
    backend.NO_DATA: lambda _: backend.no_data(),
    backend.EMPTY_QUERY_RESPONSE: lambda _: backend.empty_query_response(),
    backend.COPY_DONE: lambda _: backend.copy_done(),
}


def test_what_postgres_sends_is_read_and_built_again_byte_for_byte(wire: Wire) -> None:
    frames = wire.log_in(2)
    wire.send(CAPTURED)
    frames += wire.read_to_ready(6)
    for kind, body in frames:
        assert REBUILD[kind](body) == frame(bytes((kind,)), body)
    assert {chr(kind) for kind, _ in frames} >= set("RSKZTDCEN12t3IHdcA")


def test_a_bind_that_postgres_takes_is_read_as_it_was_meant(wire: Wire) -> None:
    wire.log_in()
    message = Bind(b"", b"", (0, 1, 0), (b"a", pack(">i", 7), None), (0, 1, 0))
    wire.send(Parse(b"", b"select $1::text, $2::int4, $3::text").encode() + message.encode())
    wire.send(Execute().encode() + SYNC)
    rows = [backend.decode_data_row(body) for kind, body in wire.read_to_ready() if kind == backend.DATA_ROW]
    assert [list(decode_bind(message.encode()[5:]).parameters)] == rows


def test_verifiers_are_postgres_own(wire: Wire) -> None:
    wire.log_in()
    text = "set password_encryption = 'scram-sha-256'; create role verified password 'pässword'"
    wire.query(f"begin; {text}")
    frames = wire.query("select rolpassword from pg_authid where rolname = 'verified'")
    (row,) = [backend.decode_data_row(body) for kind, body in frames if kind == backend.DATA_ROW]
    assert row[0] is not None
    stored = row[0].decode()
    verifier = Verifier.parse(stored)
    assert verifier.format() == stored
    assert Verifier.of_password("pässword", verifier.salt, verifier.iterations) == verifier
    wire.query("rollback")


def test_a_query_in_mid_pipeline(wire: Wire) -> None:
    wire.log_in()
    wire.send(Parse(b"", b"select 1").encode() + Query(b"select 2").encode() + SYNC)
    assert "".join(chr(kind) for kind, _ in wire.read_to_ready(2)) == "1TDCZZ"


# ---- the state table against Postgres: random walks ----

# Moves, with the type bytes of the answer where the table says that the message is taken.
_COPY = b"copy walked from stdin"
_MOVES: dict[str, tuple[tuple[bytes, str], ...]] = {
    "query": ((Query(b"select 1").encode(), "TDCZ"),),
    "bad query": ((Query(b"sel").encode(), "EZ"),),
    "broken query": ((frame(b"Q", b"no end"), "EZ"),),
    "copy query": ((Query(_COPY).encode(), "G"),),
    "two copies": ((Query(_COPY + b";" + _COPY).encode(), "G"),),
    "copy out": ((Query(b"copy (select 1) to stdout").encode(), "HdcCZ"),),
    "parse": ((Parse(b"", b"select 1").encode(), "1"),),
    "close": ((Close(b"S", b"none").encode(), "3"),),
    "flush": ((Flush().encode(), ""),),
    "sync": ((Sync().encode(), "Z"),),
    "broken sync": ((frame(b"S", b"x"), "EZ"),),
    "broken function call": ((frame(b"F", b""), "EZ"),),
    "broken describe": ((frame(b"D", b""), "E"),),
    "late data": ((CopyData(b"1\n").encode(), ""),),
    "late done": ((CopyDone().encode(), ""),),
    "late fail": ((CopyFail(b"why").encode(), ""),),
    "execute copy": (
        (Parse(b"", _COPY).encode(), "1"),
        (Bind(b"", b"").encode(), "2"),
        (Execute().encode(), "G"),
    ),
    "execute copy out": (
        (Parse(b"", b"copy (select 1) to stdout").encode(), "1"),
        (Bind(b"", b"").encode(), "2"),
        (Execute().encode(), "HdcC"),
    ),
}
_SAID = {"Z": Said.READY_FOR_QUERY, "E": Said.ERROR, "G": Said.COPY_IN, "H": Said.COPY_OUT, "c": Said.COPY_DONE}


class Walk:
    """One random session: what is sent, what the table and the moves say will be answered."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.machine = ProtocolState(State.READY)
        self.sent = b""
        self.answers = ""
        self.copies = 0
        self.visited: set[State] = set()

    def send(self, data: bytes, answer: str) -> None:
        verdict = self.machine.client(data[0])
        self.sent += data
        self.visited.add(self.machine.state)
        for kind in answer if verdict is Verdict.TAKE else "":
            self.answers += kind
            if kind in _SAID:
                self.machine.server(_SAID[kind])
                self.visited.add(self.machine.state)
        assert self.machine.state in TAKING

    def step(self) -> None:
        if self.machine.state in (State.COPY_IN, State.PIPELINE_COPY_IN):
            self.step_in_copy()
            return
        names = sorted(_MOVES)
        if self.machine.state is State.PIPELINE:
            # Not a Query here: the table allows it and Postgres answers it, but after an Execute it leaves PostgreSQL
            # 18.6 in a state of its own ("StartTransactionCommand: unexpected state STARTED" for a later Query).
            names = [name for name in names if _MOVES[name][0][0][:1] != b"Q"]
        name = self.random.choice(names)
        if self.machine.state is State.READY:
            self.copies = 2 if name == "two copies" else 1
        for data, answer in _MOVES[name]:
            self.send(data, answer)

    def step_in_copy(self) -> None:
        simple = self.machine.state is State.COPY_IN
        name = self.random.choice(["data", "data", "bad data", "done", "fail", "flush", "sync"])
        if name == "data":
            self.send(CopyData(b"1\n").encode(), "")
        elif name == "bad data":
            self.send(CopyData(b"one\n").encode(), "EZ" if simple else "E")
        elif name == "done":
            self.copies -= simple
            self.send(CopyDone().encode(), "C" if not simple else "CZ" if not self.copies else "CG")
        elif name == "fail":
            self.send(CopyFail(b"why").encode(), "EZ" if simple else "E")
        else:
            self.send(FLUSH if name == "flush" else SYNC, "")

    def finish(self) -> None:
        if self.machine.state is State.COPY_IN:
            self.send(CopyFail(b"end").encode(), "EZ")
        elif self.machine.state is State.PIPELINE_COPY_IN:
            self.send(CopyFail(b"end").encode(), "E")
        self.send(SYNC, "Z")
        self.machine.client(Terminate.TYPE)
        self.sent += TERMINATE


WALKS = 40
STEPS = 30


def test_random_sessions_are_answered_as_the_table_says(module_databases: list[str]) -> None:
    visited: set[State] = set()
    with closing(Wire(module_databases[0])) as wire:
        wire.log_in()
        wire.query("create table if not exists walked (a int)")
    for seed in range(WALKS):
        walker = Walk(seed)
        for _ in range(STEPS):
            walker.step()
        walker.finish()
        visited |= walker.visited
        with closing(Wire(module_databases[0])) as wire:
            wire.log_in()
            wire.send(walker.sent)
            answers = "".join(chr(kind) for kind, _ in split(wire.read_to_end()))
        assert answers == walker.answers, f"seed {seed}"
    assert visited == set(State) - {State.STARTUP, State.AUTHENTICATION, State.TERMINATED}


@pytest.mark.parametrize("data", [Query(b"select 1").encode(), TERMINATE, frame(b"z", b""), frame(b"p", b"x")])
@pytest.mark.parametrize("pipeline", [False, True])
def test_out_of_turn_in_copy_ends_the_session(wire: Wire, data: bytes, pipeline: bool) -> None:  # noqa: FBT001
    wire.log_in()
    wire.query("create table if not exists walked (a int)")
    if pipeline:
        wire.send(Parse(b"", _COPY).encode() + Bind(b"", b"").encode() + Execute().encode())
    else:
        wire.send(Query(_COPY).encode())
    wire.send(data)
    errors = [backend.decode_error(body) for kind, body in split(wire.read_to_end()) if kind == backend.ERROR_RESPONSE]
    machine = ProtocolState(State.PIPELINE_COPY_IN if pipeline else State.COPY_IN)
    with pytest.raises(ProtocolViolation) as caught:
        machine.client(data[0])
    # Postgres says it as an ERROR, and then that it is lost; one FATAL says both.
    assert [(error.severity, error.sqlstate) for error in errors] == [("ERROR", "08P01"), ("FATAL", "08P01")]
    assert errors[0].message == caught.value.message
    assert caught.value.fatal
