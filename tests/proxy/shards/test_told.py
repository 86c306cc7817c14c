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


def prepared(
    xid: bytes | None, durable: bytes = b"on", tag: bytes = b"PREPARE TRANSACTION", more: bytes = b""
) -> bytes:
    """Make what step 1 of a commit is answered with."""
    columns = [backend.Field(name, type_oid=25) for name in (b"xid", b"durable")]
    rows = backend.row_description(columns) + backend.data_row([xid, durable]) + more
    return rows + backend.command_complete(b"SELECT 1") + backend.command_complete(tag) + backend.ready_for_query(b"I")


async def test_an_answer_like_one_that_was_read_is_told_with_its_own_values() -> None:
    """All of one length, so that each is compared with the one before it."""
    said = {
        prepared(b"4711"): [b"4711", b"on"],
        prepared(b"4712"): [b"4712", b"on"],
        prepared(b"4713", b"no"): [b"4713", b"no"],
        prepared(b"4714", b"no"): [b"4714", b"no"],
        prepared(b"47", b"on17"): [b"47", b"on17"],
        prepared(b"4715"): [b"4715", b"on"],
        prepared(b"4716", tag=b"REPAIRE TRANSACTION"): [b"4716", b"on"],
        prepared(b"4717", tag=b"REPAIRE TRANSACTION"): [b"4717", b"on"],
    }
    assert len({len(one) for one in said}) == 1
    for one in (*said, *said):
        link, (answer,) = ask(one)
        assert isinstance(answer, Answer)
        tag = b"REPAIRE TRANSACTION" if b"REPAIRE" in one else b"PREPARE TRANSACTION"
        assert (answer.tags, answer.rows[0]) == ((b"SELECT 1", tag), said[one])
        assert (answer.status, link.status, link.busy) == (ord("I"), ord("I"), False)


async def test_null_and_a_second_row_are_no_first_value() -> None:
    for row, more in ((None, b""), (b"7", backend.data_row([b"8", b"on"])), (b"9", backend.data_row([b"8", b"on"]))):
        for _ in range(2):
            _, (answer,) = ask(prepared(row, more=more))
            assert isinstance(answer, Answer)
            assert answer.rows[0] == [row, b"on"]


async def test_statuses_that_differ_are_told_apart() -> None:
    for status in (b"I", b"T", b"I", b"E"):
        link, (answer,) = ask(backend.command_complete(b"COMMIT") + backend.ready_for_query(status))
        assert isinstance(answer, Answer)
        assert (answer.tags, answer.status, link.status) == ((b"COMMIT",), ord(status), ord(status))


async def test_the_end_of_an_answer_is_not_taken_for_one_that_was_like_it() -> None:
    end = backend.command_complete(b"COMMIT") + READY_T
    ask(end)
    _, (answer,) = ask(backend.command_complete(b"SET"), end)
    assert isinstance(answer, Answer)
    assert answer.tags == (b"SET", b"COMMIT")


async def test_an_error_of_the_length_of_an_answer_is_an_error() -> None:
    answer = prepared(b"4711")
    ask(answer)
    error = b"E" + (len(answer) - len(READY_E) - 1).to_bytes(4, "big") + b"C22012\0M" + b"x" * 200
    _, (failure,) = ask(error[: len(answer) - len(READY_E) - 2] + b"\0\0" + READY_E)
    assert isinstance(failure, ShardError)
    assert failure.sqlstate == "22012"
