from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from proxy.tasks import spawn


async def test_a_task_has_a_name_and_a_result() -> None:
    async def seven() -> int:
        return 7

    task = spawn(seven(), "seven")
    assert task.get_name() == "seven"
    assert await task == 7


async def test_a_task_that_nobody_keeps_lives_on() -> None:
    done = asyncio.Event()
    hidden: list[weakref.ref[asyncio.Future[None]]] = []

    async def wait() -> None:
        # Nothing but this coroutine holds the future it waits for: without help, both are garbage.
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        hidden.append(weakref.ref(future))
        await future
        done.set()

    spawn(wait(), "kept")
    await asyncio.sleep(0)
    gc.collect()
    future = hidden[0]()
    assert future is not None
    future.set_result(None)
    await done.wait()


async def test_the_log_says_how_a_task_died(caplog: pytest.LogCaptureFixture) -> None:
    async def die() -> None:
        msg = "of this"
        raise ValueError(msg)

    task = spawn(die(), "mortal")
    with pytest.raises(ValueError, match="of this"):
        await task
    await asyncio.sleep(0)
    assert "task mortal died: of this" in caplog.text


async def test_being_cancelled_is_no_death(caplog: pytest.LogCaptureFixture) -> None:
    task = spawn(asyncio.sleep(60), "cancelled")
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert caplog.text == ""
