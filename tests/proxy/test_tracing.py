"""Spans of statements, as the SDK's exporter in memory gets them."""

from __future__ import annotations

import subprocess
import sys
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from proxy.admin.statements import Tally
from proxy.config import TracingTo
from proxy.session.traced import Traced
from proxy.timings import Histogram
from proxy.tracing import Exchange, Tracing, rounds

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = (f"/*db_driver='x',traceparent='00-{TRACE}-{SPAN}-0{flag}'*/" for flag in (1, 0))


class Scene:
    """A session whose spans are kept."""

    def __init__(self, sample: float = 0.0) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracing = Tracing(TracingTo("http://nowhere", sample), self.exporter)
        transaction = SimpleNamespace(watcher=None, in_block=False)
        database = SimpleNamespace(logical=SimpleNamespace(name="shop"))
        connection = SimpleNamespace(host="127.0.0.1")
        self.session: Any = SimpleNamespace(
            transaction=transaction, database=database, role="app", connection=connection
        )
        self.traced = Traced(self.session, self.tracing)

    def run(self, text: str, shown: str, *asked: tuple[str, float, float], error: str = "") -> None:
        begun = monotonic() - 1.0
        for shard, after, took in asked:
            self.session.transaction.watcher(shard, begun + after, took)
        self.traced.ended(Tally(shown, "one shard", Histogram()), text, begun, begun + 0.1, rows=2, error=error)

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


def test_a_statement_belongs_to_the_context_in_its_comment() -> None:
    scene = Scene()
    scene.run(f"select 'secret' {SAMPLED}", "select $1", ("s1", 0.2, 0.3))
    spans = scene.spans
    assert spans.keys() == {"SELECT", "plan", "s1"}
    whole, shard = spans["SELECT"], spans["s1"]
    assert whole.context is not None
    assert format(whole.context.trace_id, "032x") == TRACE
    assert whole.parent is not None
    assert format(whole.parent.span_id, "016x") == SPAN
    assert shard.parent is not None
    assert shard.parent.span_id == whole.context.span_id
    assert shard.start_time is not None
    assert shard.end_time is not None
    assert whole.start_time is not None
    assert (shard.end_time - shard.start_time) / 1e9 == pytest.approx(0.3, abs=1e-4)
    assert (shard.start_time - whole.start_time) / 1e9 == pytest.approx(0.2, abs=1e-4)
    assert dict(whole.attributes or {}) | {"db.query.text": "select $1", "db.response.returned_rows": 2} == dict(
        whole.attributes or {}
    )
    assert "secret" not in str([span.to_json() for span in spans.values()])


@pytest.mark.parametrize("comment", [NOT_SAMPLED, "", "/*traceparent='00-xyz'*/", f"'traceparent={TRACE}'"])
def test_others_are_traced_by_the_share_alone(comment: str) -> None:
    none, all_of_them = Scene(sample=0.0), Scene(sample=1.0)
    none.run(f"select 1 {comment}", "select $1")
    assert none.spans == {}
    all_of_them.run(f"select 1 {comment}", "select $1")
    assert ("SELECT" in all_of_them.spans) == (comment != NOT_SAMPLED)  # whoever calls decides for its trace


def test_commit_belongs_to_the_block_and_shows_its_rounds() -> None:
    scene = Scene()
    scene.session.transaction.in_block = True
    scene.run(f"insert into t values (1) {SAMPLED}", "insert into t values ($1)", ("s0", 0.2, 0.1))
    scene.session.transaction.in_block = False
    scene.exporter.clear()
    prepared, ready, decided, applied = ("s1", 0.2, 0.1), ("s0", 0.21, 0.05), ("s0", 0.31, 0.1), ("s1", 0.42, 0.1)
    scene.run("commit", "commit", prepared, ready, decided, applied)
    found = scene.exporter.get_finished_spans()
    assert {span.context.trace_id for span in found if span.context} == {int(TRACE, 16)}
    parts = [(s.name, (s.attributes or {})["pgchorus.round"]) for s in found if s.name.startswith("commit ")]
    assert parts == [("commit s1", 1), ("commit s0", 1), ("commit s0", 2), ("commit s1", 3)]
    scene.exporter.clear()
    scene.run("select 1", "select $1")
    assert scene.spans == {}, "the block is over"


def test_an_error_is_one() -> None:
    scene = Scene()
    scene.run(f"select 1/0 {SAMPLED}", "select $1/$2", error="22012")
    span = scene.spans["SELECT"]
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["db.response.status_code"] == "22012"


def test_rounds_are_told_apart_by_who_waited_for_whom() -> None:
    both = [Exchange("s0", 1.0, 0.5), Exchange("s1", 1.1, 0.1), Exchange("s0", 1.5, 0.1), Exchange("s1", 2.0, 0.1)]
    assert [number for number, _ in rounds(both)] == [1, 1, 2, 3]


def test_nothing_of_opentelemetry_is_imported_where_it_is_not_wanted() -> None:
    script = (
        "import proxy.cli, sys; sys.exit(any(name.startswith(('opentelemetry', 'textual')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
