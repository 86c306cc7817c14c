"""How the quick lane tells the end of an answer, compiled and interpreted."""

from __future__ import annotations

import pytest

from proxy.session.lane_quick import _END, _has_end
from proxy.wire import backend

ROW = backend.data_row([b"-4711"])


@pytest.mark.parametrize(
    "tail",
    [
        _END,
        backend.command_complete(b"SELECT 1") + backend.ready_for_query(b"T"),
        backend.command_complete(b"SELECT 1") + backend.ready_for_query(b"E"),
        backend.command_complete(b"SELECT 10") + backend.ready_for_query(b"I"),
        ROW + _END[len(ROW) :],
        ROW[: len(_END)].ljust(len(_END), b"I"),
        _END[:-1],
        _END[1:],
        _END + _END[:3],
        b"",
    ],
)
def test_the_end_behind_a_row(tail: bytes) -> None:
    answer = ROW + tail
    assert _has_end(answer) == answer.endswith(_END)
