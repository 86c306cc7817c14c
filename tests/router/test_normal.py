"""Texts without their values."""

from __future__ import annotations

import pytest

from router import normal
from router.normal import CUT, READ_CHARACTERS, SHOWN_CHARACTERS, normalise_ahead, normalised

PAIRS = {
    "select a from t where k = 5;": "select a from t where k = $1",
    "select a from t\n  where k = 'x''y'  -- a 5\n and c = 1.5e-3": "select a from t where k = $1 and c = $2",
    "select a from t where k = $1 and c = 5": "select a from t where k = $1 and c = $2",
    "update t set a = a + -5 where k = 7": "update t set a = a + $1 where k = $2",
    "select 3-1, -2, (-3)": "select $1-$2, $3, ($4)",
    "select a1, b from t2 where k in (1, 2,3)": "select a1, b from t2 where k in ($1, ...)",
    "select f(1, 2)": "select f($1, $2)",
    "insert into t (a, b) values (1, 'x'), (2, 'y')": "insert into t (a, b) values ($1, $2), ...",
    "select $$it's$$, $tag$ $$ 5 $tag$, b'1', E'a\\'b', U&\"x\"": 'select $1, $2, $3, $4, U&"x"',
    "select /* one /* two */ 5 */ 1": "select $1",
    "select 1 /*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/": "select $1",
    'select "a 5" from "T"': 'select "a 5" from "T"',
    "select 0xFF, 1_000": "select $1, $2",
    "": "",
    ";": "",
}


@pytest.mark.parametrize("text", PAIRS)
def test_values_go_and_all_else_stays(text: str) -> None:
    assert normalised(text) == PAIRS[text]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("SET app.y TO secret", "SET app.y TO $1"),
        ('set local app.y = "a secret"', "set local app.y = $1"),
        (
            "set session app.y to secret, 'b', secret_too; select a from t",
            "set session app.y to $1, $2, $3; select a from t",
        ),
        ("set app.y to default", "set app.y to default"),
        ("set search_path to a, b", "set search_path to a, b"),
        ("alter role r in database d set app.y to secret", "alter role r in database d set app.y to $1"),
        ("update t set a = b", "update t set a = b"),
        ("update t set c.a = b", "update t set c.a = b"),
    ],
)
def test_a_bare_word_is_a_value_where_a_setting_is_made(text: str, shown: str) -> None:
    assert normalised(text) == shown


@pytest.mark.parametrize("text", ["select 'a\\' secret'", "select 'secret", "select $$secret", 'select "secret'])
def test_what_cannot_be_read_with_certainty_is_not_shown(text: str) -> None:
    shown = normalised(text)
    assert "secret" not in shown
    assert shown == "select $1" + CUT


def test_a_long_text_is_cut() -> None:
    assert normalised("select " + ", ".join(f"column_{number}" for number in range(1000))).endswith(CUT)
    shown = normalised("select '" + "secret" * READ_CHARACTERS + "' from t")
    assert "secret" not in shown
    assert len(normalised("select a " * READ_CHARACTERS)) <= SHOWN_CHARACTERS + len(CUT)


def test_what_was_found_ahead_is_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "select 1 " + "+ x" * READ_CHARACTERS
    texts = [*PAIRS, long, long[:READ_CHARACTERS]]
    monkeypatch.setattr(normal, "_ahead", normal._Ahead())
    found = [normalised(text) for text in texts]
    normalise_ahead(texts)
    monkeypatch.setattr(normal, "_found", pytest.fail)
    assert [normalised(text) for text in texts if normalised_is_some(text)] == [one for one in found if one]


def normalised_is_some(text: str) -> bool:
    return bool(text.strip(" ;"))


def test_what_was_found_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normal, "_AHEAD_CHARACTERS", 20_000)
    ahead = normal._Ahead()
    monkeypatch.setattr(normal, "_ahead", ahead)
    for number in range(1000):
        normalise_ahead([f"select {number}", f"select {number}"])
        assert len(ahead.found) <= 20_000 // normal._ENTRY_CHARACTERS
    assert ahead.found[("select 999", False)] == "select $1"
