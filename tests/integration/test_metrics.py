"""The metrics of a running proxy, and that alerts and dashboard ask for what is there."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from collector import Collector, collecting
from tests.integration.conftest import Town, made_town
from waiting import eventually
from wire_client import connected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDatabases, StartProxy

CONF = Path(__file__).parents[2] / "conf"


class Measured:
    """A town and its endpoint."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self._address = f"http://127.0.0.1:{town.metrics_port}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self._address + path) as answer:
            return str(answer.read().decode())

    def values(self, name: str, **labels: str) -> list[float]:
        return [
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics"))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def total(self, name: str, **labels: str) -> float:
        return sum(self.values(name, **labels))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as server:
        yield server


@pytest.fixture(scope="module")
def measured(
    make_module_databases: MakeDatabases, start_module_proxy: StartProxy, collector: Collector
) -> Iterator[Measured]:
    more = {"limits": {"pool": {"size": 1, "extra": 1}}, "tracing": {"endpoint": collector.endpoint, "sample": 0}}
    for town in made_town(3, make_module_databases, start_module_proxy, counted=True, **more):
        yield Measured(town)


def test_a_transaction_is_traced_from_the_comment_of_its_first_statement(
    measured: Measured, collector: Collector
) -> None:
    first, second, _ = measured.town.spread
    trace_id, parent = os.urandom(16).hex(), os.urandom(8).hex()
    comment = f"/*action='test',traceparent='00-{trace_id}-{parent}-01'*/"
    with connected(measured.town.dsn) as client:
        client.query(f"select 'secret' {comment.replace('-01', '-00')}")
        client.query("begin")
        client.query(f"insert into notes values ({first}, 'secret') on conflict do nothing {comment}")
        client.query(f"insert into notes values ({second}, 'x') on conflict do nothing")
        client.query("commit")
        client.query(f"select k from notes where v = 'secret' order by k {comment}")
    expected = {"INSERT", "COMMIT", "SELECT", "plan", "s0", "s1", "s2", "commit s0", "commit s1"}
    eventually(lambda: expected <= collector.spans(trace_id).keys(), f"these came: {collector.spans(trace_id).keys()}")
    spans = collector.spans(trace_id)
    assert spans.keys() == expected
    assert spans["COMMIT"].parent_span_id.hex() == spans["SELECT"].parent_span_id.hex() == parent
    assert spans["commit s1"].parent_span_id == spans["COMMIT"].span_id
    texts = {one.key: one.value.string_value for one in spans["SELECT"].attributes}
    assert texts["db.query.text"] == "select k from notes where v = $1 order by k"
    assert texts["pgchorus.tier"] == "merge"
    assert "secret" not in str(collector.requests)


def test_a_distributed_commit_is_counted_and_timed(measured: Measured) -> None:
    measured.town.empty()
    first, second, _ = measured.town.spread
    commits = {"kind": "distributed", "outcome": "committed"}
    before = measured.total("pgchorus_commits_total", **commits)
    timed = measured.total("pgchorus_commit_seconds_count")
    with connected(measured.town.dsn) as client:
        client.query(
            f"begin; insert into notes values ({first}, 'x'); insert into notes values ({second}, 'y'); commit"
        )
    assert measured.total("pgchorus_commits_total", **commits) == before + 1
    assert measured.total("pgchorus_commit_seconds_count") == timed + 1


def test_errors_and_refusals_are_counted(measured: Measured) -> None:
    errors, refused = (
        measured.total("pgchorus_errors_total", sqlstate="22012"),
        measured.total("pgchorus_refusals_total"),
    )
    with connected(measured.town.dsn) as client:
        client.query("select 1/0")
        client.query("create unique index on notes (v)")
    assert measured.total("pgchorus_errors_total", sqlstate="22012") == errors + 1
    assert measured.total("pgchorus_refusals_total") == refused + 1


def test_shards_and_pools(measured: Measured) -> None:
    assert measured.values("pgchorus_shard_up") == [1.0, 1.0, 1.0]
    key = measured.town.keys(1)[0]
    waits = measured.total("pgchorus_pool_waits_total", shard="s1")
    with connected(measured.town.dsn) as holder, connected(measured.town.dsn) as waiter:
        holder.query(f"begin; update notes set v = 'x' where k = {key}")
        assert measured.total("pgchorus_links", shard="s1", state="in_use") == 1
        waiter.send(b"Q" + (4 + len(text := b"select * from notes where k = %d\0" % key)).to_bytes(4, "big") + text)
        eventually(lambda: measured.total("pgchorus_links", shard="s1", state="waited_for") == 1, "nobody waits")
        holder.query("rollback")
        waiter.read()
    assert measured.total("pgchorus_pool_waits_total", shard="s1") == waits + 1
    assert measured.total("pgchorus_pool_wait_seconds_total", shard="s1") > 0


def test_health(measured: Measured) -> None:
    assert measured.get("/healthz") == "ok\n"
    assert measured.get("/readyz") == "ready\n"
    eventually(lambda: measured.total("pgchorus_event_loop_lag_seconds_count") > 0, "the loop's lag is not measured")


#: What issues and handbooks name; labels that must be there.
SERIES = {
    "pgchorus_queries_total": {"tier": "merge", "outcome": "ok"},
    "pgchorus_query_seconds_count": {"tier": "one shard"},
    "pgchorus_query_seconds_bucket": {"tier": "one shard", "le": "+Inf"},
    "pgchorus_planning_seconds_count": {},
    "pgchorus_shard_seconds_count": {"shard": "s2"},
    "pgchorus_refusals_total": {"refusal": "unique"},
    "pgchorus_errors_total": {"sqlstate": "0A000"},
    "pgchorus_commits_total": {"kind": "distributed", "writers": "2", "outcome": "committed"},
    "pgchorus_commit_seconds_count": {},
    "pgchorus_commit_rounds_total": {},
    "pgchorus_fences_total": {},
    "pgchorus_fence_wait_seconds_count": {},
    "pgchorus_received_bytes_total": {},
    "pgchorus_sent_bytes_total": {},
    "pgchorus_transactions_total": {},
    "pgchorus_transaction_seconds_total": {},
    "pgchorus_plan_cache_total": {"result": "miss"},
    "pgchorus_links_opened_total": {"shard": "s0", "use": "clients"},
    "pgchorus_clients": {},
    "pgchorus_shard_up": {},
}


def test_what_has_been_done_is_in_every_series(measured: Measured) -> None:
    first, second, _ = measured.town.spread
    with connected(measured.town.dsn) as client:
        before = {name: measured.total(name, **labels) for name, labels in SERIES.items()}
        client.query(
            f"begin; insert into notes values ({first}, 'a') on conflict do nothing;"
            f" insert into notes values ({second}, 'b') on conflict do nothing; commit"
        )
        client.query("select k from notes order by k")
        client.query(f"select v from notes where k = {first}")
        client.query("create unique index on notes (v)")
        still = {"pgchorus_links_opened_total", "pgchorus_clients", "pgchorus_shard_up"}
        for name, labels in SERIES.items():
            now = measured.total(name, **labels)
            assert now > 0, name
            assert now > before[name] or name in still, name
        assert measured.total("pgchorus_commit_rounds_total") == before["pgchorus_commit_rounds_total"] + 3
        refused = measured.values("pgchorus_queries_total", outcome="refused", tier="none")
        assert sum(refused) > 0
    assert measured.values("pgchorus_in_doubt_oldest_seconds") == [0.0]


def asked() -> dict[str, str]:
    """Return the expressions of alerts and dashboard by title."""
    rules = yaml.safe_load((CONF / "prometheus" / "alerts.yaml").read_text())
    found = {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    dashboard = json.loads((CONF / "grafana" / "pgchorus.json").read_text())
    for panel in dashboard["panels"]:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return found


def test_every_alert_is_in_the_handbook() -> None:
    handbook = (CONF.parent / "docs" / "operations.md").read_text()
    rules = yaml.safe_load((CONF / "prometheus" / "alerts.yaml").read_text())
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert [line.removeprefix("### ") for line in handbook.splitlines() if line.startswith("### ")] == alerts


def selectors(expression: promql_parser.Expr) -> Iterator[str]:
    """Yield the names of the series in a PromQL expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression.name
    for part in ("expr", "lhs", "rhs", "vector_selector"):
        inner = getattr(expression, part, None)
        if inner is not None:
            yield from selectors(inner)
    for argument in getattr(expression, "args", None) or ():
        yield from selectors(argument)


@pytest.mark.parametrize("title", asked())
def test_alerts_and_dashboard_ask_for_series_that_exist(measured: Measured, title: str) -> None:
    names = list(selectors(promql_parser.parse(asked()[title])))
    assert names
    families = text_string_to_metric_families(measured.get("/metrics"))
    # A counter with labels has no sample before the first; its family is there.
    known = {f.name for f in families} | {
        f"{f.name}{end}"
        for f in text_string_to_metric_families(measured.get("/metrics"))
        for end in ("_total", "_bucket", "_count", "_sum")
    }
    assert set(names) <= known
