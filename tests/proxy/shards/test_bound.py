"""Step 1 of a commit as messages that are bound: on a real server they do what the text does, again and again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError
from proxy.shards.link import ShardLink, open_link
from proxy.shards.receivers import Answer
from proxy.shards.relay import FAILED, IDLE
from proxy.twophase.messages import PREPARING_TEXT
from proxy.wire import backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

STEP_1 = PREPARING_TEXT + "PREPARE TRANSACTION 'bound test'"


@pytest.fixture
async def link(endpoint: ShardEndpoint) -> AsyncIterator[ShardLink]:
    opened = await open_link(endpoint, role="postgres", password=None)
    await opened.run("DROP TABLE IF EXISTS bound; CREATE TABLE bound (a int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    yield opened
    await opened.run("DROP TABLE bound")
    await opened.close()


async def posted(link: ShardLink) -> Answer:
    """Post step 1, and raise what it is told."""
    told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def hear(answer: Answer | Exception) -> None:
        if isinstance(answer, Exception):
            told.set_exception(answer)
        else:
            told.set_result(answer)

    link.post(STEP_1, hear)
    return await told


async def begin(link: ShardLink, values: str) -> bytes | None:
    answer = await link.run(f"BEGIN; INSERT INTO bound VALUES {values}; SELECT pg_current_xact_id()")
    return answer.rows[0][0]


async def as_text(link: ShardLink) -> Answer:
    return await link.run(STEP_1)


async def prepared(link: ShardLink, run: Callable[[ShardLink], Awaitable[Answer]] = posted) -> Answer:
    """Prepare a transaction, see that it is there by its xid, and roll it back."""
    xid = await begin(link, "(1)")
    answer = await run(link)
    assert answer.rows[0][0] == xid
    assert answer.status == link.status == IDLE
    there = "SELECT transaction::text FROM pg_prepared_xacts WHERE gid = 'bound test'"
    assert (await link.run(there)).rows == [[xid]]
    await link.run("ROLLBACK PREPARED 'bound test'")
    return answer


async def test_it_answers_what_the_text_answers(link: ShardLink) -> None:
    by_text = await prepared(link, as_text)
    for _ in range(3):  # the first prepares the statements, the others find them
        answer = await prepared(link)
        assert answer.tags == by_text.tags
        assert answer.rows[0][1:] == by_text.rows[0][1:]
        assert (await link.run("SHOW statement_timeout")).rows == [[b"0"]]


async def test_a_weaker_durability_is_told_and_raised(link: ShardLink) -> None:
    for _ in range(2):
        await link.run("SET synchronous_commit = off")
        answer = await prepared(link)
        assert answer.rows[0][1:] == [b"off", b"on"]


@pytest.mark.parametrize("before", [0, 2])
async def test_what_fails_in_it_has_prepared_nothing_and_may_be_tried_again(link: ShardLink, before: int) -> None:
    for _ in range(before):
        await prepared(link)
    for _ in range(2):
        await begin(link, "(1), (1)")  # looked at by SET CONSTRAINTS
        with pytest.raises(ShardError) as caught:
            await posted(link)
        assert (caught.value.sqlstate, link.status) == ("23505", FAILED)
        await link.run("ROLLBACK")
        assert (await link.run("SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'bound test'")).rows == [[b"0"]]
        await prepared(link)


async def test_a_washed_link_prepares_its_statements_anew(link: ShardLink) -> None:
    await prepared(link)
    link.dirty = True
    await link.wash()
    await prepared(link)


async def test_outside_of_a_block_it_warns_as_the_text_does(link: ShardLink) -> None:
    """Both prepare what they have begun themselves; by the warning the machine knows that it is not the client's."""
    for run in (posted, as_text, posted):
        answer = await run(link)
        assert (answer.tags[-1], [notice.sqlstate for notice in answer.notices]) == (b"PREPARE TRANSACTION", ["25P01"])
        await link.run("ROLLBACK PREPARED 'bound test'")


async def test_in_a_failed_block_it_is_an_error_as_the_text_is(link: ShardLink) -> None:
    for run in (posted, as_text, posted):
        with pytest.raises(ShardError, match="division"):
            await link.run("BEGIN; SELECT 1/0")
        with pytest.raises(ShardError) as caught:
            await run(link)
        assert (caught.value.sqlstate, link.status) == ("25P02", FAILED)
        await link.run("ROLLBACK")
        await prepared(link)


class Silent:
    """A transport that nobody is at the other end of."""

    def set_protocol(self, _protocol: object) -> None:
        pass

    def write(self, _data: bytes) -> None:
        pass


async def test_the_row_is_the_last_statements_however_the_answer_is_cut() -> None:
    """Without descriptions a tag tells where the rows of the next statement begin."""
    bound, tag = backend.bind_complete(), backend.command_complete
    rows = bound + backend.data_row([b"0", b"1s"]) + tag(b"SELECT 1") + bound + tag(b"SET CONSTRAINTS")
    rows += bound + backend.data_row([b"4711", b"on"]) + tag(b"SELECT 1")
    said = rows + backend.parse_complete() + bound + tag(b"PREPARE TRANSACTION") + backend.ready_for_query(b"I")
    for first in (b"", backend.close_complete() + backend.parse_complete()):
        whole = first + said
        for at in range(len(whole)):
            loan: Any = SimpleNamespace(transport=Silent(), parameters={}, pid=1)
            link = ShardLink(ShardEndpoint("s0", 0, "postgres://postgres@127.0.0.1/x"), loan, "postgres", "x")
            told: list[Answer | Exception] = []
            link.post(STEP_1, told.append)
            for piece in (whole[:at], whole[at:]):
                if piece:
                    link.data_received(piece)
            (answer,) = told
            assert isinstance(answer, Answer)
            assert answer.rows[0] == [b"4711", b"on"]
            assert answer.tags == (b"SELECT 1", b"SET CONSTRAINTS", b"SELECT 1", b"PREPARE TRANSACTION")
