from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pglast.parser import ParseError, scan

from router import statement
from router.errors import SyntaxFailure
from router.statement import Parsed, parse, scanned
from router.tree import walk


def only(text: str) -> Parsed:
    (found,) = parse(text)
    return found


@given(st.text(st.sampled_from("aé€😀 '"), min_size=1).filter(lambda text: "'" not in text), st.integers(1, 700))
def test_places_are_characters_wherever_they_are(text: str, often: int) -> None:
    long = text * often
    parsed = only(f"select '{long}', '{text}', x")
    encoded = parsed.text.encode()
    ends = [len(parsed.text[:at].encode()) for at in {0, 8, len(text), len(long) + 10, len(parsed.text) - 1}]
    assert [parsed.place(at) for at in ends] == [len(encoded[:at].decode()) for at in ends]
    (column,) = [body for kind, body in parsed.nodes if kind == "ColumnRef"]
    assert parsed.text[parsed.place(column["location"]) :] == "x"


def by_the_scanner(text: str) -> list[tuple[int, int, str]]:
    return [(item.start, item.end + 1, item.name) for item in scan(text)]


PIECES = [
    *"äé€😀\xa0\u3000zxenb_$1'\"\\+?. \n",
    "u&",
    "--",
    "/*",
    "*/",
    "free",
    "ze",
    "select",
    "$$",
    "$ä$",
    "$ö$",
    "'ä'",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@example("select freeée, freeze, x'1', äx'1', éE'\\'', $ä$ $ö$ $ä$, currentédate, $z$ä$z$")
@example("select $é $ä é$, a$ä$b, 1ä")
def test_letters_beyond_ascii_are_read_as_by_the_scanner(text: str) -> None:
    try:
        expected = by_the_scanner(text)
    except ParseError:
        with pytest.raises(ParseError):
            scanned(text)
        return
    assert scanned(text) == expected


def test_a_node_outlives_the_rest_of_a_long_tree() -> None:
    parsed = only("select " + ", ".join(f"f({number}::int)" for number in range(3000)))
    reading = iter(parsed.nodes)
    kept = next(node for node in reversed(parsed.nodes) if node[0] == "TypeName")
    _, body = parsed.nodes[0]
    targets = body["targetList"]
    count = len(parsed.nodes)
    del parsed, body
    assert len(list(reading)) == count
    assert kept[1]["names"][-1] == {"String": {"sval": "int4"}}
    assert len(targets) == 3000
    assert targets[0]["ResTarget"]["val"]["FuncCall"]["args"][0]["TypeCast"]["arg"]


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


BITS = [
    *("'a'", "'a''b'", "E'a\\'b c'", "e'\\n'", "b'01'", "N'x'", "U&'d\\0061t'", 'U&"d a"', '"q, (i"', "'a' \n 'b'"),
    *("'a, ' --c, d\n'(b'", "$1", "$", "x$1", "$tag$x $ ta y$tag$", "$$a b, (c$$", "--c, d\n", "/* x, (y /*z*/ */"),
    *("1.5e10", "1..2", "0x1F", "1e", "12", "ident", "select", "::", ":=", "=>", "<=", "<+-+-", "<->", "@-"),
    *" \n,()+-*/;",
]


@example(["'a' \n 'b'", "--c, d\n", "'a'"], 5)
@example(["'a, ' --c, d\n'(b'"], 4)
@given(st.lists(st.sampled_from(BITS), min_size=1, max_size=40), st.integers(3, 40))
def test_tokens_of_a_long_text_are_those_of_the_whole(bits: list[str], at_once: int) -> None:
    text = "".join(bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statement, "_SCANNED_AT_ONCE", at_once)
        try:
            expected = by_the_scanner(text)
        except ParseError:
            with pytest.raises(ParseError):
                scanned(text)
        else:
            assert scanned(text) == expected


def test_the_scanner_is_given_short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def noted(text: str) -> Any:
        sizes.append(len(text))
        return scan(text)

    monkeypatch.setattr(statement, "scan", noted)
    rows = ", ".join([f"(${k}, 'a ({k}), name')" for k in range(2000)])
    text = f"insert into t values {rows}"
    assert scanned(text) == by_the_scanner(text)
    assert max(sizes) <= 4096
    assert sum(sizes) < 2 * len(text)


@pytest.mark.parametrize(
    "text",
    [
        "insert into t values (1, '{}'), (2, '{}') -- '{}'",
        "update t set a='{}'::bytea, b = ('{}') where c = 'x' or d = '{}'",
        "select '{}', 'a' /* '*/ , '{}';",
    ],
)
def test_the_scanner_is_not_given_what_long_strings_hold(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    sizes = []

    def noted(text: str) -> Any:
        sizes.append(len(text))
        return scan(text)

    text = text.replace("{}", "\\x5c, (it''s) $a$ /* \n" * 10_000, 2).replace("{}", "short")
    expected = by_the_scanner(text)
    monkeypatch.setattr(statement, "scan", noted)
    assert scanned(text) == expected
    assert max(sizes) <= 2048
