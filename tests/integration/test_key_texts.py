"""Keys in forms that Postgres reads and that are not its own: blanks, hexadecimal, underscores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.wire.frontend import Query
from wire_client import SYNC, bind, execute, parse

if TYPE_CHECKING:
    from wire_client import Twins
FORMS = ["' 70 '", "'0x46'", "'1_0'", "'+7'", "'007'", "0x46", "7_0", "'0b11'", "' -3'", "int8 ' 9 '", "'12'::int8"]
BAD = ["'seven'", "''", "'1__0'", "'99999999999999999999'", "'7.0'"]


@pytest.mark.parametrize("form", FORMS + BAD)
def test_rows_are_stored_and_found(twins: Twins, form: str) -> None:
    for text in (
        f"insert into notes values ({form}, 'one')",
        f"insert into notes values ({form}, 'again')",
        f"insert into notes values (5, 'x'), ({form}, 'y') on conflict (k) do update set v = excluded.v",
    ):
        twins.same(Query(text.encode()), ignoring="P")  # a place in a text of ours
    for text in (
        f"select k, v from notes where k = {form}",
        f"select k, v from notes where k in (1, {form}) order by k",
        f"update notes set v = 'found' where k = {form} returning k, v",
        f"select k, v from notes where k = {form} for update",
        f"delete from notes where k = {form}",
        "select k, v from notes order by k",
    ):
        twins.same(Query(text.encode()), ignoring="P")
    bare = form.strip("'").encode()
    twins.same(parse("insert into notes values ($1, 'p')"), bind(bare), execute(), SYNC)
    twins.same(parse("select k, v from notes where k = $1"), bind(bare), execute(), SYNC)
    twins.same(parse("delete from notes where k = $1"), bind(bare), execute(), SYNC)


ARRAYS = ["{1,2,3}", "{}", "{NULL}", "{3,null,77,3}", "{{1,2},{3,4}}", "[2:3]={1,2}", '{"1", "2"}', "{ 1 , 0x46 ,4}"]


@pytest.mark.parametrize("array", ARRAYS)
def test_rows_of_an_array_of_keys(twins: Twins, array: str) -> None:
    twins.same(Query(b"insert into notes select g, 'v' || g, 0 from generate_series(1, 90) g"))
    twins.same(parse("select k, v from notes where k = any($1) order by k"), bind(array.encode()), execute(), SYNC)
    twins.same(parse("select count(*) from notes where k = any($1::int8[])"), bind(array.encode()), execute(), SYNC)
    twins.same(parse("update notes set n = 1 where k = any($1::int4[])"), bind(array.encode()), execute(), SYNC)
    twins.same(Query(b"select k from notes where n = 1 order by k"))


def test_rows_of_an_array_of_texts(twins: Twins) -> None:
    words = ["a", 'quo"ted', "back\\slash", "null", "NULL", "", "with, comma", "{brace}", " blank ", "é"]
    for number, word in enumerate(words):
        twins.same(parse("insert into words values ($1, $2)"), bind(word.encode(), b"%d" % number), execute(), SYNC)
    quoted = ",".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words[1:])
    text = f"{{a,{quoted},NULL,none}}"
    twins.same(parse("select * from words where word = any($1) order by n"), bind(text.encode()), execute(), SYNC)
    for word in words:
        text = '{"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"}'
        twins.same(parse("select n from words where word = any($1)"), bind(text.encode()), execute(), SYNC)


def test_keys_are_found_by_what_their_column_stores(twins: Twins) -> None:
    """A varchar(n) cuts blanks off what it is given: what is sent has another hash than what is stored."""
    twins.query("set pgchorus.allow_key_update = on")
    twins.query("insert into notes select g, 'v' || g, g from generate_series(1, 9) g")
    twins.query("insert into words values ('short', 1), ('longer    ', 2)")
    for kind in ("varchar(6)", "char(6)"):
        twins.query(f"create table made (k {kind} default rpad('def', 9) primary key, n int4)")
        for text in (
            "insert into made values ('exact6   '::varchar(20), 1)",
            "insert into made values (rpad('ab', 9), 2), ('abcd'::text || '      ', 3), ('x', 4)",
            "insert into made values ('abc       '::char(8), 5)",
            "insert into made values (rpad('abcd', 9, 'x'), 6), ('y', 7)",
            "insert into made (n) values (8)",
            "insert into made select 'const       ', 9",
            "insert into made select rpad('q' || k, 11), k from notes",
            "insert into made select word, n from words order by 1",
            "insert into made select word, n from words where word = 'longer    '",
            "update made set k = 'z' || k || '    ' where n = 7",
            "update made set k = 'z' || n || '    ' where n = 4 returning k, length(k)",
            """merge into made using (select k, rpad('m' || k, 10) x from notes) s on made.n = s.k + 1000
               when not matched then insert values (x, k)""",
            "select k, n, length(k) from made order by n, k",
        ):
            twins.query(text)
        for value in (b"par      ", b"paraaaaaa"):
            twins.same(parse("insert into made values ($1, 5)"), bind(value), execute(), SYNC)
        twins.same(parse("insert into made values ($1, 5), ('other', 6)"), bind(b"two    "), execute(), SYNC)
        twins.query("select k, n, length(k) from made order by n, k")
        twins.query("drop table made")


def test_keys_of_other_types_are_assigned(twins: Twins) -> None:
    """What Postgres assigns to a key's type is placed by what it becomes; what it does not is refused in its words."""
    twins.query("set pgchorus.allow_key_update = on")
    twins.query("insert into notes select g, 'v' || g, g from generate_series(1, 9) g")
    for kind in ("int4", "varchar(6)"):
        twins.query(f"create table made (k {kind} primary key, n int4)")
        for text in (
            "insert into made values (2.5 + 1, 1)",
            "insert into made values (2.5::float8 * 3, 2), (9::numeric / 2, 3), (now()::date - now()::date, 4)",
            "insert into made values (true, 5)",
            "insert into made values ('5' || '6', 6)",
            "insert into made values ('2020-01-01'::date, 7)",
            "insert into made values (3000000000 * 2.0, 7)",
            "insert into made select k + 100.5, 8 from notes",
            "insert into made select array[k], 8 from notes",
            "update made set k = k + 1000.5" if kind == "int4" else "update made set k = n + 500 where n < 3",
            """merge into made using (select k + 20.5 x from notes) s on made.n = s.x + 1000
               when not matched then insert values (s.x + 2000, 9)""",
            "select * from made order by n, k",
        ):
            twins.query(text)
        for cast in ("numeric", "int8"):
            twins.same(parse(f"insert into made values ($1::{cast}, 9)"), bind(b"77"), execute(), SYNC)
        twins.query("select * from made order by n, k")
        twins.query("drop table made")
