"""COPY over three real shards.

Rows land where Postgres's own hash says, streams come back as one, errors end it everywhere.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

import psycopg
import pytest

from executor_kit import IDLE, Client, Shards
from proxy.errors import ProxyError
from proxy.executor.copy_binary import SIGNATURE, TRAILER
from proxy.executor.request import Limits, Request, send
from proxy.shards.errors import ShardError
from proxy.wire import backend
from proxy.wire.errors import ProtocolViolation
from router.errors import Refused
from router.plan import EveryShard
from router.plan_copy import CopyFormat, CopyIn, CopyInExecution, CopyOut, CopyOutExecution
from router.sharding import slot_check, slot_expression

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOTS = 4096
OWNERS = tuple(slot * 3 // SLOTS for slot in range(SLOTS))
CSV = CopyFormat("csv", ",", "")
DATA, DONE, FAIL = b"d", b"c", b"f"


async def make_table(shards: Shards, columns: str = "k int, v text", key_type: str = "int4") -> None:
    """Make table c on each shard, whose CHECK says which rows belong there."""
    for shard, link in shards.links.items():
        mine = [slot for slot in range(SLOTS) if OWNERS[slot] == shard]
        check = slot_check(key_type, "k", SLOTS, mine[0], mine[-1])
        await link.run(f"CREATE TABLE c ({columns}, CHECK ({check}))")


def copy_in(copy_format: CopyFormat = CopyFormat(), key_type: str = "int4", column: int | None = 0) -> CopyInExecution:  # noqa: B008
    return CopyInExecution((0, 1, 2), CopyIn(EveryShard(), copy_format, key_type, column, 2, table="c"), OWNERS)


def sends(shards: Shards, *data: bytes, end: tuple[bytes, bytes] = (DONE, b"")) -> None:
    """Let the client send data in messages that arrive one by one, and then the end."""
    shards.client = Client()
    for piece in data:
        shards.client.says((DATA, piece))
    shards.client.says(end)


async def all_rows(shards: Shards, columns: str = "k || ':' || coalesce(v, '')") -> list[bytes]:
    return sorted(value or b"" for share in await shards.values(f"SELECT {columns} FROM c") for value in share)


async def test_rows_go_where_they_belong(shards: Shards) -> None:
    await make_table(shards)
    lines = [b"%d\tword %d\n" % (key, key) for key in range(-500, 500)]
    data = b"".join(lines)
    sends(shards, *(data[at : at + 1000] for at in range(0, len(data), 1000)))
    client = await shards.answer(copy_in(), "COPY c FROM STDIN")
    assert client.kinds() == "GC"
    assert client.tags() == [b"COPY 1000"]
    assert await all_rows(shards) == sorted(b"%d:word %d" % (key, key) for key in range(-500, 500))
    counts = [int(count[0] or 0) for count in await shards.values("SELECT count(*) FROM c")]
    assert min(counts) > 250
    assert shards.joined == [((0, 1, 2), True)]
    shards.check_idle(IDLE)


@pytest.mark.parametrize(
    ("copy_format", "options", "data"),
    [
        (CSV, "FORMAT csv", b'1,"a\nb"\r\n2,"say ""x"""\r\n3,\r\n'),
        (CopyFormat("csv", ",", "", header=True), "FORMAT csv, HEADER", b'k,"v\n"\n1,a\n2,b\n3,c\n'),
        (CopyFormat(header=True), "HEADER MATCH", b"k\tv\n1\ta\n2\t\\N\n3\tc\\nd\n"),
        (CopyFormat(delimiter="|", null="-"), "DELIMITER '|', NULL '-'", b"1|a\n-|b\n3|-\n"),
    ],
)
async def test_formats(
    shards: Shards, module_databases: list[str], copy_format: CopyFormat, options: str, data: bytes
) -> None:
    await make_table(shards)
    sends(shards, *(data[at : at + 1] for at in range(len(data))))
    client = await shards.answer(copy_in(copy_format), f"COPY c FROM STDIN ({options})")
    assert client.tags() == [b"COPY 3"]
    with psycopg.connect(module_databases[0], autocommit=True) as connection:
        connection.execute("CREATE TABLE whole (k int, v text)")
        with connection.cursor() as cursor, cursor.copy(f"COPY whole FROM STDIN ({options})") as copy:
            copy.write(data)
        whole = connection.execute(
            "SELECT coalesce(k::text, 'null') || ':' || coalesce(v, 'null') FROM whole"
        ).fetchall()
    expected = sorted(row[0].encode() for row in whole)
    assert await all_rows(shards, "coalesce(k::text, 'null') || ':' || coalesce(v, 'null')") == expected


async def test_binary(shards: Shards) -> None:
    await make_table(shards)
    data = SIGNATURE + struct.pack(">II", 0, 0)
    for key in range(200):
        data += struct.pack(">hii", 2, 4, key) + struct.pack(">i", 3) + b"abc"
    data += TRAILER
    sends(shards, *(data[at : at + 77] for at in range(0, len(data), 77)))
    client = await shards.answer(copy_in(CopyFormat("binary")), "COPY c FROM STDIN (FORMAT binary)")
    assert client.tags() == [b"COPY 200"]
    assert await all_rows(shards) == sorted(b"%d:abc" % key for key in range(200))


@pytest.mark.parametrize("key_type", ["int2", "int8", "text", "varchar(20)", "char(20)", "uuid"])
async def test_key_types(shards: Shards, key_type: str) -> None:
    family = "bpchar" if key_type.startswith("char") else key_type.partition("(")[0]
    await make_table(shards, f"v text, k {key_type}", family)
    keys = [f"{at:032x}" if family == "uuid" else str(at) for at in range(300)]
    if family == "uuid":
        keys = [f"{key[:8]}-{key[8:12]}-{key[12:16]}-{key[16:20]}-{key[20:]}" for key in keys]
    if family in ("text", "varchar", "bpchar"):
        keys += ["é", "🙂 x", "back\\\\slash", "tab\\tx", "blanks   "]
    sends(shards, "".join(f"x\t{key}\n" for key in keys).encode())
    client = await shards.answer(copy_in(CopyFormat(), family, 1), "COPY c FROM STDIN")
    assert client.tags() == [b"COPY %d" % len(keys)]
    slot = slot_expression(family, "k", SLOTS)
    for shard, share in enumerate(await shards.values(f"SELECT {slot} FROM c")):
        assert all(OWNERS[int(value or 0)] == shard for value in share)
        assert share


async def test_varchar_drops_blanks_beyond_its_length(shards: Shards) -> None:
    await make_table(shards, "k varchar(3), v text", "varchar")
    sends(shards, b"".join(b"%03d    \tx\n" % key for key in range(100)))
    plan = CopyIn(EveryShard(), CopyFormat(), "varchar", 0, 2, key_modifier=3 + 4)
    await shards.answer(CopyInExecution((0, 1, 2), plan, OWNERS), "COPY c FROM STDIN")
    assert await all_rows(shards, "k") == [b"%03d" % key for key in range(100)]


async def test_text_keys_in_another_encoding(shards: Shards) -> None:
    await make_table(shards, "k text, v text", "text")
    await shards.everywhere("SET client_encoding TO 'LATIN1'")
    keys = [f"é{at}ü" for at in range(50)]
    sends(shards, "".join(f"{key}\tx\n" for key in keys).encode("latin-1"))
    await shards.answer(copy_in(CopyFormat(), "text"), Request("COPY c FROM STDIN", encoding="latin-1"))
    await shards.everywhere("SET client_encoding TO 'UTF8'")
    assert await all_rows(shards, "k") == sorted(key.encode() for key in keys)
    with pytest.raises(ProxyError, match="encoding of its data is sjis"):
        await shards.answer(copy_in(CopyFormat(), "text"), Request("COPY c FROM STDIN", encoding="sjis"))


async def test_every_row_to_every_shard(shards: Shards) -> None:
    await shards.everywhere("CREATE TABLE c (k int, v text)")
    sends(shards, b"1\ta\n2", b"\tb\n", b"\\.\n")
    client = await shards.answer(copy_in(column=None), "COPY c FROM STDIN")
    assert client.tags() == [b"COPY 2"]
    assert await shards.values("SELECT k FROM c") == [[b"1", b"2"]] * 3


# --- errors ------------------------------------------------------------------------------------------------------


async def failing(shards: Shards, execution: CopyInExecution, text: str = "COPY c FROM STDIN") -> ShardError:
    """Run a COPY inside a block, see that it fails and leaves nothing running."""
    await shards.everywhere("BEGIN")
    async with asyncio.timeout(30):
        with pytest.raises(ShardError) as raised:
            await shards.answer(execution, text)
    shards.check_idle()
    await shards.everywhere("ROLLBACK")
    return raised.value


@pytest.mark.parametrize("bad_line", [1, 2, 777, 1999])
async def test_an_error_names_the_clients_line(shards: Shards, bad_line: int) -> None:
    await make_table(shards, "k int, v int")
    lines = [b"%d\t1\n" % key for key in range(1, 2001)]
    lines[bad_line - 1] = b"%d\tx1\n" % bad_line
    sends(shards, b"".join(lines[:1000]), b"".join(lines[1000:]))
    error = await failing(shards, copy_in())
    assert error.sqlstate == "22P02"
    assert error.fields.get("W") == f'COPY c, line {bad_line}, column v: "x1"'
    assert error.raw == backend.error_response(error.fields)


async def test_a_bad_key_is_refused_in_postgress_words(shards: Shards) -> None:
    await make_table(shards)
    sends(shards, b"1\ta\n2\tb\nthree\tc\n")
    error = await failing(shards, copy_in())
    assert (error.sqlstate, error.message) == ("22P02", 'invalid input syntax for type integer: "three"')
    assert error.fields.get("W") == 'COPY c, line 3, column k: "three"'


async def test_with_a_header_lines_count_from_it(shards: Shards) -> None:
    await make_table(shards, "k int, v int")
    sends(shards, b"k\tv\n" + b"".join(b"%d\t1\n" % key for key in range(2, 50)) + b"50\tx\n")
    error = await failing(shards, copy_in(CopyFormat(header=True)), "COPY c FROM STDIN (HEADER)")
    assert error.fields.get("W") == 'COPY c, line 50, column v: "x"'


async def test_rows_of_several_lines_count_as_postgres_counts_them(shards: Shards) -> None:
    await make_table(shards, "k int, v text, w int")
    sends(shards, b'1,"a\nb",1\n' + b"".join(b"%d,c,1\n" % key for key in range(2, 50)) + b"50,d,x\n")
    error = await failing(shards, copy_in(CSV), "COPY c FROM STDIN (FORMAT csv)")
    assert error.sqlstate == "22P02"
    assert error.fields.get("W") == 'COPY c, line 50, column w: "x"'  # the newline in the first row is not counted
    sends(shards, b'1,"a\nb",1\n2,"a\nb",1\n' + b"".join(b"%d,c,1\n" % key for key in range(3, 50)) + b"50,d,x\n")
    error = await failing(shards, copy_in(CSV), "COPY c FROM STDIN (FORMAT csv)")
    assert error.fields.get("W") == 'COPY c, line 51, column w: "x"'


async def test_unreadable_data_is_the_proxys_error(shards: Shards) -> None:
    await make_table(shards)
    sends(shards, b"1\ta\n2\tb\r\n")
    await shards.everywhere("BEGIN")
    with pytest.raises(ProxyError) as raised:
        await shards.answer(copy_in(), "COPY c FROM STDIN")
    assert (raised.value.sqlstate, raised.value.message) == ("22P04", "literal carriage return found in data")
    assert raised.value.fields().get("W") == "COPY c, line 2"
    shards.check_idle(ord("E"))
    # A row before it is wrong as well: one Postgres would have found that first.
    await shards.everywhere("ROLLBACK")
    sends(shards, b"x\ta\n2\tb\r\n")
    error = await failing(shards, copy_in())
    assert error.message == 'invalid input syntax for type integer: "x"'


async def test_an_error_while_the_client_still_sends(shards: Shards) -> None:
    """The client never ends its data by itself: the error must not wait for it."""
    await make_table(shards, "k int, v int")
    shards.client = Client()
    shards.client.says((DATA, b"1\tx\n" + b"2\t1\n" * 100_000))
    error = await failing(shards, copy_in())
    assert error.sqlstate in ("22P02", "23505")
    assert shards.client.kinds() == "G"


async def test_a_constraint_that_fails_at_the_end(shards: Shards) -> None:
    await make_table(shards, "k int PRIMARY KEY DEFERRABLE INITIALLY IMMEDIATE, v text")
    sends(shards, b"".join(b"%d\ta\n" % key for key in [*range(100), 50]))
    error = await failing(shards, copy_in())
    assert error.sqlstate == "23505"


async def test_copy_fail(shards: Shards) -> None:
    await make_table(shards)
    sends(shards, b"1\ta\n", end=(FAIL, b"changed my mind\0"))
    error = await failing(shards, copy_in())
    assert (error.sqlstate, error.message) == ("57014", "COPY from stdin failed: changed my mind")
    assert await all_rows(shards) == []


async def test_other_messages(shards: Shards) -> None:
    await make_table(shards)
    shards.client = Client()
    shards.client.says(
        (DATA, b"1\ta\n"), (b"H", b""), (b"S", b""), (DATA, b"2\tb\n"), (DONE, b""), (b"S", b""), (b"Q", b"x\0")
    )
    client = await shards.answer(copy_in(), "COPY c FROM STDIN")
    assert client.tags() == [b"COPY 2"]
    assert client.pushed_back == [(ord("S"), b""), (ord("Q"), b"x\0")]
    shards.client = Client()
    shards.client.says((DATA, b"1\ta\n"), (b"P", b"odd"), (b"S", b""))
    with pytest.raises(ProtocolViolation, match="synchronization was lost") as lost:
        await shards.answer(copy_in(), "COPY c FROM STDIN")
    assert lost.value.fatal
    assert shards.client.kinds() == "GE"
    assert len(await all_rows(shards)) == 2


async def test_a_table_that_is_missing_on_one_shard(shards: Shards) -> None:
    await make_table(shards)
    await shards.links[1].run("DROP TABLE c")
    sends(shards, b"1\ta\n")
    error = await failing(shards, copy_in())
    assert error.sqlstate == "42P01"
    assert shards.client.kinds() == ""


async def test_different_columns(shards: Shards) -> None:
    await make_table(shards)
    await shards.links[1].run("ALTER TABLE c ADD w int")
    sends(shards, b"1\ta\n")
    with pytest.raises(Refused, match="different columns"):
        await shards.answer(copy_in(), "COPY c FROM STDIN")
    shards.check_idle()


async def test_a_link_lost_while_data_comes(shards: Shards) -> None:
    await make_table(shards)
    shards.client = Client()
    shards.client.says((DATA, b"1\ta\n"))
    running = asyncio.ensure_future(shards.answer(copy_in(), "COPY c FROM STDIN"))
    await shards.client.wrote.wait()
    assert shards.client.kinds() == "G"
    admin = await shards.another_link(2)
    await admin.run(f"SELECT pg_terminate_backend({shards.links[2].pid})")
    with pytest.raises(ShardError) as raised:
        await running
    assert raised.value.lost
    shards.check_idle(IDLE)
    assert shards.links[2].closed
    del shards.links[2]
    assert await shards.values("SELECT count(*) FROM c") == [[b"0"]] * 2
    await admin.close()


async def test_a_client_that_goes_away(shards: Shards) -> None:
    await make_table(shards)

    class Gone(Client):
        async def receive_many(self) -> list[tuple[int, bytes]]:
            if self.inbox:
                return await super().receive_many()
            raise ConnectionError

    shards.client = Gone()
    shards.client.says((DATA, b"1\ta\n2\tb\n3\tc\n"))
    result = await shards.start(copy_in(), "COPY c FROM STDIN")
    with pytest.raises(ConnectionError):
        await result.next_rows()
    shards.check_idle(IDLE)
    assert await all_rows(shards) == []


# --- COPY TO -----------------------------------------------------------------------------------------------------


def copy_out(copy_format: CopyFormat = CopyFormat()) -> CopyOutExecution:  # noqa: B008
    return CopyOutExecution((0, 1, 2), CopyOut(EveryShard(), copy_format))


def data_of(client: Client) -> list[bytes]:
    return [body for kind, body in client.frames() if kind == "d"]


async def numbered(shards: Shards, counts: Sequence[int]) -> None:
    for (shard, link), count in zip(shards.links.items(), counts, strict=True):
        await link.run(f"CREATE TABLE o AS SELECT g AS k, {shard} AS s, 'é' AS v FROM generate_series(1, {count}) g")


@pytest.mark.parametrize("counts", [(2, 0, 3), (0, 0, 0), (0, 1, 0), (3000, 2000, 10)])
@pytest.mark.parametrize(
    ("copy_format", "options"),
    [
        (CopyFormat(), "FORMAT text"),
        (CopyFormat(header=True), "HEADER"),
        (CSV, "FORMAT csv"),
        (CopyFormat("csv", ",", "", header=True), "FORMAT csv, HEADER"),
        (CopyFormat("binary"), "FORMAT binary"),
    ],
)
async def test_copy_to(
    shards: Shards, module_databases: list[str], copy_format: CopyFormat, options: str, counts: tuple[int, int, int]
) -> None:
    await numbered(shards, counts)
    client = await shards.answer(
        copy_out(copy_format), f"COPY o TO STDOUT ({options})", limits=Limits(max_buffer_bytes=9999)
    )
    assert client.kinds() == ("HdcC" if data_of(client) else "HcC")
    assert client.tags() == [b"COPY %d" % sum(counts)]
    # One Postgres with the same rows in the same order gives the same bytes.
    with psycopg.connect(module_databases[0], autocommit=True) as connection:
        connection.execute("CREATE TABLE whole (k int, s int, v text)")
        for shard, count in enumerate(counts):
            connection.execute(f"INSERT INTO whole SELECT g, {shard}, 'é' FROM generate_series(1, {count}) g")
        with connection.cursor() as cursor, cursor.copy(f"COPY whole TO STDOUT ({options})") as copy:
            expected = b"".join(copy)
    assert b"".join(data_of(client)) == expected


async def test_copy_to_fails_in_the_middle(shards: Shards) -> None:
    await numbered(shards, (5, 5, 5))
    with pytest.raises(ShardError) as raised:
        await shards.answer(copy_out(), "COPY (SELECT 1 / (k + s - 6) FROM o ORDER BY k) TO STDOUT")
    assert raised.value.sqlstate == "22012"
    assert raised.value.shard == 1
    assert shards.client.kinds() == "Hd"
    shards.check_idle()


async def test_copy_to_closed_early(shards: Shards) -> None:
    await numbered(shards, (50_000, 5, 5))
    result = await shards.start(copy_out(), "COPY o TO STDOUT", limits=Limits(max_buffer_bytes=1000))
    batch = await result.next_rows()
    assert batch.frames
    assert not batch.done
    await result.close()
    shards.check_idle(IDLE)


async def test_copy_to_of_different_columns(shards: Shards) -> None:
    await numbered(shards, (5, 5, 5))
    await shards.links[1].run("ALTER TABLE o ADD w int")
    result = await shards.start(copy_out(), "COPY o TO STDOUT")
    with pytest.raises(Refused, match="different columns"):
        await send(result, shards.client)
    await result.close()
    shards.check_idle(IDLE)
