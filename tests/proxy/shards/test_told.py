"""An answer that is told to a function: the same however the socket cuts it, and told once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError
from proxy.shards.link import ShardLink
from proxy.shards.receivers import Answer
from proxy.wire import backend
from proxy.wire.fields import ErrorFields

READY_T, READY_E = backend.ready_for_query(b"T"), backend.ready_for_query(b"E")
ROWS = backend.row_description([backend.Field(b"a", type_oid=23)]) + backend.data_row([b"7", None])
DONE = backend.command_complete(b"SET") + ROWS + backend.data_row([b"8", b"x"]) + backend.command_complete(b"SELECT 2")
NOTICE = backend.notice_response(ErrorFields.make("WARNING", "25P01", "look"))
ERROR = backend.error_response(ErrorFields.make("ERROR", "23503", "no such parent"))


class Transport:
    """Remembers what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def set_protocol(self, _protocol: object) -> None:
        pass

    def get_extra_info(self, _name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        pass


def make_link() -> ShardLink:
    loan: Any = SimpleNamespace(transport=Transport(), parameters={}, pid=1)
    return ShardLink(ShardEndpoint("s0", 0, "postgres://postgres@127.0.0.1/x"), loan, "postgres", "x")


def ask(*chunks: bytes) -> tuple[ShardLink, list[Answer | Exception]]:
    """Post a message on a link and have it answered in pieces."""
    link = make_link()
    told: list[Answer | Exception] = []
    link.post("SELECT 1", told.append)
    for chunk in chunks:
        assert told == []
        link.data_received(chunk)
    return link, told


@pytest.mark.parametrize("said", [DONE + READY_T, DONE + NOTICE + READY_T])
async def test_tags_and_the_first_row_are_told_however_the_answer_is_cut(said: bytes) -> None:
    for at in range(len(said)):
        link, (answer,) = ask(*(piece for piece in (said[:at], said[at:]) if piece))
        assert isinstance(answer, Answer)
        assert (answer.tags, answer.rows[0], answer.status) == ((b"SET", b"SELECT 2"), [b"7", None], ord("T"))
        assert len(answer.notices) == said.count(NOTICE)
        assert not link.busy


async def test_an_error_is_told_however_it_is_cut() -> None:
    said = DONE + ERROR + READY_E
    for at in range(1, len(said)):
        link, (error,) = ask(said[:at], said[at:])
        assert isinstance(error, ShardError)
        assert (error.sqlstate, error.lost, link.status) == ("23503", False, ord("E"))


async def test_a_lost_link_is_told_once() -> None:
    link, told = ask(DONE)
    link.abort()
    link.connection_lost(None)
    (error,) = told
    assert isinstance(error, ShardError)
    assert error.lost


async def test_the_next_message_may_go_out_in_that_call() -> None:
    link = make_link()
    second: list[Answer | Exception] = []
    link.post("SELECT 1", lambda _answer: link.post("SELECT 2", second.append))
    link.data_received(DONE + READY_T)
    assert second == []
    link.data_received(DONE + READY_T)
    assert len(second) == 1
