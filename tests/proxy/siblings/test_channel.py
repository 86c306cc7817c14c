"""Questions and answers between two processes."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from proxy.errors import ProxyError
from proxy.siblings.channel import Channel, ChannelGoneError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Side:
    """Answers."""

    def __init__(self) -> None:
        self.held = asyncio.Event()

    async def answer(self, what: str, content: Any) -> Any:
        if what == "wait":
            await self.held.wait()
        if what == "refuse":
            raise ProxyError("42704", "there is none", hint="look")
        if what == "break":
            raise ZeroDivisionError(content)
        return [what, content]


@asynccontextmanager
async def pair(side: Side) -> AsyncIterator[tuple[Channel, Channel]]:
    ends = socket.socketpair()
    channels = [await Channel.over(end, side.answer) for end in ends]
    running = [asyncio.ensure_future(channel.run()) for channel in channels]
    yield channels[0], channels[1]
    for channel in channels:
        channel.close()
    await asyncio.wait(running)


async def test_answers_find_their_questions_in_any_order_and_both_ways() -> None:
    side = Side()
    async with pair(side) as (one, other):
        late = asyncio.ensure_future(one.ask("wait", 1))
        assert await one.ask("soon", {"x": [None, "é"]}) == ["soon", {"x": [None, "é"]}]
        assert await other.ask("back") == ["back", None]
        assert await one.ask("long", "x" * 1_000_000) == ["long", "x" * 1_000_000]
        assert not late.done()
        side.held.set()
        assert await late == ["wait", 1]


async def test_errors_arrive_as_what_they_were() -> None:
    async with pair(Side()) as (one, _):
        with pytest.raises(ProxyError) as refused:
            await one.ask("refuse")
        assert (refused.value.sqlstate, refused.value.hint) == ("42704", "look")
        with pytest.raises(ProxyError) as broken:
            await one.ask("break", "it")
        assert (broken.value.sqlstate, broken.value.message) == ("XX000", "ZeroDivisionError: it")


async def test_nobody_waits_for_who_has_gone() -> None:
    async with pair(Side()) as (one, other):
        waiting = asyncio.ensure_future(one.ask("wait"))
        await asyncio.sleep(0)
        other.close()
        with pytest.raises(ChannelGoneError):
            await waiting
        with pytest.raises(ChannelGoneError):
            await one.ask("more")


async def test_who_gave_up_is_not_told() -> None:
    side = Side()
    async with pair(side) as (one, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await one.ask("wait")
        side.held.set()
        assert await one.ask("next") == ["next", None]
