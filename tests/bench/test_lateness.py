"""How long the loop stands still: what is sent, what is read, what is on the page."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest

from bench.late_kinds import KINDS
from bench.late_proxy import Lateness
from bench.lateness import Probe, Run, arguments, table_of
from proxy.wire.frames import walk

SMALL = [name for name in KINDS if "10,000" not in name and "MiB" not in name and "65,535" not in name]


@pytest.mark.parametrize("name", SMALL)
def test_kinds_are_whole_messages_and_new_each_time(name: str) -> None:
    kind = KINDS[name]
    first, second = (b"".join(kind.messages(number)) for number in (0, 1))
    index, rest = walk(first, 0, len(first))
    assert rest == len(first)
    assert {chr(one) for one, _, _ in index} <= set("QPBESdc")
    assert sum(chr(one) in "QS" for one, _, _ in index) == kind.answers
    assert first != second


async def test_a_loop_that_stood_still_says_for_how_long() -> None:
    asks, asked = socket.socketpair()
    with asks, asked:
        Lateness(asked, where=False)
        probe = Probe(asks)
        await asyncio.to_thread(probe.longest)
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        said = await asyncio.to_thread(probe.longest)
        assert said["block"] >= 45
        assert said["wall"] >= said["block"]
        waiting = threading.Event()
        asyncio.get_running_loop().call_later(0.05, waiting.set)
        await asyncio.to_thread(waiting.wait, 20)
        assert (await asyncio.to_thread(probe.longest))["block"] < 45
        asyncio.get_running_loop().remove_reader(asked.fileno())
    assert json.dumps(said)


def test_the_table_has_medians_and_shows_what_is_too_long() -> None:
    found = [Run("a", block, block + 1, 0.5) for block in (1.0, 5.5, 2.0)] + [Run("b", 1.0, 9.0, 0.25)]
    assert table_of(found).splitlines() == [
        "| a | 2.0 | **5.5** | 6.5 | 0.50 |",
        "| b | 1.0 | 1.0 | 9.0 | 0.25 |",
    ]


def test_kinds_are_chosen_by_parts_of_their_names() -> None:
    assert arguments(["--only", "nothing,DISTINCT"]).kinds == ["nothing", "DISTINCT of 100,003"]
    assert arguments([]).kinds == list(KINDS)
