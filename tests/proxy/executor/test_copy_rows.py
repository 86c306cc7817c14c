r"""Cutting COPY data: dealt over three tables of a real Postgres, the rows must be those that one COPY gives.

Random data is made of the bytes that matter (delimiters, quotes, backslashes, newlines of all kinds, ``\.``), so most
of it is wrong: then both sides must say so. Each case is fed whole and in small pieces."""

from __future__ import annotations

import random
import re
import struct
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.executor.copy_binary import SIGNATURE, TRAILER, BinarySplitter
from proxy.executor.copy_dealt import Dealt, Folded, Numbering
from proxy.executor.copy_key import KeyPlacer
from proxy.executor.copy_rows import CsvSplitter, Dealing, LineSplitter, TextSplitter
from proxy.executor.failure import CombineFailure
from router.plan_copy import CopyFormat
from router.sharding import slot_expression

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SHARDS = 3
SLOTS = 64
OWNERS = [slot * SHARDS // SLOTS for slot in range(SLOTS)]
SEED = 4242
Splitter = LineSplitter | BinarySplitter

FORMATS = {
    "text": CopyFormat(),
    "text, other characters": CopyFormat(delimiter="|", null="none"),
    "text, header": CopyFormat(header=True),
    "csv": CopyFormat("csv", ",", ""),
    "csv, escape": CopyFormat("csv", ";", "nil", quote="'", escape="\\"),
    "csv, header": CopyFormat("csv", ",", "", header=True),
    "csv, backslash quote": CopyFormat("csv", ",", "", quote='"', escape="!"),
}


def quoted(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def options(copy_format: CopyFormat) -> str:
    parts = [f"FORMAT {copy_format.format}"]
    if copy_format.format != "binary":
        parts += [f"DELIMITER {quoted(copy_format.delimiter)}", f"NULL {quoted(copy_format.null)}"]
        parts += ["HEADER"] if copy_format.header else []
    if copy_format.format == "csv":
        parts += [f"QUOTE {quoted(copy_format.quote)}", f"ESCAPE {quoted(copy_format.escape)}"]
    return ", ".join(parts)


def splitter_for(copy_format: CopyFormat, column: int, key_type: str) -> Splitter:
    dealt = Dealt(SHARDS, Numbering(SHARDS))
    placer = KeyPlacer(key_type, OWNERS)
    if copy_format.format == "binary":
        return BinarySplitter(column, placer, dealt)
    kind = CsvSplitter if copy_format.format == "csv" else TextSplitter
    return kind(Dealing(copy_format, column, placer, dealt))


def deal(splitter: Splitter, pieces: Sequence[bytes]) -> list[bytes]:
    for piece in pieces:
        splitter.feed(piece)
    splitter.finish()
    return [splitter.dealt.take(shard) for shard in range(SHARDS)]


def cut_anywhere(data: bytes, source: random.Random) -> list[bytes]:
    cuts = sorted(source.randrange(len(data) + 1) for _ in range(source.randrange(12)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def line_of(error: Exception) -> int:
    assert isinstance(error, psycopg.Error)
    found = re.match(r"COPY \w+, line (\d+)", error.diag.context or "")
    assert found, error.diag.context
    return int(found[1])


def own_line(splitter: Splitter, shard: int, error: Exception) -> int | None:
    """Return the line that an error of a shard is on, as the client counts."""
    in_the_middle = isinstance(error, psycopg.errors.CharacterNotInRepertoire)
    return splitter.dealt.numbering.original(shard, line_of(error), whole=not in_the_middle)


class Server:
    """Loads data into tables of one key type: ``whole`` takes everything, ``part`` one shard's share."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]], key_type: str, column: int) -> None:
        self.connection = connection
        self.key_type = key_type
        columns = ["a text", "b text"]
        columns.insert(column, f"k {key_type}")
        slot = slot_expression(key_type, "k", SLOTS)
        for table in ("whole", *(f"part{shard}" for shard in range(SHARDS))):
            connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        for shard in range(SHARDS):
            mine = [slot for slot, owner in enumerate(OWNERS) if owner == shard]
            connection.execute(f"ALTER TABLE part{shard} ADD CHECK ({slot} BETWEEN {mine[0]} AND {mine[-1]})")

    def load(self, table: str, data: bytes, copy_format: CopyFormat) -> Exception | None:
        """COPY into a table; returns the error, if there is one."""
        try:
            with self.connection.transaction(), self.connection.cursor() as cursor:
                cursor.execute(f"TRUNCATE {table}")
                with cursor.copy(f"COPY {table} FROM STDIN ({options(copy_format)})") as copy:
                    copy.write(data)
        except psycopg.Error as error:
            return error
        return None

    def rows(self, table: str) -> list[tuple[object, ...]]:
        return self.connection.execute(f"SELECT * FROM {table}").fetchall()

    def check(self, copy_format: CopyFormat, column: int, data: bytes, source: random.Random) -> bool:
        """Load data whole and in parts, and compare; returns whether it was good data."""
        expected = self.load("whole", data, copy_format)
        for pieces in ([data], cut_anywhere(data, source), [data[at : at + 1] for at in range(len(data))]):
            failure: Exception | None = None
            splitter = splitter_for(copy_format, column, self.key_type)
            try:
                shares = deal(splitter, pieces)
            except CombineFailure as error:
                # What was dealt before it is on its way to the servers, which may have found another error there.
                failure = error
                shares = [splitter.dealt.take(shard) for shard in range(SHARDS)]
            errors = [
                self.load(f"part{shard}", share, copy_format) if share else None for shard, share in enumerate(shares)
            ]
            if expected is not None and copy_format.format != "binary":
                lines = [own_line(splitter, shard, error) for shard, error in enumerate(errors) if error is not None]
                lines = lines or [splitter.line()]
                first = min((line for line in lines if line is not None), default=0)
                assert None in lines or first == line_of(expected), (data, pieces, lines, expected)
            failure = next((error for error in errors if error is not None), failure)
            assert (failure is None) == (expected is None), (data, pieces, expected, failure)
            if failure is None:
                loaded = [shard for shard in range(SHARDS) if shares[shard]]
                parts = [row for shard in loaded for row in self.rows(f"part{shard}")]
                assert sorted(map(repr, parts)) == sorted(map(repr, self.rows("whole"))), (data, pieces)
            else:
                assert not isinstance(failure, psycopg.errors.CheckViolation), (data, pieces, failure)
                if isinstance(failure, CombineFailure):
                    assert isinstance(expected, psycopg.Error)
                    diag = expected.diag
                    assert (failure.sqlstate, failure.message) == (diag.sqlstate, diag.message_primary), (data, pieces)
        return expected is None


@pytest.fixture(scope="module")
def postgres(module_databases: list[str]) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(module_databases[0], autocommit=True) as connection:
        yield connection


KEYS: dict[str, list[bytes]] = {
    "int4": [b"0", b"7", b"-12", b"2147483647", b"99999999999", b" 5 ", b"+3", b"0x1F", b"1_0", b"007", b"x", b"0b11"],
    "int8": [b"1", b"-9223372036854775808", b"9223372036854775807", b"-0", b"0o17", b"12345678901", b"9" * 20],
    "int2": [b"1", b"-32768", b"32767", b"32768", b"12345"],
    "text": [b"", b"a", b"A b", "é🙂".encode(), b"0", b"x" * 30, b"\xff"],
    "bpchar": [b"", b" ", b"a  ", b"A b", "é🙂 ".encode(), b"x" * 30, b"\xff"],
    "uuid": [b"00000000-0000-0000-0000-000000000001", b"{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}",
             b"a0eebc999c0b4ef8bb6d6bb9bd380a11", b"a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11", b"a0e"],
}  # fmt: skip


@pytest.mark.parametrize("key_type", KEYS)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("column", [0, 2])
def test_keys_of_every_form(
    postgres: psycopg.Connection[tuple[object, ...]], key_type: str, name: str, column: int
) -> None:
    copy_format = FORMATS[name]
    server = Server(postgres, key_type, column)
    source = random.Random(f"{SEED} {key_type} {name} {column}")
    delimiter, null = copy_format.delimiter.encode(), copy_format.null.encode()
    good = 0
    for eol in (b"\n", b"\r\n", b"\r"):
        for _ in range(4):
            lines = []
            for _ in range(source.randrange(1, 8)):
                key = source.choice([*KEYS[key_type][:3] * 4, *KEYS[key_type], null])
                if copy_format.format == "csv" and source.random() < 0.3:
                    quote = copy_format.quote.encode()
                    key = quote + key + quote
                fields = [b"x", null]
                fields.insert(column, key)
                lines.append(delimiter.join(fields))
            data = eol.join(lines) + (eol if source.random() < 0.8 else b"")
            good += server.check(copy_format, column, data, source)
    assert good


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("key_type", ["int4", "text"])
def test_any_bytes(postgres: psycopg.Connection[tuple[object, ...]], name: str, key_type: str) -> None:
    copy_format = FORMATS[name]
    column = 1
    server = Server(postgres, key_type, column)
    source = random.Random(f"{SEED} {key_type} {name}")
    delimiter, quote, escape = (
        text.encode() for text in (copy_format.delimiter, copy_format.quote, copy_format.escape)
    )
    special = [b"\\", b"\\.", b"\\\n", b"\r", b"\n", b"\r\n", quote, escape, quote * 2, escape + quote, delimiter]
    special += [b"\\N", b"\\x41", b"\\101", b"\\t", b"\\" + delimiter, b"", b"\\.\n", b"\\.\r\n", b"\\\\"]
    good = 0
    for _ in range(60):
        eol = source.choice([b"\n", b"\n", b"\r\n", b"\r"])
        rate = source.choice([0.02, 0.1, 0.4])
        data = b""
        for _ in range(source.randrange(1, 6)):
            fields = [source.choice([b"a", b"", b"b c"]), source.choice([b"1", b"22", b"333"]), b"z"]
            if copy_format.format == "csv":
                fields = [quote + field + quote if source.random() < 0.3 else field for field in fields]
            line = delimiter.join(fields)
            for at in range(len(line), -1, -1):
                if source.random() < rate / 3:
                    line = line[:at] + source.choice(special) + line[at:]
            data += line + eol
        if source.random() < 0.2:
            data += source.choice([b"\\.", b"\\." + eol, b"\\." + eol + b"junk", b"\\.\n", b"\\.x", b"\\", b"tail"])
        good += server.check(copy_format, column, data, source)
    assert good > 8


def test_binary(postgres: psycopg.Connection[tuple[object, ...]]) -> None:
    copy_format = CopyFormat("binary")
    column = 1
    server = Server(postgres, "int4", column)
    source = random.Random(SEED)
    good = 0
    for _ in range(120):
        data = SIGNATURE + struct.pack(">II", 0, source.choice([0, 0, 5]))
        data += b"12345"[: struct.unpack(">I", data[-4:])[0]]
        for _ in range(source.randrange(6)):
            values = [
                b"x" * source.randrange(300),
                source.choice([struct.pack(">i", source.randrange(1 << 30)), None]),
                None,
            ]
            count = source.choice([3] * 30 + [2, 4])
            data += struct.pack(">h", count)
            for value in (values * 2)[:count]:
                data += struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value
        data += source.choice([TRAILER, TRAILER, b"", TRAILER + b"x"])
        if source.random() < 0.2:
            data = data[: source.randrange(len(data) + 1)]
        if source.random() < 0.05:
            data = data.replace(b"PGCOPY", b"PGCOPX")
        good += server.check(copy_format, column, data, source)
    assert good > 40


@settings(deadline=None)
@given(st.binary(max_size=80), st.sampled_from(sorted(FORMATS)), st.randoms(use_true_random=False))
def test_pieces_do_not_matter(data: bytes, name: str, source: random.Random) -> None:
    """Any bytes, cut anywhere, give the same rows to the same shards as whole."""

    def outcome(pieces: Sequence[bytes]) -> object:
        try:
            return deal(splitter_for(FORMATS[name], 0, "text"), pieces)
        except CombineFailure as failure:
            return failure.message

    assert outcome(cut_anywhere(data, source)) == outcome([data])


def test_a_long_row_in_many_pieces_is_not_walked_again_and_again() -> None:
    """Quadratic work would take minutes here."""
    field = b'"' + b"line\n" * 400_000 + b'"'
    data = b"1," + field + b"\n2,x\n"
    splitter = splitter_for(FORMATS["csv"], 0, "int4")
    shares = deal(splitter, [data[at : at + 4096] for at in range(0, len(data), 4096)])
    assert sum(map(len, shares)) == len(data)


@given(st.lists(st.integers(0, SHARDS - 1), max_size=60), st.integers(1, 20), st.integers(0, 1))
def test_line_numbers(owners: list[int], window: int, headers: int) -> None:
    numbering = Numbering(SHARDS, window=window)
    for _ in range(headers):
        numbering.header()
    for at in range(0, len(owners), 7):
        numbering.note(owners[at : at + 7])
    seen = [headers] * SHARDS
    for line, owner in enumerate(owners, start=headers + 1):
        seen[owner] += 1
        original = numbering.original(owner, seen[owner])
        assert original in (line, None)
        if line > headers + len(owners) - window:
            assert original == line


ENDS = st.tuples(st.integers(0, 2), st.integers(0, 2))
ROWS = st.lists(st.tuples(st.integers(0, SHARDS - 1), st.just((0, 0)) | ENDS), max_size=40)


@given(rows=ROWS, headers=st.integers(0, 1), by_newline=st.booleans())
def test_line_numbers_where_rows_are_folded(
    rows: list[tuple[int, tuple[int, int]]], headers: int, *, by_newline: bool
) -> None:
    numbering = Numbering(SHARDS)
    if headers:
        numbering.header(2)
    for at in range(0, len(rows), 7):
        batch = rows[at : at + 7]
        folded = [Folded(index, ends, ends) for index, (_, ends) in enumerate(batch) if any(ends)]
        numbering.note([owner for owner, _ in batch], folded, by_newline=by_newline)
    here, there = headers * 3, [headers * 3] * SHARDS
    for owner, ends in rows:
        here += 1 + (ends[0] if by_newline and here else ends[1])
        there[owner] += 1 + (ends[0] if by_newline and there[owner] else ends[1])
        assert numbering.original(owner, there[owner]) == here
    assert numbering.lines() == here
