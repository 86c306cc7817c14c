"""How long the loop stands still: what is sent, what is read, what is on the page."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from bench import contenders, lateness
from bench.contenders import PACKAGES
from bench.late_kinds import KINDS
from bench.late_proxy import Lateness
from bench.lateness import Client, Probe, Run, arguments, proxy_before, table_of
from proxy.wire.frames import walk
from proxy.wire.frontend import Query

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.demo.embedded import EmbeddedServer
    from tests.conftest import MakeDatabases

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
        hung_up = asyncio.Event()
        lateness = Lateness(asked, hung_up.set, where=False)
        probe = Probe(asks)
        await asyncio.to_thread(probe.longest)
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        said = await asyncio.to_thread(probe.longest)
        assert said["turn"] >= 45
        assert said["block"] >= 45
        assert said["wall"] >= said["turn"]
        waiting = threading.Event()
        asyncio.get_running_loop().call_later(0.05, waiting.set)
        await asyncio.to_thread(waiting.wait, 20)
        said = await asyncio.to_thread(probe.longest)
        assert max(said["turn"], said["block"]) < 45
        asks.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(hung_up.wait(), 20)
        lateness.close()


async def test_what_a_thread_keeps_from_the_loop_is_not_the_loops_turn() -> None:
    asks, asked = socket.socketpair()
    with asks, asked:
        hung_up = asyncio.Event()
        lateness = Lateness(asked, hung_up.set, where=False)
        probe = Probe(asks)
        await asyncio.to_thread(probe.longest)
        await asyncio.to_thread(pow, 7**200_000, 8)  # one call in C, which lets nobody run
        said = await asyncio.to_thread(probe.longest)
        assert said["block"] >= 45
        assert said["turn"] < said["block"] / 2
        asks.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(hung_up.wait(), 20)
        lateness.close()


def test_the_table_has_medians_and_shows_what_is_too_long() -> None:
    found = [Run("a", turn, turn, turn + 1, 0.5) for turn in (1.0, 5.5, 2.0)]
    found += [Run("b", 1.0, 6.0, 9.0, 0.25), Run("c", 0.5, 1.0, 7.0, 0.25)]
    assert table_of(found).splitlines() == [
        "| a | 2.0 | **5.5** | **5.5** | 6.5 | 0.50 |",
        "| b | 1.0 | 1.0 | **6.0** | 9.0 | 0.25 |",
        "| c | 0.5 | 0.5 | 1.0 | 7.0 | 0.25 |",
    ]


@pytest.mark.parametrize("safe", [False, True])
def test_its_proxy_is_of_the_build_that_is_measured_and_ends_with_who_asks(
    servers: list[EmbeddedServer],
    make_databases: MakeDatabases,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    safe: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    monkeypatch.setattr(lateness, "DATABASE", make_databases(2, "late")[0].rpartition("/")[2])
    build = tmp_path / "build"  # as a compiled wheel is unpacked: without the benchmarks
    build.mkdir()
    for package in ("proxy", "router"):
        (build / package).symlink_to(PACKAGES / package)
    monkeypatch.setattr(contenders, "PACKAGES", build)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if safe:
        monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with ExitStack() as stack:
        target, probe, process = proxy_before(servers[:2], tmp_path, stack, [])
        with closing(Client(target)) as client:
            client.run([Query(b"SELECT 1").encode()])
        assert probe.longest()["wall"] > 0
        probe.close()
        assert process.wait(20) == 0


def test_kinds_are_chosen_by_parts_of_their_names() -> None:
    assert arguments(["--only", "nothing,DISTINCT"]).kinds == ["nothing", "DISTINCT of 100,003"]
    assert arguments([]).kinds == list(KINDS)
