"""What the printer writes parses to the tree that it was given; what it cannot write has no text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from router.printer import Printer, Unwritten, expression, literal, quoted
from router.statement import parse

if TYPE_CHECKING:
    from router.tree import Node


def tree(text: str) -> Node:
    (parsed,) = parse(f"select {text}")
    found: Node = parsed.body["targetList"][0]["ResTarget"]["val"]
    return found


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("a > 5", '("a" > 5)'),
        ("a.b = -3 and c is null", '(("a"."b" = (-3)) AND ("c" IS NULL))'),
        ("x in (1, 'a\\b')", "(\"x\" IN (1, E'a\\\\b'))"),
        ("s not ilike 'x' escape '!'", '("s" NOT ILIKE "pg_catalog"."like_escape"(\'x\', \'!\'))'),
        ("extract(year from d) = 1994", '("pg_catalog"."extract"(\'year\', "d") = 1994)'),
        ("x::varchar(5) = $2", '(("x")::"pg_catalog"."varchar"(5) = $2)'),
        ("d between 1 and 2 or not e", '(("d" BETWEEN 1 AND 2) OR (NOT "e"))'),
        ("count(distinct x) filter (where y)", '"count"(DISTINCT "x") FILTER (WHERE "y")'),
        ("a operator(pg_catalog.=) 3", '("a" OPERATOR("pg_catalog".=) 3)'),
        ("case a when 1 then 'x' end", "(CASE \"a\" WHEN 1 THEN 'x' END)"),
        ("a is not distinct from b", '("a" IS NOT DISTINCT FROM "b")'),
        ("x = any ('{1,2}')", "(\"x\" = ANY ('{1,2}'))"),
    ],
)
def test_it_writes_what_was_read(text: str, printed: str) -> None:
    assert expression(tree(text)) == printed


@pytest.mark.parametrize(
    "text", ["x[1]", "(select 1)", "sum(x) over ()", "string_agg(a, ',' order by a)", "t.*", "(r).f"]
)
def test_what_it_cannot_write_has_no_text(text: str) -> None:
    assert expression(tree(text)) is None


def test_an_override_is_asked_first_from_the_top_down() -> None:
    writer = Printer(lambda node: "c1" if "FuncCall" in node else None)
    assert writer.write(tree("lower(a) || lower(b)")) == "(c1 || c1)"
    with pytest.raises(Unwritten):
        writer.write(tree("(select 1) || lower(a)"))


def test_names_and_literals() -> None:
    assert quoted("a", 'b"c') == '"a"."b""c"'
    assert literal("it's") == "'it''s'"
    assert literal("a\\'") == "E'a\\\\'''"
