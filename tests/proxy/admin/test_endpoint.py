"""The HTTP endpoint: what it answers, and that a stuck event loop shows."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter

from proxy.admin import endpoint as endpoint_module
from proxy.admin.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Proxy:
    """Ready or not."""

    why = ""

    def not_ready(self) -> str:
        return self.why


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


@pytest.fixture
async def address(proxy: Proxy) -> AsyncIterator[str]:
    registry = CollectorRegistry()
    Counter("apples", "Eaten.", registry=registry).inc(3)
    endpoint = Endpoint(registry, proxy)
    bound = socket.create_server(("127.0.0.1", 0))
    endpoint.start(bound)
    port = bound.getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    await endpoint.close()


def get(address: str, method: str = "GET") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method=method)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_metrics(address: str) -> None:
    status, text = await asyncio.to_thread(get, f"{address}/metrics")
    assert status == 200
    assert "apples_total 3.0" in text


async def test_health_and_readiness(address: str, proxy: Proxy) -> None:
    assert await asyncio.to_thread(get, f"{address}/healthz") == (200, "ok\n")
    assert await asyncio.to_thread(get, f"{address}/readyz") == (200, "ready\n")
    proxy.why = "draining"
    assert await asyncio.to_thread(get, f"{address}/readyz") == (503, "draining\n")
    assert await asyncio.to_thread(get, f"{address}/healthz") == (200, "ok\n")


async def test_other_paths_and_methods(address: str) -> None:
    assert (await asyncio.to_thread(get, f"{address}/"))[0] == 404
    assert (await asyncio.to_thread(get, f"{address}/metrics", "POST"))[0] == 405


@pytest.mark.parametrize("version", ["zz", "1", "1.zz", "1.0.0;escaping=x", ""])
async def test_a_version_that_is_none_is_answered_all_the_same(address: str, version: str) -> None:
    def ask() -> str:
        accept = f"application/openmetrics-text; version={version}"
        request = urllib.request.Request(f"{address}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request) as found:
            return str(found.read().decode())

    assert "apples_total 3.0" in await asyncio.to_thread(ask)


async def test_who_asks_nothing_is_shown_out_and_takes_no_more_than_some_threads(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(endpoint_module._Silent, "timeout", 0.5)
    before = threading.active_count()
    where = ("127.0.0.1", int(address.rpartition(":")[2]))

    def ask() -> int:
        silent = [socket.create_connection(where, 20) for _ in range(3 * endpoint_module.MOST_REQUESTS)]
        most = 0
        for one in silent:
            most = max(most, threading.active_count() - before)
            with suppress(ConnectionResetError):  # as good
                assert one.recv(1) == b""
            one.close()
        return most

    assert 0 < await asyncio.to_thread(ask) <= endpoint_module.MOST_REQUESTS + 1  # and the thread that asks
    assert (await asyncio.to_thread(get, f"{address}/healthz"))[0] == 200
    assert "Traceback" not in capsys.readouterr().err


async def test_a_stuck_loop_is_not_healthy(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "ANSWER_S", 0.05)
    with ThreadPoolExecutor(1) as threads:
        # The loop does nothing at all until the thread has its answer.
        assert threads.submit(get, f"{address}/healthz").result(20)[0] == 503
