"""Clients that do not speak UTF-8, beside one Postgres: over three shards and over one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.encodings import by_name
from proxy.wire.frames import frame
from proxy.wire.frontend import Bind, Close, Parse, Query
from wire_client import SYNC, Twins, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import Town

Connect = Any
# Letters whose order in KOI8-R is not that of Unicode, and of which WIN1251 has others at the same places.
RUSSIAN = ("яблоко", "юла", "Ёж", "арбуз", "цапля", "Жук", "ёж", "шар")


class Speaking:
    """Twins that speak one encoding."""

    def __init__(self, twins: Twins, encoding: str) -> None:
        self.twins = twins
        self.speak(encoding)

    def speak(self, encoding: str) -> None:
        found = by_name(encoding)
        assert found is not None
        self.codec = found.codec

    def bytes(self, text: str) -> bytes:
        return text.encode(self.codec)

    def query(self, text: str, **more: Any) -> list[Any]:
        return self.twins.same(Query(self.bytes(text)), **more)

    def parse(self, text: str, name: str = "") -> Parse:
        return Parse(self.bytes(name), self.bytes(text), ())

    def rows(self, text: str) -> list[tuple[str | None, ...]]:
        trace = self.query(text)
        assert not [entry for entry in trace if entry[0] == "error"], trace
        return [
            tuple(None if value is None else value.decode(self.codec) for value in entry[1])
            for entry in trace
            if entry[0] == "row"
        ]

    def error(self, text: str) -> dict[str, str]:
        (found,) = [entry[1] for entry in self.query(text) if entry[0] == "error"]
        return dict(found)


@pytest.fixture
def speaking(any_town: Town, connect: Connect) -> Callable[[str], Speaking]:
    """Return clients with this encoding from the start."""

    def open_both(encoding: str) -> Speaking:
        both = [connect(dsn, log_in=False, client_encoding=encoding) for dsn in (any_town.one, any_town.dsn)]
        greetings = [[entry for entry in client.log_in() if entry[0] == "parameter"] for client in both]
        assert sorted(greetings[0]) == sorted(greetings[1])
        return Speaking(Twins(*both), encoding)

    return open_both


@pytest.mark.parametrize("encoding", ["LATIN1", "latin-9", "WIN1252", "iso_8859-1", "SQL_ASCII"])
def test_keys_in_literals_and_parameters(speaking: Callable[[str], Speaking], encoding: str, any_town: Town) -> None:
    both = speaking(encoding)
    words = ["é", "größe", "ÿ", "plain", "àéîõü"]
    for number, word in enumerate(words):
        both.query(f"insert into words values ('{word}', {number})")
        both.query(f"select n, word, word as \"ü\" from words where word = '{word}'")
    insert, select = both.parse("insert into words values ($1, $2)"), both.parse("select * from words where word = $1")
    for number, word in enumerate(words):
        for form in (0, 1):
            key = both.bytes(f"{form}{word}")
            both.twins.same(insert, bind(key, str(number).encode(), formats=(form, 0)), execute(), SYNC)
            for results in ((), (1,)):
                answer = (select, bind(key, formats=(form,), results=results), describe("P"), execute(), SYNC)
                assert ("tag", "SELECT 1") in both.twins.same(*answer)
    assert len(any_town.stored("SELECT word FROM words")) == 3 * len(words)
    for number, word in enumerate(words):
        assert both.rows(f"select n from words where word = '{word}'") == [(str(number),)]
        assert both.rows(f"select count(*) from words where word in ('{word}', '1{word}', 'no')") == [("2",)]
    both.query('select count(*), min(n), max(word collate "C") from words')
    both.query("delete from words where word = 'é'")
    both.query("update words set n = 7 where word = 'größe' returning word, n")


def test_errors_and_their_places(speaking: Callable[[str], Speaking]) -> None:
    both = speaking("LATIN1")
    assert both.error("select 'éàü', nöpe from words where word = 'é'")["P"] == "15"
    assert both.error("select 1; select 'éàü'; selct 1")["P"] == "25"
    assert both.error("select é from é where")["C"] == "42601"
    both.error("insert into words values ('é', 'ö')")
    both.query("insert into words values ('é', 1)")
    assert "é".encode("latin-1") in both.error("insert into words values ('é', 2)")["D"].encode(
        "utf-8", "surrogateescape"
    )
    both.error("select 1 as é, 2 as ü from nütz")
    both.twins.same(both.parse("select 'é', nöpe from words"), SYNC)
    both.twins.same(both.parse("selct é"), SYNC)


def test_what_has_no_equivalent(speaking: Callable[[str], Speaking], any_town: Town) -> None:
    both = speaking("LATIN1")
    for dsn in (any_town.one, any_town.dsn):
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("INSERT INTO words VALUES ('euro €', 1)")
    assert both.error("select word from words")["C"] == "22P05"
    assert both.rows("select n from words where word = U&'euro \\20ac'") == [("1",)]
    if len(any_town.shards) == 1:  # over several the first shard has inserted before the answer came
        both.query("insert into words values (U&'\\20ac', 2) returning word")
        both.query("select word from words where n = 2")


def test_what_is_none_of_its_texts(speaking: Callable[[str], Speaking]) -> None:
    both = speaking("WIN1252")
    for text in (b"select '\x81'", b"select \x81", b"begin \x8f"):
        both.twins.same(Query(text))
        both.twins.same(Parse(b"", text, ()), SYNC)
    both.twins.same(parse("select n from words where word = $1"), bind(b"\x81"), execute(), SYNC, ignoring="W")


def test_settings_of_the_session(speaking: Callable[[str], Speaking]) -> None:
    both = speaking("UTF8")
    for statement, now in (
        ("set client_encoding to 'latin1'", "LATIN1"),
        ("set names 'win1252'", "WIN1252"),
        ("begin", "WIN1252"),
        ("insert into words values ('œ', 0)", "WIN1252"),
        ("set client_encoding = 'utf-8'", "UTF8"),
        ("insert into words values ('€œ', 1)", "UTF8"),
        ("savepoint ü", "UTF8"),
        ("set local client_encoding = latin9", "LATIN9"),
        ("insert into words values ('€', 1)", "LATIN9"),
        ("savepoint ü2", "LATIN9"),
        ("insert into words values ('é', 1), ('è', 1), ('ê', 1), ('ë', 1)", "LATIN9"),
        ("rollback to ü2", "LATIN9"),
        ("show client_encoding", "LATIN9"),
        ("rollback to ü", "UTF8"),
        ("insert into words values ('őé', 3), ('ő1', 1), ('ő2', 1), ('ő3', 1)", "UTF8"),
        ("rollback", "WIN1252"),
        ("select * from words", "WIN1252"),
        ("begin; set local client_encoding to sql_ascii", "SQL_ASCII"),
        ("select 'é'", "SQL_ASCII"),
        ("commit", "WIN1252"),
        ("select 'é'", "WIN1252"),
        ("set client_encoding = 'nothing'", "WIN1252"),
        ("set client_encoding to 'latin1'; select 1/0", "WIN1252"),
        ("set client_encoding to 'latin1'; insert into words values ('é', 1)", "LATIN1"),
        ("select word, 'é' from words", "LATIN1"),
        ("reset client_encoding", "UTF8"),
        ("select word, 'é' from words", "UTF8"),
        ("select set_config('client_encoding', 'latin1', false), 'é'", "LATIN1"),
        ("select word, 'é' from words", "LATIN1"),
        ("begin", "LATIN1"),
        ("select set_config('client_encoding', 'utf' || n, true) from (values (8)) t (n)", "UTF8"),
        ("insert into words values ('€', 1)", "UTF8"),
        ("rollback", "LATIN1"),
        ("prepare p as select set_config('client_encoding', $1, false)", "LATIN1"),
        ("execute p ('win1252')", "WIN1252"),
        ("select 'œ'", "WIN1252"),
        ("set client_encoding to 'koi8r'", "KOI8R"),
        ("discard all", "UTF8"),
        ("select word, 'é' from words", "UTF8"),
    ):
        both.query(statement)
        both.speak(now)
        both.query("show client_encoding")


def test_a_function_call_in_a_pipeline_changes_what_comes_behind_it(speaking: Callable[[str], Speaking]) -> None:
    both = speaking("UTF8")
    call = both.parse("select set_config('client_encoding', $1, false)")
    both.twins.same(
        call,
        bind(b"latin1"),
        execute(),
        Parse(b"", "select 'é', $1::text".encode("latin1"), ()),
        bind("ü".encode("latin1")),
        execute(),
        SYNC,
    )
    both.speak("LATIN1")
    both.query("select 'é'")
    both.twins.same(call, bind(b"nothing"), execute(), SYNC)
    both.query("select 'é'")


def test_a_rollback_in_a_message_takes_the_encoding_back(speaking: Callable[[str], Speaking]) -> None:
    both = speaking("LATIN1")
    both.query("begin; set client_encoding to 'utf8'; rollback; select 'é'")
    assert both.rows("select 'é'") == [("é",)]
    both.twins.same(both.parse("set client_encoding to 'utf8'"), bind(), execute(), SYNC)
    both.speak("UTF8")
    assert both.rows("select 'é'") == [("é",)]


def test_settings_travel_between_links(narrow_town: Town, connect: Connect) -> None:
    """Whatever encoding a link had before: what it is told of a session's settings means what the session meant."""
    clients = {
        name: connect(narrow_town.dsn, client_encoding=name, application_name="x")
        for name in ("LATIN1", "UTF8", "KOI8R")
    }
    values = {"LATIN1": "é", "UTF8": "é€ж", "KOI8R": "жук"}
    for name, client in clients.items():
        codec = by_name(name).codec  # type: ignore[union-attr]
        assert client.ask(Query(f"set app.x = '{values[name]}'".encode(codec)))[0] == ("tag", "SET")
    for _ in range(2):
        for name, client in clients.items():
            codec = by_name(name).codec  # type: ignore[union-attr]
            for setting in ("app.x", "client_encoding"):
                rows = [entry[1] for entry in client.ask(Query(f"show {setting}".encode())) if entry[0] == "row"]
                assert rows == [[(values[name] if setting == "app.x" else name).encode(codec)]]
    for name, client in clients.items():
        codec = by_name(name).codec  # type: ignore[union-attr]
        for text in ("begin", f"set local app.y = '{values[name]}'", f'savepoint "{values[name]}"'):
            client.ask(Query(text.encode(codec)))
        for shard in range(3):
            (key,) = narrow_town.keys(shard)
            text = f"insert into notes values ({key}, current_setting('app.y')) returning v"
            assert ("row", [values[name].encode(codec)]) in client.ask(Query(text.encode(codec)))
        text = f'rollback to "{values[name]}"'
        assert client.ask(Query(text.encode(codec)))[0] == ("tag", "ROLLBACK")
        client.ask(Query(b"rollback"))


@pytest.mark.parametrize("encoding", ["KOI8R", "WIN1251", "ISO_8859_5", "WIN866"])
def test_rows_of_several_shards_are_in_the_order_of_the_letters(
    speaking: Callable[[str], Speaking], encoding: str
) -> None:
    both = speaking(encoding)
    values = ", ".join(f"('{word}', {number % 3})" for number, word in enumerate(RUSSIAN))
    both.query('create table made (k text collate "C" primary key, n int4)')
    try:
        both.query(f"insert into made values {values}")
        for text in (
            "select k from made order by k",
            "select k, n from made order by k desc limit 3 offset 1",
            "select n, min(k), max(k) from made group by n order by n",
            "select k, count(*) from made group by k order by k",
            "select min(k) from made",
            "select distinct n from made order by n",
            "select a.k, b.k from made a join made b on a.n = b.n and a.k <> b.k order by 1, 2",
            "select string_agg(k, 'щ' order by k) from made",
            "select k as \"слово\" from made where k like 'Ж%'",
        ):
            both.query(text)
        for text in (
            "begin",
            'declare "ц" cursor for select k from made order by k',
            'fetch 2 from "ц"',
            'fetch all from "ц"',
            "commit",
        ):
            both.query(text)
        select = both.parse("select k from made where n < $1 order by k")
        both.twins.same(select, bind(b"2", results=(1,)), describe("P"), execute("", 2), execute(), SYNC)
        both.query("insert into made select k || 'щ', n from made")
        both.query("select count(*) from made where k = 'Жукщ'")
        both.query("update made set n = (select count(*) from made where k like '%щ') where k = 'арбуз' returning *")
    finally:
        both.query("drop table made")


def test_explain_says_what_it_says_in_the_clients_encoding(town: Town, connect: Connect) -> None:
    client = connect(town.dsn, client_encoding="KOI8R")
    for text in (
        "explain (costs off) select word from words where n < 3 and word <> 'Жук'",
        "explain (route) select 'Жук'",
    ):
        rows = [entry[1][0] for entry in client.ask(Query(text.encode("koi8-r"))) if entry[0] == "row"]
        assert rows
        assert "Жук" in b"".join(rows).decode("koi8-r") or "route" in text


@pytest.mark.parametrize("encoding", ["UTF8", "KOI8R"])
def test_copy_in_an_encoding_of_its_own(speaking: Callable[[str], Speaking], encoding: str, any_town: Town) -> None:
    both = speaking(encoding)

    def copied(text: str, data: bytes) -> None:
        both.twins.same(Query(both.bytes(text)), frame(b"d", data), frame(b"c", b""))

    number = 0
    for name, codec in (("WIN1251", "cp1251"), ("koi8-r", "koi8-r"), ("UTF-8", "utf-8"), ("sql_ascii", "utf-8")):
        for options in ("delimiter '|', null 'ж'", "format csv, quote '$', escape '!', delimiter '|', null 'ж'"):
            number += 1
            quote = "$" * ("csv" in options)
            lines = [f"{quote}{word}{number}{quote}|1\n" for word in RUSSIAN]
            lines.append(f"ж{number}|ж\n")
            copied(f"copy words from stdin ({options}, encoding '{name}')", "".join(lines).encode(codec))
    # What is written by number is of the server's encoding.
    copied("copy words from stdin (encoding 'win1251')", "ц\\xD0\\xb1\\321\\217\t7\n".encode("cp1251"))
    assert both.rows("select n from words where word = 'цбя'") == [("7",)]
    assert len(any_town.stored("SELECT word FROM words")) == 8 * (len(RUSSIAN) + 1) + 1
    for at in range(1, number + 1):
        for word in RUSSIAN:
            assert both.rows(f"select n from words where word = '{word}{at}'") == [("1",)]
        assert both.rows(f"select n from words where word = 'ж{at}'") == [(None,)]
    copied("copy words from stdin (encoding 'win1251')", b"a\t1\n\x98\t1\n")  # which WIN1251 has not
    for options in ("(encoding 'win1251', format csv, header)", "(encoding 'gbk')", "(encoding 'euc_jp')"):
        for client in (both.twins.one, both.twins.proxy):
            client.send(Query(f"copy words to stdout {options}".encode()))
        traces = [client.read() for client in (both.twins.one, both.twins.proxy)]
        assert sorted(map(str, traces[0])) == sorted(map(str, traces[1]))
    for name in ("euc_jp", "gbk", "nothing"):
        text = f"copy words from stdin (encoding '{name}')"
        if len(any_town.shards) > 1:
            assert both.twins.proxy.query(text)[0][1]["C"] == "0A000"
        else:
            both.twins.same(Query(text.encode()), frame(b"d", b"a\t1\n"), frame(b"f", b"no\0"))


def test_copy_fills_in_values_in_the_encoding_of_the_data(speaking: Callable[[str], Speaking]) -> None:
    both = speaking("LATIN1")
    both.query("create sequence made_k")
    both.query("create table made (k text primary key default 'ü' || nextval('made_k'), \"ö\" text, n int4)")
    try:
        for options, codec in (("", "latin-1"), ("encoding 'utf8'", "utf-8"), ("encoding 'win1252'", "cp1252")):
            for more in ("null 'é'", "format csv, header match, null 'é'"):
                header = "ö,n\n" if "csv" in more else ""
                comma = "," if "csv" in more else "\t"
                data = f"{header}à{comma}1\né{comma}2\n".encode(codec)
                text = f'copy made ("ö", n) from stdin ({more}{", " if options else ""}{options})'
                both.twins.same(Query(both.bytes(text)), frame(b"d", data), frame(b"c", b""))
        assert len(both.rows('select k, "ö", n from made order by length(k), k')) == 12
    finally:
        both.query("drop table made")
        both.query("drop sequence made_k")


@pytest.mark.parametrize("encoding", ["KOI8R", "LATIN5"])
def test_copy(speaking: Callable[[str], Speaking], encoding: str, any_town: Town) -> None:
    both = speaking(encoding)
    words = RUSSIAN if encoding == "KOI8R" else ("ğ", "İstanbul", "ıé", "ş")

    def copied(text: str, data: bytes) -> None:
        both.twins.same(Query(both.bytes(text)), frame(b"d", data), frame(b"c", b""))

    copied("copy words from stdin", both.bytes("".join(f"{word}\t1\n" for word in words)))
    copied("copy words from stdin (format csv)", both.bytes("".join(f'"c{word}",1\n' for word in words)))
    copied("copy words from stdin (encoding 'utf8')", "".join(f"u{word}\t1\n" for word in words).encode())
    copied("copy words from stdin (format csv, encoding 'UTF8')", "".join(f"v{word},1\n" for word in words).encode())
    assert len(any_town.stored("SELECT word FROM words")) == 4 * len(words)
    for word in words:
        for begin in ("", "c", "u", "v"):
            assert both.rows(f"select word from words where word = '{begin}{word}'") == [(begin + word,)]
    for options in ("", "(format csv, header)", "(encoding 'utf8')"):
        for client in (both.twins.one, both.twins.proxy):
            client.send(Query(f"copy words to stdout {options}".encode()))
        traces = [client.read() for client in (both.twins.one, both.twins.proxy)]
        assert sorted(map(str, traces[0])) == sorted(map(str, traces[1]))


def test_prepared_statements_outlive_a_change(speaking: Callable[[str], Speaking]) -> None:
    both = speaking("LATIN1")
    both.query("insert into words values ('é', 1)")
    both.query("prepare \"ü\" as select n, word from words where word = 'é'")
    both.query("prepare p(text) as select n, 'ö' as \"Ö\" from words where word = $1")
    both.twins.same(both.parse("select n as \"ä\" from words where word = 'é' or word = $1", "ß"), describe("S"), SYNC)
    for _ in range(2):
        both.query('execute "ü"')
        both.query("execute p('é')")
    both.query("set client_encoding to utf8")
    both.speak("UTF8")
    for _ in range(2):
        both.query('execute "ü"')
        both.query("execute p('é')")
        both.twins.same(bind("é".encode(), statement="ß"), describe("P"), execute(), SYNC)
    both.query('deallocate "ß"')
    both.query('execute "ß"')


def test_names_of_columns_are_in_the_encoding_of_their_describe(speaking: Callable[[str], Speaking]) -> None:
    both = speaking("LATIN1")
    texts = ('select 1 as "ä"', 'select n as "ä" from words order by word', 'select sum(n) as "ä" from words')
    for number, text in enumerate(texts):
        both.twins.same(both.parse(text, f"s{number}"), describe("S", f"s{number}"), SYNC)
        both.query(f"prepare p{number} as {text}")
    for encoding in ("UTF8", "LATIN9", "WIN1250"):
        both.query(f"set client_encoding to {encoding}")
        both.speak(encoding)
        for number in range(len(texts)):
            name = f"s{number}"
            both.twins.same(describe("S", name), SYNC)
            both.twins.same(bind(statement=name), describe("P"), execute(), SYNC)
            both.twins.same(describe("S", name), bind(statement=name), execute(), SYNC)
            both.query(f"execute p{number}")
    both.query("set client_encoding to KOI8R")
    both.twins.same(describe("S", "s1"), SYNC)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("SJIS", "表計算ソ能"), ("BIG5", "功許蓋"), ("GBK", "誠乗"), ("UHC", "한국어똠"), ("EUC_JP", "表ソ能")],
)
def test_characters_that_end_in_a_backslash(town_of_1: Town, connect: Connect, encoding: str, text: str) -> None:
    """Read byte by byte, a quote behind them would not end the string; one shard, where every encoding is served."""
    both = [connect(dsn, client_encoding=encoding) for dsn in (town_of_1.one, town_of_1.dsn)]
    speaking = Speaking(Twins(*both), encoding)
    codec = speaking.codec
    for statement in (
        f"select '{text}', E'{text}\\\\', 'x'",
        f"insert into words values ('{text}', 1), ('a', 2)",
        f"select * from words where word = '{text}' or n = 2; select '{text}\\' as \"{text}\"",
        f"prepare x as select '{text}', $1::text; execute x('{text}')",
        f"select '{text}', nope",
    ):
        speaking.query(statement)
    key = text.encode(codec)
    speaking.twins.same(parse("select n, word from words where word = $1"), bind(key), describe("P"), execute(), SYNC)
    for broken in (b"select '\x81", b"select '\x95'", b"select '\xff\xff'", b"select '\x80\x20'"):
        speaking.twins.same(Query(broken))


def test_what_is_not_served_is_refused(town: Town, town_of_1: Town, connect: Connect) -> None:
    for one, names in ((town, ("SJIS", "MULE_INTERNAL", "EUC_TW")), (town_of_1, ("EUC_TW", "EUC_JIS_2004"))):
        client = connect(one.dsn)
        for name in names:
            trace = client.query(f"set client_encoding to '{name}'")
            assert trace[0][1]["C"] == "0A000", (name, trace)
            assert client.query("begin")[-1] == ("ready", "T")
            assert client.query(f"set client_encoding to '{name}'")[-1] == ("ready", "E")
            assert client.query("rollback")[-1] == ("ready", "I")
            assert client.rows("show client_encoding") == [("UTF8",)]
            assert client.rows("select 'é'") == [("é",)]


def test_encodings_do_not_change_under_open_cursors(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    client.query("insert into words values ('é', 1), ('ö', 2), ('ü', 3)")
    for text in ("begin", "declare c cursor for select word from words", "fetch 1 from c"):
        assert client.query(text)[-1] == ("ready", "T")
    assert client.query("set client_encoding to latin1")[0][1]["C"] == "0A000"
    client.query("rollback")
    for messages in (
        (parse("select word from words where word <> $1"), bind("ß".encode(), portal="p")),
        (parse("select word from words"), bind(portal="p"), execute("p", 1)),
    ):
        client.query("begin")
        trace = client.ask(*messages, parse("set client_encoding to latin1"), bind(), execute(), SYNC)
        assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"]
        client.query("rollback")


def test_reset_all_is_a_change_as_well(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    for text in ("set client_encoding to latin1", "begin", "declare c cursor for select word from words"):
        assert client.query(text)[0][0] == "tag"
    assert client.query("reset all")[0][1]["C"] == "0A000"
    client.query("rollback")
    client.query("reset all")
    assert client.parameters["client_encoding"] == "UTF8"


def test_a_search_path_that_cannot_be_read_is_refused_over_several_shards(any_town: Town, connect: Connect) -> None:
    """Its bytes are of whatever encoding the client had when it was set."""
    client = connect(any_town.dsn, client_encoding="LATIN1")
    client.ask(Query('set search_path = "ä", public'.encode("latin-1")))
    trace = client.ask(Query(b"select * from words"))
    refused = len(any_town.shards) > 1
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"] * refused
    client.query("reset search_path")
    assert client.rows("select * from words") == []


def test_names_in_the_protocol(any_town: Town, connect: Connect) -> None:
    client = connect(any_town.dsn, client_encoding="LATIN1")
    query = Parse(b"\xfc", b"select '\xe9'", ())
    portal = Bind(b"\xe9", b"\xfc", (), (), ())
    trace = client.ask(query, Bind(b"", b"\xfc", (), (), ()), execute(), portal, SYNC)
    assert ("row", [b"\xe9"]) in trace
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["0A000"]
    assert ("row", [b"\xe9"]) in client.ask(Query(b"execute \xfc"))
    assert client.ask(Close(b"S", b"\xfc"), SYNC)[0] == ("closed",)
    trace = client.ask(Query(b"execute \xfc"))
    assert trace[0][1]["M"].encode("utf-8", "surrogateescape") == b'prepared statement "\xfc" does not exist'
