"""Which texts hold a word of the clock, and which types read them."""

from __future__ import annotations

import pytest

from router.clock_words import holds, literals, may_hold, oid_reads_words, reads_words
from router.relation import Column, UserType
from router.statement import parse

TYPES = {
    20000: UserType("public", "moment", 20000, "d", 1184),
    20001: UserType("public", "later", 20001, "d", 20000),
    20002: UserType("public", "word", 20002, "d", 25),
    20003: UserType("public", "mood", 20003, "e"),
    20004: UserType("public", "citext", 20004, "b"),
    20005: UserType("public", "spans", 20005, "r"),
}


@pytest.mark.parametrize(
    "value",
    [
        "now",
        " NOW ",
        "Today",
        "today 12:00",
        "12:00 tomorrow",
        "yesterday,",
        "{2020-01-01,now}",
        '("n"ow,1)',
        "(now())",
    ],
)
def test_words(value: str) -> None:
    assert may_hold(value.encode())
    assert holds(value.encode())


@pytest.mark.parametrize("value", ["know", "nowhere", "2020-01-01", "", "infinity", "epoch", "allballs", "snow day"])
def test_no_words(value: str) -> None:
    assert not holds(value.encode())


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (Column("c", "timestamptz", type_oid=1184), True),
        (Column("c", "_date", type_oid=1182), True),
        (Column("c", "tstzrange", type_oid=3910), True),
        (Column("c", "text", type_oid=25), False),
        (Column("c", "jsonb", type_oid=3802), False),
        (Column("c", "later", type_schema="public", type_oid=20001, base_type_oid=20000), True),
        (Column("c", "word", type_schema="public", type_oid=20002, base_type_oid=25), False),
        (Column("c", "mood", type_schema="public", type_oid=20003), False),
        (Column("c", "spans", type_schema="public", type_oid=20005), True),
        (Column("c", "pair", type_schema="public", type_oid=20009), True),
    ],
)
def test_types(column: Column, expected: bool) -> None:  # noqa: FBT001 - a table of expectations
    assert reads_words(column, TYPES) is expected


def test_types_of_parameters() -> None:
    found = [oid for oid in (16, 20, 25, 1082, 1114, 1184, 1185, 3911, 20001, 20002, 20003, 20004) if
             oid_reads_words(oid, TYPES)]  # fmt: skip
    assert found == [1082, 1114, 1184, 1185, 3911, 20001]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("SELECT 'now'::date, 'then', date 'Today 12:00', 'nowhere', \"now\", now -- 'now'", ["now", "Today 12:00"]),
        ("SELECT 'é', 'it''s now', '[today,tomorrow)'", ["it''s now", "[today,tomorrow)"]),
        ("SELECT 1", []),
    ],
)
def test_literals_with_words_are_found_in_a_text(text: str, inside: list[str]) -> None:
    found = literals(parse(text)[0])
    assert found is not None
    assert [one.body for one in found] == inside
    assert [text[one.start : one.end] for one in found] == inside


@pytest.mark.parametrize("literal", ["E'now'", "$$now$$", "U&'now'", "'no'\n'w'", "'a\\'"])
def test_literals_of_other_forms_are_not_read(literal: str) -> None:
    assert literals(parse(f"SELECT {literal}, 'now'")[0]) is None


def test_words_are_replaced_where_they_are_words() -> None:
    (one,) = literals(parse("SELECT '[Today,tomorrow)nowhere'")[0]) or ()
    assert not one.has_now
    assert one.without_word("x") == "[x,tomorrow)nowhere"
    assert one.with_days({"today": "1", "tomorrow": "2"}) == "[1,2)nowhere"
