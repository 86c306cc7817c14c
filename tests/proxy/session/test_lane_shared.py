"""What has become of an unnamed statement that a link runs as a prepared one, by what is answered first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.session.lane_shared import (
    BOUND,
    GOES_ON,
    PREPARED,
    QUERY_BOUND,
    QUERY_PREPARED,
    REFUSED,
    UNDECIDED,
    Opening,
)
from proxy.wire import backend
from proxy.wire.fields import ErrorFields
from proxy.wire.frames import frame, walk

PARSE, BIND, CLOSED = backend.parse_complete(), backend.bind_complete(), backend.close_complete()
NOTICE = frame(b"N", b"SNOTICE\0\0")
REST = backend.command_complete(b"SELECT 0") + backend.ready_for_query(b"I")
READY = backend.ready_for_query(b"I")


def failed(sqlstate: str) -> bytes:
    return backend.error_response(ErrorFields.make("ERROR", sqlstate, "no"))


def opened(kind: int, *chunks: bytes) -> tuple[Opening, Any]:
    link: Any = SimpleNamespace(statements={"here": None, "other": None})
    known: Any = SimpleNamespace(link_name="here")
    opening = Opening(kind, known, link)
    for chunk in chunks:
        if opening.state != UNDECIDED:
            break
        opening.came(memoryview(chunk), walk(chunk, 0, len(chunk))[0])
    return opening, link


@pytest.mark.parametrize(
    ("kind", "chunks", "passed"),
    [
        (BOUND, [BIND + REST], PARSE + BIND + REST),
        (BOUND, [BIND], PARSE + BIND),
        (BOUND, [NOTICE, BIND + REST], NOTICE + PARSE + BIND + REST),
        (BOUND, [NOTICE + BIND + REST], NOTICE + PARSE + BIND + REST),
        (PREPARED, [PARSE + BIND + REST], PARSE + BIND + REST),
        (PREPARED, [CLOSED + CLOSED, PARSE + BIND + REST], PARSE + BIND + REST),
        (PREPARED, [NOTICE + CLOSED + PARSE], NOTICE + PARSE),
        (PREPARED, [PARSE + failed("22P02") + READY], PARSE + failed("22P02") + READY),
        (BOUND, [BIND + failed("22012") + READY], PARSE + BIND + failed("22012") + READY),
        (QUERY_BOUND, [BIND + REST], REST),
        (QUERY_BOUND, [NOTICE, BIND, REST], NOTICE),
        (QUERY_BOUND, [BIND + failed("22012") + READY], failed("22012") + READY),
        (QUERY_PREPARED, [PARSE + BIND + REST], REST),
        (QUERY_PREPARED, [CLOSED, CLOSED + PARSE, NOTICE + BIND + REST], NOTICE + REST),
        (QUERY_PREPARED, [PARSE, BIND + failed("22012") + READY], failed("22012") + READY),
    ],
)
def test_what_has_begun_goes_on(kind: int, chunks: list[bytes], passed: bytes) -> None:
    opening, link = opened(kind, *chunks)
    assert (opening.state, opening.chunk) == (GOES_ON, passed)
    assert opening.index == walk(passed, 0, len(passed))[0]
    assert list(link.statements) == ["here", "other"]


@pytest.mark.parametrize(
    ("kind", "sqlstate", "kept"),
    [
        (BOUND, "0A000", True),
        (BOUND, "42P01", True),
        (BOUND, "55P03", True),
        (BOUND, "26000", False),
        (PREPARED, "42P01", False),
        (PREPARED, "42P05", True),
        (QUERY_BOUND, "0A000", True),
        (QUERY_BOUND, "42501", True),
        (QUERY_BOUND, "26000", False),
        (QUERY_PREPARED, "42P01", False),
        (QUERY_PREPARED, "42P05", True),
    ],
)
@pytest.mark.parametrize("before", [[], [NOTICE]])
def test_what_has_not_is_sent_again(kind: int, sqlstate: str, before: list[bytes], *, kept: bool) -> None:
    opening, link = opened(kind, *before, failed(sqlstate) + READY)
    assert opening.state == REFUSED
    assert ("here" in link.statements) is kept
    assert "other" in link.statements


def test_a_query_that_is_parsed_and_not_bound_is_sent_again() -> None:
    opening, link = opened(QUERY_PREPARED, CLOSED + PARSE, NOTICE + failed("42501") + READY)
    assert opening.state == REFUSED
    assert "here" in link.statements


@pytest.mark.parametrize(
    ("kind", "kept"), [(BOUND, True), (PREPARED, False), (QUERY_BOUND, True), (QUERY_PREPARED, False)]
)
def test_a_cancel_is_told_as_it_is(kind: int, *, kept: bool) -> None:
    opening, link = opened(kind, NOTICE, failed("57014") + READY)
    assert (opening.state, opening.chunk) == (GOES_ON, NOTICE + failed("57014") + READY)
    assert ("here" in link.statements) is kept
