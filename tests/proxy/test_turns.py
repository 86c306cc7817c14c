"""Who works long gives others a turn."""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter

from proxy.turns import TURN_SECONDS, Turn, beside


async def test_others_have_a_turn_when_one_is_over() -> None:
    passed: list[str] = []
    asyncio.get_running_loop().call_soon(passed.append, "other")
    turn = Turn()
    until = perf_counter() + TURN_SECONDS
    while not await turn.give_way():
        assert not passed
    assert perf_counter() >= until
    assert passed == ["other"]


async def test_the_loop_goes_on_while_a_thread_works() -> None:
    turned = threading.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    assert await beside(turned.wait, 20)
