"""The diagram in the documentation is the machine's own table."""

from __future__ import annotations

from machine_diagram import FILE, draw
from proxy.twophase.machine import TRANSITIONS, State


def test_the_diagram_is_current() -> None:
    assert FILE.read_text() == draw(), "write it anew: python tests/support/machine_diagram.py"


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.NEW, State.PREPARING, State.UNDOING}.union(*TRANSITIONS.values())
    assert reached == set(State)
    left = {state for state, _ in TRANSITIONS}
    assert left == set(State) - {State.NEW, State.DONE}
