"""Cancel keys find their session, and nobody else's."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from proxy.cancel import CancelKeys
from proxy.siblings.place import Place


class Cancelled:
    """A session that counts."""

    def __init__(self) -> None:
        self.times = 0
        self.under_way: list[asyncio.Future[None]] = []

    def cancel(self) -> list[asyncio.Future[None]]:
        self.times += 1
        return self.under_way


async def test_a_cancel_is_over_when_all_shards_have_been_told() -> None:
    keys, session = CancelKeys(), Cancelled()
    loop = asyncio.get_running_loop()
    session.under_way = [loop.create_future(), loop.create_future()]
    cancelling = asyncio.ensure_future(keys.cancel(*keys.register(session, long_key=False)))
    for told in session.under_way:
        await asyncio.sleep(0)
        assert session.times == 1
        assert not cancelling.done()
        told.set_result(None)
    assert await cancelling


async def test_a_key_is_its_sessions() -> None:
    keys = CancelKeys()
    first, second = Cancelled(), Cancelled()
    pid, secret = keys.register(first, long_key=False)
    other_pid, other_secret = keys.register(second, long_key=True)
    assert (len(secret), len(other_secret)) == (4, 32)
    assert await keys.cancel(pid, secret)
    assert not await keys.cancel(pid, other_secret)
    assert not await keys.cancel(other_pid, secret)
    assert not await keys.cancel(pid, secret[:3])
    assert not await keys.cancel(pid, b"")
    assert (first.times, second.times) == (1, 0)
    keys.forget(pid)
    assert not await keys.cancel(pid, secret)
    keys.forget(pid)
    assert await keys.cancel(other_pid, other_secret)
    assert (first.times, second.times) == (1, 1)


def test_keys_cannot_be_guessed_from_others() -> None:
    keys = CancelKeys()
    made = [keys.register(Cancelled(), long_key=False) for _ in range(500)]
    assert len({pid for pid, _ in made}) == 500
    assert all(0 < pid < 2**31 for pid, _ in made)
    assert len({secret for _, secret in made}) > 490
    assert len({later - earlier for (earlier, _), (later, _) in pairwise(made)}) > 490


def test_a_key_names_its_worker() -> None:
    for count in (1, 2, 3, 64):
        for number in {1, count}:
            keys = CancelKeys(Place(number, count))
            for _ in range(20):
                pid, _ = keys.register(Cancelled(), long_key=False)
                assert 0 < pid < 2**31
                assert CancelKeys(Place(1, count)).owner(pid) == number
