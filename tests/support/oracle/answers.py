"""What a client sees of one statement, and the frames that ask for it in each of three ways."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.wire import backend
from proxy.wire.frontend import Bind, CopyData, CopyDone, Describe, Execute, Parse, Query, Sync
from wire_client import FIRST_OWN_OID, PATIENCE_SECONDS, ServerClosedError, WireClient

if TYPE_CHECKING:
    from oracle.corpus import Case, Value

MODES = ("simple", "extended", "binary")
_SYNC = Sync().encode()
_DESCRIBE, _EXECUTE = Describe(b"P", b"").encode(), Execute(b"", 0).encode()
_PACKED = {21: "!h", 23: "!i", 20: "!q"}
_TEXT_LIKE = {25, 1043}
_UUID = 2950
_ARRAY = struct.Struct("!iiI")  # dimensions, flags, type of the elements
_MAX_DIMENSIONS = 6
_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_COPIES = {ord("G"): "copy in", ord("H"): "copy out", ord("W"): "copy both"}
_COPY_DATA = ord("d")
LOST = "connection lost"


@dataclass(slots=True)
class Answer:
    """Columns are (name, type, modifier, format); rows hold bytes. ``message`` and ``position`` are an error's."""

    columns: tuple[tuple[object, ...], ...] | None = None
    origins: tuple[tuple[bool, int], ...] = ()
    rows: list[tuple[bytes | None, ...]] | None = None
    tag: str = ""
    sqlstate: str = ""
    message: str = ""
    hint: str = ""
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether the statement ended with an error."""
        return bool(self.sqlstate)


def encode(value: Value, *, binary: bool) -> tuple[int, bytes | None]:
    """Return a parameter's format and bytes; binary where its type is one that we can write so."""
    if value.text is None:
        return 0, None
    if binary and value.oid in _PACKED:
        return 1, struct.pack(_PACKED[value.oid], int(value.text))
    if binary and value.oid in _TEXT_LIKE:
        return 1, value.text.encode()
    if binary and value.oid == _UUID:
        return 1, uuid.UUID(value.text).bytes
    return 0, value.text.encode()


def frames(case: Case, mode: str) -> bytes:
    """Return one statement as messages, up to Sync."""
    sql = case.sql.encode()
    data = b""
    if case.data is not None:
        data = CopyData("".join(f"{line}\n" for line in case.data).encode()).encode() + CopyDone().encode()
    if mode == "simple":
        return Query(sql).encode() + data
    binary = mode == "binary"
    encoded = [encode(value, binary=binary) for value in case.values]
    bind = Bind(b"", b"", tuple(f for f, _ in encoded), tuple(v for _, v in encoded), (1,) if binary else ())
    parse = Parse(b"", sql, tuple(value.oid for value in case.values))
    return parse.encode() + bind.encode() + _DESCRIBE + _EXECUTE + data + _SYNC


class Asker:
    """One connection that asks and reads answers; opened anew when the server has closed it."""

    def __init__(self, name: str, dsn: str) -> None:
        self.name = name
        self._dsn = dsn
        self.search_path = ""
        self._client = self._open()

    def _open(self) -> WireClient:
        client = WireClient(self._dsn)
        client.socket.settimeout(PATIENCE_SECONDS * 2)
        if self.search_path:
            client.query(f"set search_path = {self.search_path}")
        return client

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def set_path(self, search_path: str) -> None:
        """Choose where names are looked up."""
        self.search_path = search_path
        self.run(f"set search_path = {search_path}" if search_path else "reset search_path")

    def send(self, messages: bytes) -> None:
        """Send; what goes wrong shows when the answer is read."""
        try:
            self._client.socket.sendall(messages)
        except OSError:
            return

    def read(self) -> Answer:
        """Read the answer to one statement."""
        try:
            return _answer(self._client.frames(lambda kind: kind == ord("Z")))
        except (ServerClosedError, OSError) as error:
            self._client.socket.close()
            self._client = self._open()
            return Answer(sqlstate=LOST, message=f"{type(error).__name__}: {error}")

    def read_all(self, count: int) -> list[Answer]:
        """Read the answers to so many statements; one that ends the connection is the answer to those after it too."""
        answers: list[Answer] = []
        while len(answers) < count:
            answers.append(self.read())
            if answers[-1].sqlstate == LOST:
                answers += [answers[-1]] * (count - len(answers))
        return answers

    def ask(self, case: Case, mode: str) -> Answer:
        """Run one statement."""
        self.send(frames(case, mode))
        return self.read()

    def run(self, sql: str) -> Answer:
        """Run a text by the simple protocol."""
        self.send(Query(sql.encode()).encode())
        return self.read()

    def must(self, sql: str) -> Answer:
        """Run a text that has to succeed."""
        answer = self.run(sql)
        if answer.failed:
            raise RuntimeError(f"{self.name}: {sql[:300]}: {answer.sqlstate} {answer.message} {answer.detail}")
        return answer


def _without_oid(value: bytes | None) -> bytes | None:
    """Return an array without the OID of its elements' type, if that is of the schema: each database has its own."""
    if value is None or len(value) < _ARRAY.size:
        return value
    dimensions, flags, oid = _ARRAY.unpack_from(value)
    if not (0 <= dimensions <= _MAX_DIMENSIONS and flags in {0, 1} and oid >= FIRST_OWN_OID):
        return value
    return value[:8] + bytes(4) + value[_ARRAY.size :]


def _copied(data: bytes) -> list[tuple[bytes | None, ...]]:
    """Return what a COPY has sent as rows: lines, or the tuples of the binary format."""
    if not data.startswith(_SIGNATURE):
        return [(line,) for line in data.splitlines(keepends=True)]
    rows: list[tuple[bytes | None, ...]] = [(data[: len(_SIGNATURE) + 8],)]
    at = len(_SIGNATURE) + 8
    while at < len(data):
        (count,) = struct.unpack_from("!h", data, at)
        at += 2
        row: list[bytes | None] = []
        for _ in range(count):  # -1 behind the last row
            (size,) = struct.unpack_from("!i", data, at)
            row.append(None if size < 0 else data[at + 4 : at + 4 + size])
            at += 4 + max(size, 0)
        rows.append(tuple(row))
    return rows


def _answer(got: list[tuple[int, bytes]]) -> Answer:
    answer = Answer()
    rows: list[tuple[bytes | None, ...]] = []
    copied: list[bytes] = []
    arrays: set[int] = set()  # columns that may be arrays of the schema's own types, in binary
    for kind, body in got:
        if kind == backend.DATA_ROW:
            row = backend.decode_data_row(body)
            rows.append(tuple(_without_oid(value) if at in arrays else value for at, value in enumerate(row)))
        elif kind == backend.ROW_DESCRIPTION:
            fields = backend.decode_row_description(body)
            answer.columns = tuple(
                (f.name.decode(), f.type_oid if f.type_oid < FIRST_OWN_OID else "own", f.type_modifier, f.format)
                for f in fields
            )
            arrays = {at for at, f in enumerate(fields) if f.format == 1 and f.type_oid >= FIRST_OWN_OID}
            answer.origins = tuple((bool(f.table_oid), f.column) for f in fields)
        elif kind in _COPIES:
            form = body[0]
            answer.columns = ((_COPIES[kind], form, len(body), form),)
        elif kind == _COPY_DATA:
            copied.append(body)
        elif kind == backend.COMMAND_COMPLETE:
            answer.tag = backend.decode_command_tag(body).decode()
        elif kind == backend.ERROR_RESPONSE:
            error = backend.decode_error(body)
            answer.sqlstate, answer.message = error.sqlstate, error.message
            known = dict(error.fields)
            answer.hint, answer.detail = known.get("H", ""), known.get("D", "")
    answer.rows = rows + _copied(b"".join(copied))
    return answer
