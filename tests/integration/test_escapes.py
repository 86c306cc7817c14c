"""With standard_conforming_strings off, over one shard: strings end where the server says that they end."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from wire_client import SYNC, Twins, bind, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]

# Errors are those of the text with its marks, and warnings of strings without them are not given.
IGNORING = "PM"
PIECES = [
    "'", "'", "\\", "\\", "\\'", "''", "; listen zz; --", "; select 2", "e'", "E'x'", "n'", "b'1'", "x'", "u&'", "$$",
    "$1", "$a$", "a$b", '"', " ", "\n", "--", "/*", "*/", "é", ", 1", "abc", ")", "(", "/", "-", "::text",
]  # fmt: skip
OFF = "set standard_conforming_strings = off; set escape_string_warning = off"


def twins_of(town: Town, connect: Connect, **startup: str) -> Twins:
    return Twins(connect(town.one, **startup), connect(town.dsn, **startup))


@pytest.mark.parametrize("seed", range(6))
def test_any_text(town_of_1: Town, connect: Connect, seed: int) -> None:
    twins = twins_of(town_of_1, connect)
    twins.query(OFF)
    chance = random.Random(seed)
    for number in range(150):
        text = f"/* {seed}, {number} */ select '" + "".join(chance.choices(PIECES, k=chance.randint(1, 9)))
        if number % 2:
            twins.same(parse(text), bind(), execute(), SYNC, ignoring=IGNORING)
        else:
            twins.query(text, ignoring=IGNORING)
        if number % 10 == 9:
            twins.query("rollback", ignoring=IGNORING)
            twins.query("select * from pg_listening_channels() order by 1")


@pytest.mark.parametrize(
    "switch",
    [
        "set standard_conforming_strings = off",
        "set standard_conforming_strings to 'f'",
        "select set_config('standard_conforming_strings', 'off', false)",
        "do $$ begin set standard_conforming_strings = off; end $$",
        "select set_config('standard_' || 'conforming_strings', 'off', false)",
    ],
)
@pytest.mark.parametrize("way", ["message", "pipeline", "block", "local"])
def test_however_it_is_switched(town_of_1: Town, connect: Connect, switch: str, way: str) -> None:
    twins = twins_of(town_of_1, connect)
    twins.query("set escape_string_warning = off")
    tricky = r"select 'it\'s; select 1; --', 'b\\'"
    if way == "pipeline":
        twins.same(*(one for text in (switch, tricky) for one in (parse(text), bind(), execute())), SYNC)
    elif way == "message":
        twins.query(switch)
    else:
        twins.query("begin")
        twins.query(switch.replace("set ", "set local ").replace("false", "true") if way == "local" else switch)
        twins.query(tricky)
        twins.query("commit")
    twins.query(tricky, ignoring=IGNORING)
    twins.query("begin; select 1", ignoring=IGNORING)
    twins.query(r"select '\''; listen zz; --", ignoring=IGNORING)
    twins.query("rollback")
    twins.query(r"prepare p as select 'a\'b', $1::text || '\\'", ignoring=IGNORING)
    twins.query(r"execute p('\'')", ignoring=IGNORING)
    twins.query("reset standard_conforming_strings")
    twins.query(tricky)
    twins.query("execute p('x')")


def test_from_the_start(town_of_1: Town, connect: Connect) -> None:
    options = "-c standard_conforming_strings=off -c escape_string_warning=off"
    twins = twins_of(town_of_1, connect, options=options)
    twins.query(r"select 'it\'s'")
    twins.query(
        r"create table escaped (a text default 'it\'s \\', b text); insert into escaped values (default, '\x41')"
    )
    twins.query("select * from escaped")
    twins.query("discard all")
    twins.query(r"select * from escaped where a = 'it\'s \\'; drop table escaped")
    assert connect(town_of_1.dsn).rows("select * from pg_listening_channels()") == []


@pytest.mark.parametrize(
    "text",
    [
        r"set standard_conforming_strings = off; select 'C:\new', 'a\'; select 'b'",
        r"begin; set local standard_conforming_strings = off; select 'C:\new'; commit; select 'C:\new'",
        r"select set_config('standard_conforming_strings', 'off', false); select 'it''s\'; listen zz",
        r"set standard_conforming_strings = off; create table read_so (a text default 'x\y'); table read_so",
    ],
)
def test_a_message_is_read_by_the_setting_at_its_start(town_of_1: Town, connect: Connect, text: str) -> None:
    twins = twins_of(town_of_1, connect)
    twins.query("set escape_string_warning = off")
    twins.query(text)
    twins.query(r"select 'it\'s \x41'")
    if "read_so" in text:
        twins.query(r"insert into read_so values (default), ('\x41') returning *")
        twins.query("drop table read_so")
