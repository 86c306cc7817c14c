"""SQL's PREPARE and EXECUTE: arguments arrive as they would at one Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from wire_client import Twins


@pytest.mark.parametrize(
    ("types", "arguments"),
    [
        ("char(5)", "'hello'"),
        ("bpchar", "'hello'"),
        ('"char"', "'h'"),
        ("bit(5)", "B'10101'"),
        ("varbit", "B'10101'"),
        ("varchar(2)", "'hello'"),
        ("numeric(3,1)", "12.34"),
        ("timestamp(0)", "'2026-01-02 03:04:05.678'"),
        ("interval second(0)", "'1.6 seconds'"),
        ("int4[]", "'{1,2}'"),
        ("char(3)[]", "'{abc,def}'"),
        ("int4", "3.7"),
    ],
)
def test_types_with_a_length(twins: Twins, types: str, arguments: str) -> None:
    twins.query(f"prepare p({types}) as select $1, pg_typeof($1), length($1::text)")
    twins.query(f"execute p({arguments})")
    twins.query("deallocate p")


def test_what_is_stored(twins: Twins) -> None:
    twins.query("create table made (k int8, a char(5), b bit(5))")
    try:
        twins.query("prepare p(int8, char(5), bit(5)) as insert into made values ($1, $2, $3)")
        twins.query("execute p(1, 'hello', B'10101')")
        twins.query("execute p(2, 'abcdexyz', B'10101')")
        twins.query("execute p(3, 'ab', B'101')")
        twins.query("select * from made order by k")
    finally:
        twins.query("drop table made")
