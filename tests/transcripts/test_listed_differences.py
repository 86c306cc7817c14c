"""Each difference that is listed is recognised, and nothing beside it; its sentence stands in docs/limits.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from listed_differences import LISTED, Listed, kind_of, name_of
from transcripts import q
from wire_client import bind, execute, parse

if TYPE_CHECKING:
    from wire_client import Entry

LIMITS = Path(__file__).parents[2] / "docs" / "limits.md"
PARSED: Entry = ("parsed",)


def error(sqlstate: str, message: str) -> Entry:
    return ("error", {"S": "ERROR", "C": sqlstate, "M": message})


@dataclass(frozen=True)
class Case:
    """A smallest sequence, and the first messages in which the answers differ."""

    listed: str
    messages: tuple[Any, ...]
    one: Entry
    other: Entry


SET_AS_P = (parse("set geqo = off"), bind(portal="p"), execute("p"))
ROW: Entry = ("row", [b"1"])
UNNAMED = "the unnamed portal behind SET by a named one"
NO_UNNAMED = error("34000", 'portal "" does not exist')
BOUND = (parse("select 1"), bind())

TOO_LATE = error("25001", "SET TRANSACTION ISOLATION LEVEL must be called before any query")
BEHIND_BEGIN = "an error behind EXECUTE of BEGIN"
READY, FAILED = ("ready", "I"), ("ready", "E")
EXECUTED_BEGIN = (parse("begin", "t"), parse("execute t"), bind(), execute(), execute())

MATCHING = (
    Case(BEHIND_BEGIN, EXECUTED_BEGIN, READY, FAILED),
    Case(UNNAMED, (*BOUND, *SET_AS_P, execute()), ("row", [b"1"]), NO_UNNAMED),
    Case(UNNAMED, (*BOUND, *SET_AS_P, execute()), ("tag", "INSERT 0 1"), NO_UNNAMED),
)
NEAR_MISSES = (
    Case("EXECUTE of no BEGIN", (parse("select 1", "t"), parse("execute t"), bind(), execute()), READY, FAILED),
    Case("another status", EXECUTED_BEGIN, READY, ("ready", "T")),
    Case("in a Query", (parse("begin", "t"), q("execute t"), q("select 1/0")), READY, FAILED),
    Case("not behind SET", (*BOUND, parse("select 2"), bind(portal="p"), execute("p"), execute()), ROW, NO_UNNAMED),
    Case("SET by the unnamed one", (parse("set geqo = off"), bind(), execute(), execute()), ("row", []), NO_UNNAMED),
    Case("a named one is gone", (*BOUND, *SET_AS_P, execute()), ROW, error("34000", 'portal "p" does not exist')),
    Case("an error of Postgres's own", (*BOUND, *SET_AS_P, execute()), error("22012", "division by zero"), NO_UNNAMED),
    Case("SET alone", SET_AS_P, ("tag", "SET"), NO_UNNAMED),
)  # fmt: skip


@pytest.mark.parametrize("case", MATCHING, ids=lambda case: f"{case.listed}: {case.messages[-1]}")
def test_it_is_recognised(case: Case) -> None:
    assert name_of(case.messages, [PARSED, case.one], [PARSED, case.other]) == case.listed


@pytest.mark.parametrize("case", NEAR_MISSES, ids=lambda case: case.listed)
def test_a_near_miss_is_not(case: Case) -> None:
    assert name_of(case.messages, [PARSED, case.one], [PARSED, case.other]) is None


def test_answers_that_end_are_listed_nowhere() -> None:
    assert name_of(MATCHING[0].messages, [PARSED, TOO_LATE], [PARSED]) is None


def test_each_has_a_case() -> None:
    assert {listed.name for listed in LISTED} == {case.listed for case in MATCHING}


@pytest.mark.parametrize("listed", LISTED, ids=lambda listed: listed.name)
def test_its_sentence_is_in_the_limits(listed: Listed) -> None:
    assert listed.sentence in " ".join(LIMITS.read_text().split())


def test_kinds_are_told_apart_by_the_errors_and_not_by_names() -> None:
    gone, other = (error("34000", f'cursor "{name}" does not exist') for name in "pr")
    assert kind_of([TOO_LATE], [gone]) == kind_of([TOO_LATE], [other])
    assert kind_of([TOO_LATE], [gone]) != kind_of([NO_UNNAMED], [gone])
