"""The HTTP endpoint: what it answers, and that a stuck event loop shows."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
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


async def test_a_stuck_loop_is_not_healthy(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "ANSWER_S", 0.05)
    with ThreadPoolExecutor(1) as threads:
        # The loop does nothing at all until the thread has its answer.
        assert threads.submit(get, f"{address}/healthz").result(20)[0] == 503
