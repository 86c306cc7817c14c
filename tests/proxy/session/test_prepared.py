"""Which prepared statements clients may share on a link: not those whose literals Postgres reads off its clock."""

from __future__ import annotations

import pytest

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
