"""Python and Postgres read every character alike, in each encoding that is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.encodings import ALL, UTF8, Encoding, by_name, served, written
from proxy.errors import ProxyError
from router.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.demo.embedded import EmbeddedServer

CONVERTED = [one for one in ALL if not one.is_utf8]
# What Postgres makes of each of many, NULL for an error.
FUNCTIONS = """
    CREATE FUNCTION pg_temp.from_encoding(b bytea, e text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RETURN convert_from(b, e); EXCEPTION WHEN others THEN RETURN NULL; END $$;
    CREATE FUNCTION pg_temp.to_encoding(t text, e text) RETURNS bytea LANGUAGE plpgsql AS
        $$ BEGIN RETURN convert_to(t, e); EXCEPTION WHEN others THEN RETURN NULL; END $$;
"""
READ = "SELECT pg_temp.from_encoding(b, %s) FROM unnest(%s::bytea[]) WITH ORDINALITY u(b, o) ORDER BY o"
WRITTEN = "SELECT pg_temp.to_encoding(t, %s) FROM unnest(%s::text[]) WITH ORDINALITY u(t, o) ORDER BY o"


class Postgres:
    """Answers for many values at once."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.execute(FUNCTIONS.encode())

    def read(self, encoding: Encoding, data: Sequence[bytes]) -> list[str | None]:
        return [row[0] for row in self.connection.execute(READ.encode(), (encoding.name, list(data)))]

    def write(self, encoding: Encoding, texts: Sequence[str]) -> list[bytes | None]:
        return [row[0] for row in self.connection.execute(WRITTEN.encode(), (encoding.name, list(texts)))]


@pytest.fixture(scope="module")
def postgres(servers: list[EmbeddedServer]) -> Iterator[Postgres]:
    made = Postgres(servers[0].dsn())
    yield made
    made.connection.close()


def characters(encoding: Encoding) -> dict[bytes, str]:
    """Return what the proxy reads of all that could be one character in an encoding (of GB18030 not all of 4 bytes)."""
    forms = [bytes([one]) for one in range(1, 256)]
    if encoding.codec in {"euc_jp", "gb2312", "cp949", "cp932", "big5", "gbk", "gb18030"}:
        forms += [bytes([first, second]) for first in range(0x80, 0x100) for second in range(1, 0x100)]
    if encoding.codec == "euc_jp":
        forms += [bytes([0x8F, one, two]) for one in range(0xA1, 0xFF) for two in range(0xA1, 0xFF)]
    if encoding.codec == "gb18030":
        forms += [chr(code).encode("gb18030") for code in (*range(0x80, 0x3000), 0xFFFD, 0x10000, 0x1F600, 0x10FFFF)]
    found = {}
    for form in forms:
        try:
            text = encoding.read(form)
        except UnicodeError:
            continue
        found[form] = text
    return found


@pytest.mark.parametrize("encoding", CONVERTED, ids=lambda one: one.name)
def test_what_is_read_is_what_postgres_reads(postgres: Postgres, encoding: Encoding) -> None:
    """Or nothing: Postgres then refuses it itself. The bytes that are sent on are those that came."""
    read = characters(encoding)
    assert len(read) > 127 + 80
    for (form, text), theirs in zip(read.items(), postgres.read(encoding, list(read)), strict=True):
        assert theirs in (text, None), form
        assert written(text, encoding.codec) == form


@pytest.mark.parametrize("encoding", [one for one in CONVERTED if one.several], ids=lambda one: one.name)
def test_values_come_back_as_they_were(postgres: Postgres, encoding: Encoding) -> None:
    texts = sorted({text for text in characters(encoding).values() if len(text) == 1})
    forms = postgres.write(encoding, texts)
    known = [(text, form) for text, form in zip(texts, forms, strict=True) if form is not None]
    assert len({form for _, form in known}) == len(known) > 127 + 80
    assert postgres.read(encoding, [form for _, form in known]) == [text for text, _ in known]


@pytest.mark.long
@pytest.mark.parametrize("encoding", [one for one in CONVERTED if one.several], ids=lambda one: one.name)
def test_no_two_characters_have_one_form(postgres: Postgres, encoding: Encoding) -> None:
    """Of all in the first plane; also those that only Postgres knows."""
    texts = [chr(code) for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000]
    found: dict[bytes, str] = {}
    for first in range(0, len(texts), 10_000):
        part = texts[first : first + 10_000]
        for text, form in zip(part, postgres.write(encoding, part), strict=True):
            if form is not None:
                assert found.setdefault(form, text) == text


def test_every_name_is_one_that_postgres_knows(postgres: Postgres) -> None:
    for encoding in ALL:
        row = postgres.connection.execute("SELECT pg_encoding_to_char(pg_char_to_encoding(%s))", (encoding.name,))
        assert row.fetchone() == (encoding.name,)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [("latin1", "LATIN1"), ("ISO-8859-1", "LATIN1"), ("utf-8", "UTF8"), ("Unicode", "UTF8"), ("Shift_JIS", "SJIS")],
)
def test_other_names(postgres: Postgres, name: str, canonical: str) -> None:
    row = postgres.connection.execute("SELECT pg_encoding_to_char(pg_char_to_encoding(%s))", (name,)).fetchone()
    found = by_name(name)
    assert found is not None
    assert row == (found.name,) == (canonical,)


def test_what_is_not_served() -> None:
    for name in ("MULE_INTERNAL", "EUC_TW", "JOHAB", "EUC_JIS_2004", "SHIFT_JIS_2004", "nothing"):
        with pytest.raises(Refused, match=name):
            served(name, 1)
    assert served("sjis", 1).name == "SJIS"
    with pytest.raises(Refused, match="several shards"):
        served("sjis", 2)


def test_characters_that_could_become_others_are_not_written() -> None:
    with pytest.raises(ProxyError, match='0xc2 0xa5 in encoding "UTF8" has no equivalent in encoding "EUC_JP"'):
        written("a¥", "euc_jp")  # Python would write a backslash
    with pytest.raises(ProxyError, match="0xe2 0x82 0xac"):
        written("a€", "iso8859-1")
    assert written("\udcff", "utf-8") == b"\xff"


def test_what_the_proxy_says() -> None:
    latin = by_name("LATIN1")
    assert latin is not None
    assert latin.shown("é €").encode("utf-8", "surrogateescape") == b"\xe9 ?"
    assert UTF8.shown("é €") == "é €"
