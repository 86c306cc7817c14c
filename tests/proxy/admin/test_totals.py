"""Metrics of several workers as one, and the endpoint of who has no threads."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.admin.plain_http import PlainEndpoint
from proxy.admin.totals import Totals, added_up, read_metrics, that_only_grow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.admin.endpoint import Collects


def registry(number: int) -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("eaten", "Eaten.", ["what"], registry=made).labels("apples").inc(number)
    Counter("only", "Of one.", ["worker"], registry=made).labels(str(number)).inc()
    Gauge("clients", "There.", registry=made).set(10 * number)
    Gauge("pgchorus_shard_up", "Up.", ["shard"], registry=made).labels("s0").set(number > 1)
    Gauge("pgchorus_in_doubt", "Left.", ["state"], registry=made).labels("late").set(3)
    Gauge("pgchorus_in_doubt_oldest_seconds", "Old.", registry=made).set(5 * number)
    Histogram("lag", "Late.", buckets=(1, 2), registry=made).observe(number)
    return made


def test_sums_of_two_workers() -> None:
    parts = [read_metrics(registry(1)), read_metrics(registry(2))]
    text = generate_latest(Totals(added_up([*parts, that_only_grow(parts[0])]), 2, 3, 1)).decode()
    found = {
        (s.name, *s.labels.values()): s.value for family in text_string_to_metric_families(text) for s in family.samples
    }
    assert found["eaten_total", "apples"] == 1 + 2 + 1
    assert (found["only_total", "1"], found["only_total", "2"]) == (2, 1)
    assert found[("clients",)] == 30, "gauges of the dead do not count"
    assert found["pgchorus_shard_up", "s0"] == 0, "one worker does not serve it"
    assert found["pgchorus_in_doubt", "late"] == 3, "all see the same"
    assert found[("pgchorus_in_doubt_oldest_seconds",)] == 10, "one age, and the later look at it"
    assert found[("pgchorus_workers_configured",)] == 3
    assert [found["lag_bucket", le] for le in ("1.0", "2.0", "+Inf")] == [2, 3, 3]
    assert found[("lag_sum",)] == 4
    assert (found[("pgchorus_workers",)], found[("pgchorus_worker_restarts_total",)]) == (2, 1)


class Shown:
    """All is well with one, and the other drains."""

    async def metrics(self) -> Collects:
        return registry(1)

    async def unwell(self) -> str:
        return ""

    async def unready(self) -> str:
        return "draining"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    endpoint = PlainEndpoint(Shown())
    bound = socket.create_server(("127.0.0.1", 0))
    await endpoint.start(bound)
    yield bound.getsockname()[1]
    endpoint.close()


async def asked(port: int, request: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{request}\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    if not request.startswith("HEAD") and head:
        assert f"Content-Length: {len(body)}" in head
    return int(head.split()[1]) if head else 0, body


async def test_pages(port: int) -> None:
    status, text = await asked(port, "GET /metrics?x=1 HTTP/1.1")
    assert (status, 'eaten_total{what="apples"} 1.0' in text) == (200, True)
    assert await asked(port, "GET /healthz HTTP/1.0") == (200, "ok\n")
    assert await asked(port, "HEAD /healthz HTTP/1.1") == (200, "")
    assert await asked(port, "GET /readyz HTTP/1.1") == (503, "draining\n")
    assert (await asked(port, "GET / HTTP/1.1"))[0] == 404
    assert (await asked(port, "POST /metrics HTTP/1.1"))[0] == 405
    assert (await asked(port, "what"))[0] == 400
    assert await asked(port, "GET /" + "x" * 40_000) == (0, "")
