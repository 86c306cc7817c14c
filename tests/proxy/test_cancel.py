"""Cancel keys find their session, and nobody else's."""

from __future__ import annotations

from itertools import pairwise

from proxy.cancel import CancelKeys
from proxy.siblings.place import Place


class Cancelled:
    """A session that counts."""

    def __init__(self) -> None:
        self.times = 0

    def cancel(self) -> None:
        self.times += 1


def test_a_key_is_its_sessions() -> None:
    keys = CancelKeys()
    first, second = Cancelled(), Cancelled()
    pid, secret = keys.register(first, long_key=False)
    other_pid, other_secret = keys.register(second, long_key=True)
    assert (len(secret), len(other_secret)) == (4, 32)
    assert keys.cancel(pid, secret)
    assert not keys.cancel(pid, other_secret)
    assert not keys.cancel(other_pid, secret)
    assert not keys.cancel(pid, secret[:3])
    assert not keys.cancel(pid, b"")
    assert (first.times, second.times) == (1, 0)
    keys.forget(pid)
    assert not keys.cancel(pid, secret)
    keys.forget(pid)
    assert keys.cancel(other_pid, other_secret)
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
