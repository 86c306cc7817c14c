"""EXPLAIN of routes and of several shards, hints, and pgchorus.cross_shard, as a client sees them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from wire_client import SYNC, bind, describe, execute, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import Town
    from wire_client import Trace, WireClient


@pytest.fixture
def client(town: Town, connect: Callable[..., WireClient]) -> Iterator[WireClient]:
    client = connect(town.dsn)
    rows = ", ".join(f"({k}, 'v{k}', {k})" for k in range(1, 31))
    assert not states(client.query(f"INSERT INTO notes (k, v, n) VALUES {rows}"))
    return client


def lines(trace: Trace) -> list[str]:
    return [row[1][0].decode() for row in trace if row[0] == "row"]


def states(trace: Trace) -> list[str]:
    return [entry[1]["C"] for entry in trace if entry[0] == "error"]


def error(trace: Trace) -> dict[str, str]:
    (found,) = [entry[1] for entry in trace if entry[0] == "error"]
    return dict(found)


def test_the_route_alone_in_three_formats(client: WireClient) -> None:
    trace = client.query("EXPLAIN (ROUTE) SELECT k FROM notes ORDER BY k LIMIT 3")
    assert trace[0] == ("columns", ("QUERY PLAN", False, 0, 25, -1, 0))
    assert lines(trace)[0] == "Route: merge on s0, s1, s2"
    assert "  Step: merge sorted rows by 1 keys" in lines(trace)
    assert "  Step: limit 3" in lines(trace)
    assert trace[-2:] == [("tag", "EXPLAIN"), ("ready", "I")]
    trace = client.query("EXPLAIN (ROUTE, FORMAT JSON) UPDATE notes SET v = 'x' WHERE k IN (1, 2, 3, 4, 5, 6)")
    assert trace[0] == ("columns", ("QUERY PLAN", False, 0, 114, -1, 0))
    (document,) = json.loads(lines(trace)[0])
    assert document["Route"]["Commit"].startswith("two-phase")
    assert document["Route"]["Plan"]["node"] == "Scatter"
    (told,) = yaml.safe_load(lines(client.query("EXPLAIN (ROUTE, FORMAT YAML) SELECT count(*) FROM notes"))[0])
    assert told["Route"]["Shards"] == ["s0", "s1", "s2"]
    assert told["Route"]["Tables"] == ["public.notes (key k)"]


def test_the_route_of_one_key_and_of_a_parameter(client: WireClient, town: Town) -> None:
    for key in town.spread:
        shard = f"s{town.shard_of(key)}"
        found = lines(client.query(f"EXPLAIN (ROUTE) SELECT v FROM notes WHERE k = {key}"))
        assert found[:2] == [f"Route: one shard on {shard}", f"  Chosen by: sharding key (int8) = {key}"]
    trace = client.ask(
        parse("EXPLAIN (ROUTE) SELECT v FROM notes WHERE k = $1"), describe("S"), bind(b"1"), execute(), SYNC
    )
    assert lines(trace)[:2] == ["Route: one shard of s0, s1, s2", "  Chosen by: sharding key (int8) = $1"]
    assert ("columns", ("QUERY PLAN", False, 0, 25, -1, 0)) in trace


def test_the_route_of_what_is_refused_says_why(client: WireClient) -> None:
    found = lines(client.query("EXPLAIN (ROUTE) SELECT nextval('numbers') FROM notes"))
    assert found[0] == "Route: refused"
    assert found[1].startswith("  Refused: ")
    assert "  SQLSTATE: 0A000" in found


def test_a_route_is_told_although_the_shards_are_busy_elsewhere(client: WireClient, town: Town) -> None:
    """No shard is touched: a transaction that has not spoken to any shard has still not done so."""
    client.query("BEGIN")
    client.query("EXPLAIN (ROUTE) DELETE FROM notes")
    assert town.busy() == []
    client.query("ROLLBACK")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM notes WHERE n > 3",
        "SELECT n % 3, count(*) FROM notes GROUP BY 1 ORDER BY 1",
        "SELECT count(DISTINCT v) FROM notes",
        "UPDATE notes SET v = 'x'",
        "DELETE FROM notes WHERE n > 3",
        "INSERT INTO notes VALUES (101, 'a', 1), (102, 'b', 1), (103, 'c', 1), (104, 'd', 1), (105, 'd', 1)",
    ],
)
def test_each_shard_tells_its_plan(client: WireClient, town: Town, sql: str) -> None:
    before = town.stored()
    found = lines(client.query(f"EXPLAIN (COSTS OFF) {sql}"))
    assert found[0].startswith("Route: ")
    at = [number for number, line in enumerate(found) if line.startswith("Shard ")]
    assert [found[number] for number in at] == ["Shard s0:", "Shard s1:", "Shard s2:"]
    assert all("Scan" in " ".join(found[n : n + 6]) or "Insert" in found[n + 1] for n in at), found
    (document,) = json.loads(lines(client.query(f"EXPLAIN (FORMAT JSON) {sql}"))[0])
    assert [each["Shard"] for each in document["Shards"]] == ["s0", "s1", "s2"]
    assert all("Node Type" in each["Plan"] for each in document["Shards"])
    (told,) = yaml.safe_load(lines(client.query(f"EXPLAIN (FORMAT YAML) {sql}"))[0])
    assert [each["Shard"] for each in told["Shards"]] == ["s0", "s1", "s2"]
    assert told["Shards"][0]["Plans"][0]["Plan"]["Node Type"]
    assert town.stored() == before


@pytest.mark.parametrize(
    ("sql", "shards", "node"),
    [
        ("UPDATE notes SET k = k + 100 WHERE n > 3", "s0 s1 s2", "Delete on notes"),
        ("UPDATE kinds SET name = 'x' WHERE id IN (SELECT id FROM kinds LIMIT 1)", "s0", "Update on kinds"),
        ("INSERT INTO notes (k, v) SELECT k + 50, v FROM notes", "s0 s1 s2", "Seq Scan on notes"),
        ("SELECT k FROM notes ORDER BY k LIMIT 2 FOR UPDATE SKIP LOCKED", "s0 s1 s2", "LockRows"),
        ("SELECT * FROM kinds FOR UPDATE", "s0", "LockRows"),
        ("UPDATE notes SET v = (SELECT max(v) FROM notes)", "", "Step: "),
    ],
)
def test_a_statement_in_steps_is_explained_and_not_run(
    client: WireClient, town: Town, sql: str, shards: str, node: str
) -> None:
    before = town.stored("SELECT k, v FROM notes")
    client.query("INSERT INTO kinds VALUES (1, 'a')")
    found = lines(client.query(f"EXPLAIN (COSTS OFF) {sql}"))
    assert found[0].startswith("Route: ")
    assert [line[6:-1] for line in found if re.match("Shard s.:", line)] == shards.split()
    assert any(node in line for line in found)
    assert states(client.query(f"EXPLAIN ANALYZE {sql}")) == ["0A000"]
    assert town.stored("SELECT k, v FROM notes") == before
    assert town.everywhere("SELECT name FROM kinds") == [[("a",)]] * 3


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SELECT n FROM notes EXCEPT SELECT v FROM notes", "42804"),
        ("SELECT a.k FROM notes a WHERE (SELECT max(v) FROM notes b) = 5", "42883"),
    ],
)
def test_an_error_of_the_whole_is_told_although_no_part_has_it(client: WireClient, sql: str, sqlstate: str) -> None:
    assert states(client.query(f"EXPLAIN {sql}")) == states(client.query(sql)) == [sqlstate]


def test_explain_over_several_shards_in_the_extended_protocol(client: WireClient) -> None:
    trace = client.ask(parse("EXPLAIN SELECT * FROM notes"), describe("S"), bind(results=[1]), execute(), SYNC)
    assert trace[1:3] == [("parameters",), ("columns", ("QUERY PLAN", False, 0, 25, -1, 0))]
    assert "Shard s1:" in lines(trace)
    assert ("tag", "EXPLAIN") in trace
    assert states(client.query("EXPLAIN SELECT * FROM notes WHERE nothing = 1")) == ["42703"]
    assert states(client.query("EXPLAIN ANALYZE SELECT * FROM notes")) == ["0A000"]


def test_over_one_shard_only_the_route_is_ours(town_of_1: Town, connect: Callable[..., WireClient]) -> None:
    client = connect(town_of_1.dsn)
    assert lines(client.query("EXPLAIN (ROUTE) SELECT * FROM notes"))[0] == "Route: one shard on s0"
    assert "Scan" in lines(client.query("EXPLAIN SELECT * FROM notes"))[0]


def test_a_hint_sends_a_statement_to_its_shard(client: WireClient, town: Town) -> None:
    count = "SELECT count(*) FROM notes"
    for shard in range(3):
        hint = f"/* pgchorus: shard=s{shard} */ "
        expected = town.on_shard(shard, count)[0][0]
        assert client.rows(hint + count) == [(str(expected),)]
        trace = client.ask(parse(hint + count), bind(), execute(), SYNC)
        assert ("row", [str(expected).encode()]) in trace
    assert client.rows(count) == [("30",)]
    key = town.keys(1)[0]
    assert states(client.query(f"/* pgchorus: shard=s0 */ UPDATE notes SET v = 'h' WHERE k = {key}")) == []
    assert town.stored(f"SELECT v FROM notes WHERE k = {key}") == [(f"v{key}",)]  # it is not there
    wrong = next(k for k in range(200, 300) if town.shard_of(k) == 1)
    assert states(client.query(f"/* pgchorus: shard=s0 */ INSERT INTO notes (k) VALUES ({wrong})")) == ["23514"]
    assert states(client.query("/* pgchorus: shard=s1 */ DELETE FROM kinds")) == ["0A000"]
    assert states(client.query("/* pgchorus: shard=s7 */ SELECT 1")) == ["0A000"]


def test_cross_shard_statements_are_forbidden_or_told(client: WireClient, town: Town) -> None:
    first, second, _ = town.spread
    several = [
        "SELECT count(*) FROM notes",
        "SELECT count(DISTINCT v) FROM notes",
        f"UPDATE notes SET v = 'c' WHERE k IN ({first}, {second})",
        "DELETE FROM notes",
        "COPY notes TO STDOUT",
    ]
    single = [
        f"SELECT v FROM notes WHERE k = {first}",
        f"UPDATE notes SET v = 'd' WHERE k = {first}",
        "SELECT * FROM kinds",
        "INSERT INTO kinds VALUES (1, 'x')",
        "SELECT * FROM plain",
        "EXPLAIN SELECT * FROM notes",
        "/* pgchorus: shard=s1 */ SELECT count(*) FROM notes",
        "TRUNCATE kinds",
    ]
    client.query("SET pgchorus.cross_shard = off")
    assert client.rows("SHOW pgchorus.cross_shard") == [("off",)]
    before = town.stored()
    for sql in several:
        found = error(client.query(sql))
        assert (found["C"], found["H"]) == ("0A000", "Name one key, or SET pgchorus.cross_shard = on."), sql
    assert town.stored() == before
    trace = client.ask(parse(several[0]), bind(), execute(), SYNC)
    assert states(trace) == ["0A000"]
    for sql in single:
        assert states(client.query(sql)) == [], sql
    client.query("SET pgchorus.cross_shard = warn")
    for sql in several:
        trace = client.query(sql)
        told: list[Any] = [entry[1]["M"] for entry in trace if entry[0] == "notice"]
        assert len(told) == 1, sql
        assert told[0].startswith("the statement runs on several shards: s")
        assert states(trace) == []
    for sql in single:
        assert [entry for entry in client.query(sql) if entry[0] in ("notice", "error")] == [], sql
    client.query("DISCARD ALL")
    assert client.rows("SHOW pgchorus.cross_shard") == [("on",)]
    assert states(client.query("SET pgchorus.cross_shard = maybe")) == ["22023"]


def test_explain_execute_over_several_shards_is_refused(client: WireClient) -> None:
    client.query("PREPARE many AS SELECT * FROM notes")
    assert states(client.query("EXPLAIN EXECUTE many")) == ["0A000"]
