from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.planner.clauses import Clauses, Edit, apply, verified
from router.rewrite import at_top, cut_values, list_items, outside_brackets, spliced, split_list, uncovered
from router.statement import Parsed, parse
from router.tree import items, same


def only(text: str) -> Parsed:
    (found,) = parse(text)
    return found


def literals() -> st.SearchStrategy[str]:
    words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
    quoted = words.map(lambda text: "'" + text.replace("'", "''") + "'")
    escaped = words.map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'")
    dollars = words.filter(lambda text: "$" not in text).map(lambda text: f"$q${text}$q$")
    plain = st.sampled_from(
        ["1", "-5", "null", "default", "$1", "f(1, (2))", "array[1, 2]", '"a (,"', "/* ), ( */ 3", "(1)"]
    )
    return st.one_of(quoted, escaped, dollars, plain)


def test_pieces_are_put_in_their_places() -> None:
    splices = [(4, 5, "two"), (0, 1, "one"), (5, 5, "!"), (1, 1, "?")]
    assert spliced("1 + 2 = 3", splices) == "one? + two! = 3"
    assert spliced("same", []) == "same"


def test_a_later_splice_covers_those_inside_of_it() -> None:
    splices = [(2, 4, "inner"), (8, 9, "apart"), (1, 6, "outer"), (8, 9, "again"), (6, 6, "between")]
    assert uncovered(splices) == [(1, 6, "outer"), (6, 6, "between"), (8, 9, "again")]
    assert uncovered([(1, 6, "outer"), (7, 8, "x")]) == [(1, 6, "outer"), (7, 8, "x")]


@given(
    st.lists(st.lists(literals(), min_size=2, max_size=2), min_size=1, max_size=5),
    st.sampled_from(["", " returning *", ";"]),
)
def test_rows_are_cut_whole_whatever_they_hold(rows: list[list[str]], tail: str) -> None:
    texts = ["(" + ", ".join(row) + ")" for row in rows]
    parsed = only("insert into t (a, b) values " + " , ".join(texts) + tail)
    cut = cut_values(parsed)
    assert cut is not None
    assert list(cut.rows) == texts
    whole = only(cut.head + ", ".join(cut.rows) + cut.tail)
    assert same(whole.body, parsed.body)
    for row, text in zip(parsed.body["selectStmt"]["SelectStmt"]["valuesLists"], cut.rows, strict=True):
        one = only(cut.head + text + cut.tail)
        assert same(items(one.body["selectStmt"]["SelectStmt"]["valuesLists"][0]), items(row))


def test_values_of_a_with_are_not_the_inserts() -> None:
    cut = cut_values(only("with v as (values (1, 2)) insert into t values (3, 4), (5, 6)"))
    assert cut is not None
    assert cut.rows == ("(3, 4)", "(5, 6)")


def test_default_values_have_no_rows() -> None:
    assert cut_values(only("insert into t default values")) is None


def test_lists_are_split_at_their_own_commas() -> None:
    parsed = only("execute p (1, 'a, b', array[1, 2], f(3, 4), '(')")
    assert split_list(parsed, 2, len(parsed.tokens) - 1) == ("1", "'a, b'", "array[1, 2]", "f(3, 4)", "'('")


def test_tokens_in_brackets_are_passed_over() -> None:
    tokens = only("select a[1], (b), f(c, (d)) from t where x").tokens
    seen = [tokens[at].name for at in outside_brackets(tokens)]
    assert seen == ["SELECT", "IDENT", "ASCII_44", "ASCII_44", "IDENT", "FROM", "IDENT", "WHERE", "IDENT"]
    assert at_top(tokens, "WHERE") == len(tokens) - 2
    assert at_top(tokens, "WHERE", 0, len(tokens) - 2) is None
    opening = next(at for at, token in enumerate(tokens) if token.name == "ASCII_40")
    inside = list(outside_brackets(tokens, opening + 1))
    assert [tokens[at].name for at in inside] == ["IDENT", "ASCII_41"]  # the bracket around them ends them
    assert list_items(tokens, 1, 5) == [(1, 5)]
    assert list_items(tokens, 1, at_top(tokens, "FROM") or 0) == [(1, 5), (6, 9), (10, 18)]


def clauses(text: str) -> Clauses:
    parsed = only(text)
    found = Clauses.of(parsed, parsed.body)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("select a from t", "select a"),
        ("select a is distinct from b from t", "select a is distinct from b"),
        ("select a is not distinct from b", "select a is not distinct from b"),
        ('select a as "from", b as from from t', 'select a as "from", b as from'),
        ("select t.from, t.order from t order by 1", "select t.from, t.order"),
        ("select extract(year from a) from t", "select extract(year from a)"),
        ("select (select 1 from u order by 1 limit 1) where true", "select (select 1 from u order by 1 limit 1)"),
        (
            "with x as (select 1 from u) select 'from', a /* from */ from x",
            "with x as (select 1 from u) select 'from', a",
        ),
        ("select distinct on (a) a from t", "select distinct on (a) a"),
        ("select substring(a from 1 for 2) from t for update", "select substring(a from 1 for 2)"),
        ("select trim(both from a), a limit 1", "select trim(both from a), a"),
    ],
)
def test_the_target_list_ends_where_it_ends(text: str, end: str) -> None:
    found = clauses(text)
    assert text[: found.parsed.tokens[found.targets_end - 1].end] == end
    parsed = found.parsed
    spliced = apply(text, [found.append_targets(["x.y", "'z'"])])
    assert verified(parsed, spliced, 2)
    assert not verified(parsed, spliced, 1)


@pytest.mark.parametrize("text", ["(select 1)", "select 1 union select 2", "select into t from u", "values (1)"])
def test_what_is_not_plain_is_left_alone(text: str) -> None:
    parsed = only(text)
    assert Clauses.of(parsed, parsed.body) is None


def test_order_by_is_split_into_expressions() -> None:
    found = clauses('select 1 from t order by a desc, f(b, c) nulls first, 3, d asc nulls last, e collate "C" limit 4')
    assert found.sort_texts() == ["a", "f(b, c)", "3", "d", 'e collate "C"']


def test_a_rewrite_that_changed_more_than_it_should_is_noticed() -> None:
    parsed = only("select a from t where b = 1")
    assert verified(parsed, "select a, b from t where b = 1", 1)
    assert not verified(parsed, "select a, b from t where b = 2", 1)
    assert not verified(parsed, "select c, b from t where b = 1", 1)
    assert verified(parsed, "select c, b from t where b = 1", 1, frozenset({0}))
    assert not verified(parsed, "select a, b from", 1)
    assert not verified(parsed, "select a, b from t where b = 1; select 1", 1)


def test_edits_are_made_from_the_end() -> None:
    assert apply("abcdef", [Edit(1, 2, "X"), Edit(4, 6, ""), Edit(0, 0, ">")]) == ">aXcd"
