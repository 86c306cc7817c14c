"""When a worker is started again."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from proxy.supervisor import slot as slot_module
from proxy.supervisor.slot import Slot

if TYPE_CHECKING:
    import pytest


def start(slot: Slot) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    slot.begin(1, ours, 0)
    ours.close()


def test_who_dies_soon_is_started_later_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(slot_module.time, "monotonic", lambda: now[0])
    slot = Slot(1)
    pauses = []
    for _ in range(1100):
        start(slot)
        assert slot.state == "starting"
        pauses.append(slot.died())
        assert slot.state == "down"
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == 30.0
    start(slot)
    now[0] += 11
    assert slot.died() == 0.0, "it had worked for a while"
    start(slot)
    assert slot.died() == 0.1


def test_one_that_owes_an_answer_for_long_is_silent() -> None:
    slot = Slot(1)
    start(slot)
    slot.serving, slot.owed = True, slot_module.SILENT_BEATS
    assert slot.state == "serving"
    slot.owed += 1
    assert slot.state == "silent"
    slot.died()
    assert (slot.state, slot.silent) == ("down", False)


def test_what_it_has_counted_stays() -> None:
    slot = Slot(1)
    for _ in range(2):
        start(slot)
        slot.metrics = [
            ["errors", "counter", "Errors.", [["errors_total", {"s": "x"}, 2.0]]],
            ["clients", "gauge", "Clients.", [["clients", {}, 7.0]]],
        ]
        slot.died()
    assert slot.departed == [["errors", "counter", "Errors.", [["errors_total", {"s": "x"}, 4.0]]]]
