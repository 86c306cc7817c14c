"""Which prepared statements clients may share on a link: not those whose literals Postgres reads off its clock.

And which ones may mean something else by other settings than those of their Parse.
"""

from __future__ import annotations

import pytest

from proxy.session.literals import may_be_read
from proxy.session.prepared import reads_clock


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'now'::timestamptz",
        "SELECT ' Today '::date",
        "SELECT * FROM t WHERE at > 'today 12:00'",
        "SELECT * FROM t WHERE at > 'yesterday 23:59:59+02'::timestamptz",
        "SELECT '{now, tomorrow}'::timestamptz[]",
        "SELECT '[today,tomorrow)'::daterange",
        "SELECT '{\"now\"}'::timestamptz[]",
        "SELECT $$now$$::timestamptz",
        "SELECT $a$today$a$::date",
        "SELECT E'no\\x77'::timestamptz",
        "SELECT U&'\\006eow'::timestamptz",
        "SELECT 'to'\n'day'::date",
        "SELECT 'to' -- and\n  'day'::date",
    ],
)
def test_a_literal_that_is_read_off_the_clock_is_seen(text: str) -> None:
    assert reads_clock(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT now()",
        "INSERT INTO t VALUES ($1, now (), 'x')",
        "SELECT * FROM snow WHERE name = 'snowed in'",
        "SELECT today FROM days",
        "SELECT 'a\\d+'",
        "SELECT 'a', 'b'",
    ],
)
def test_what_reads_no_clock_when_it_is_parsed_is_shared(text: str) -> None:
    assert not reads_clock(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT '01/02/2020'::date",
        "SELECT * FROM t WHERE name = 'x' AND at > '1 May'",
        "SELECT \"it's\", '1 May'::timestamptz",
        "SELECT $$1 May$$::timestamptz",
        "SELECT 'to'\n'day'::date",
        "SELECT E'\\x31 May'::date",
        "SELECT /* it's */ '1 May'::date",
        "SELECT 1 -- it's\n, '1 May'::date",
        "SELECT '{null}'::text[]",
        "SELECT 'today'::timestamptz",
        "SELECT xml 'a'",
        "SELECT a = NULL",
        "SELECT (null) = a",
    ],
)
def test_a_literal_that_settings_may_change_is_seen(text: str) -> None:
    assert may_be_read(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT a, 5 FROM t WHERE k = $1 AND b IS NULL",
        "SELECT * FROM t WHERE state = 'open' AND k < 5 AND name <> 'it''s'",
        'SELECT "a1" FROM "t2" WHERE "state" = \'open\' -- 5',
        "UPDATE t SET a = $1 WHERE k = $2",
    ],
)
def test_what_no_setting_reads_is_left_alone(text: str) -> None:
    assert not may_be_read(text)
