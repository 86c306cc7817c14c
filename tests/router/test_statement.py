from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import SyntaxFailure
from router.statement import Parsed, parse
from router.tree import walk


def only(text: str) -> Parsed:
    (found,) = parse(text)
    return found


def test_a_message_is_cut_at_its_semicolons_and_knows_where_each_statement_began() -> None:
    text = "select 'é;' ; /* ; */ insert into é values ('x');  ; update t set a = 1"
    found = parse(text)
    assert [item.kind for item in found] == ["SelectStmt", "InsertStmt", "UpdateStmt"]
    assert [text[item.offset :].startswith(item.text) for item in found] == [True] * 3
    assert found[2].text == "update t set a = 1"


def test_a_single_statement_keeps_its_whole_text() -> None:
    assert only("  select 1 ; -- done").text == "  select 1 ; -- done"


@pytest.mark.parametrize("text", ["", "  ", ";", " ; ; ", "-- only a comment", "/* and this */;"])
def test_nothing_is_no_statement(text: str) -> None:
    assert parse(text) == ()


@pytest.mark.parametrize(
    ("text", "position"), [("select from from", 13), ("é select", 1), ("select 1; selekt 'é' 2", 11), ("select 'x", 8)]
)
def test_syntax_errors_have_positions_in_characters_from_one(text: str, position: int) -> None:
    with pytest.raises(SyntaxFailure) as caught:
        parse(text)
    assert caught.value.position == position


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    for text in ("select " + "(" * 40_000, "select " + "1+" * 60_000 + "1"):
        with pytest.raises(SyntaxFailure):
            parse(text)


def test_lone_surrogates_are_an_error() -> None:
    with pytest.raises(SyntaxFailure):
        parse("select '\ud800'")


@pytest.mark.parametrize("before", ["", "é", "\U0001f418 ", "日本"])
def test_places_in_the_tree_become_characters(before: str) -> None:
    text = f"select '{before}', x from somewhere"
    parsed = only(text)
    (place,) = [body["location"] for kind, body in walk({parsed.kind: parsed.body}) if kind == "RangeVar"]
    assert text[parsed.place(place) :] == "somewhere"
    assert parsed.position(place) == text.index("somewhere") + 1


def test_places_of_later_statements_count_from_their_own_start() -> None:
    text = "select 'é'; select 'é' from somewhere"
    second = parse(text)[1]
    (place,) = [body["location"] for kind, body in walk({second.kind: second.body}) if kind == "RangeVar"]
    assert second.text[second.place(place) :] == "somewhere"
    assert second.position(place) == text.index("somewhere") + 1


def test_tokens_leave_comments_out_and_end_before_the_semicolon() -> None:
    parsed = only("select /* a */ 1 -- b\n;")
    assert [parsed.text[token.start : token.end] for token in parsed.tokens] == ["select", "1", ";"]
    assert parsed.text[: parsed.end] == "select /* a */ 1"


def test_the_highest_parameter_counts() -> None:
    assert only("select $2, (select $7::int), $3").parameters == 7
    assert only("select 1").parameters == 0


def test_walk_names_bare_bodies_by_their_field() -> None:
    kinds = {kind for kind, _ in walk(only("insert into t select 1 union select 2").body)}
    assert {"RangeVar", "SelectStmt", "A_Const"} <= kinds
    assert "TypeName" in {kind for kind, _ in walk(only("select 1::int").body)}
    assert "OnConflictClause" in {
        kind for kind, _ in walk(only("insert into t values (1) on conflict do nothing").body)
    }


@given(st.text(max_size=40))
def test_any_text_parses_or_fails_cleanly(text: str) -> None:
    try:
        found = parse(text)
    except SyntaxFailure as failure:
        found, position = (), failure.position
    else:
        position = None
    assert position is None or 1 <= position <= len(text) + 1
    for parsed in found:
        assert text[parsed.offset : parsed.offset + len(parsed.text)] == parsed.text
