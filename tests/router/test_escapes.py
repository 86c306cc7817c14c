"""Texts of clients with standard_conforming_strings off. That they mean the same is asked of a real Postgres elsewhere
(tests/integration/test_escapes.py)."""

from __future__ import annotations

import pytest

from router.escapes import with_marks

PAIRS = {
    r"select 'it\'s'": r"select E'it\'s'",
    r"select'a\\',1'\'x'": r"select E'a\\',1 E'\'x'",
    r"select 'a', '\'; listen x; --', E'\'', e'\\'": r"select 'a', E'\'; listen x; --', E'\'', e'\\'",
    r"select n'\'a' || N'b'": r"select nchar E'\'a' || N'b'",
    "select 'a'\n'b\\'c' 'd'": "select E'a'\n'b\\'c' 'd'",
    "select 'a' -- it's\n -- \\\n 'b\\'c'": "select E'a' -- it's\n -- \\\n 'b\\'c'",
    r"select b'1\', x'\', 'x\'y'": r"select b'1\', x'\', E'x\'y'",
    r"listen x; select '\'', u&'\', 'x\'y'": r"listen x; select E'\'', u&'",
    r"""select "a\", '\"', "b""c\" """: r"""select "a\", E'\"', "b""c\" """,
    r"select $$ '\' $$, $a$ $$ '\' $a$, '\''": r"select $$ '\' $$, $a$ $$ '\' $a$, E'\''",
    r"select a$b$, '\'' from x$$": r"select a$b$, E'\'' from x$$",
    r"/* '\' /* ' */ '\' */ select '\''": r"/* '\' /* ' */ '\' */ select E'\''",
    r"select 1 - '\'' -- '\'": r"select 1 - E'\'' -- '\'",
    r"select é'\''": r"select é E'\''",
    r"select $1, $2'\''": r"select $1, $2 E'\''",
    r"select '\'": r"select  E'\'",
    r'select "\', ': r'select "\', ',
    r"select X''''\u00', '\''": r"select X''''\u00', '\''",
    "select 'plain'": "select 'plain'",
}
CONFORMING = {
    r"set x = 'a'; select 'C:\new', 'a\', n'\'": r"set x = 'a'; select E'C:\\new', E'a\\', nchar E'\\'",
    r"select '\''\', e'\'', u&'\0041', b'1'": r"select E'\\''\\', e'\'', u&'\0041', b'1'",
    "select 'a'\n'b\\c'": "select E'a'\n'b\\\\c'",
}


@pytest.mark.parametrize("text", PAIRS)
def test_plain_strings_with_backslashes_are_marked(text: str) -> None:
    assert with_marks(text) == PAIRS[text]


@pytest.mark.parametrize("text", CONFORMING)
def test_backslashes_that_are_meant_are_doubled(text: str) -> None:
    assert with_marks(text, escapes=False) == CONFORMING[text]
