"""Golden plans: every file in plans/ is a list of statements and what the router makes of them.

`PGCHORUS_REWRITE_GOLDEN=1 pytest tests/golden` writes what it makes now; review the difference.
An entry: sql; optional path (search_path), oids, shards, operators (symbols of user operators in schema public); then
one of plan, plans (a message of several statements), refused (id; with place: the text at the error's position),
syntax.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from router.describe import describe
from router.errors import GATHERED, REFUSALS, Refused, SyntaxFailure
from router.planner import Planner
from router.relation import Operator
from shop import shop

if TYPE_CHECKING:
    from router.catalog import Catalog

PLANS = Path(__file__).parent / "plans"
REWRITE = os.environ.get("PGCHORUS_REWRITE_GOLDEN") == "1"
INPUTS = ("sql", "path", "oids", "shards", "operators")
FILES = sorted(PLANS.glob("*.json"))


@cache
def catalog(shards: int, operators: tuple[str, ...]) -> Catalog:
    return shop(shards, operators=tuple(Operator("public", symbol) for symbol in operators))


def outcome(entry: dict[str, Any]) -> dict[str, Any]:
    """Plan an entry; return the entry with what came out."""
    known = catalog(entry.get("shards", 3), tuple(entry.get("operators", ())))
    found = {key: entry[key] for key in INPUTS if key in entry}
    sql = entry["sql"]
    try:
        planner = Planner(known.database, known)
        plans = planner.plan(sql, tuple(entry.get("path", ["public"])), tuple(entry.get("oids", ())))
    except Refused as refused:
        found["refused"] = refused.refusal
        if refused.position is not None:
            found["place"] = sql[refused.position - 1 :][:20]
        return found
    except SyntaxFailure as failure:
        return {**found, "syntax": failure.message}
    described = [describe(statement) for statement in plans]
    return {**found, "plan": described[0]} if len(described) == 1 else {**found, "plans": described}


def entries(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_plans_are_as_recorded(path: Path) -> None:
    recorded = entries(path)
    now = [outcome(entry) for entry in recorded]
    if REWRITE:
        rows = [json.dumps(entry, ensure_ascii=False) for entry in now]
        path.write_text("[\n" + ",\n".join(rows) + "\n]\n")
        return
    different = [(was, new) for was, new in zip(recorded, now, strict=True) if was != new]
    assert not different, json.dumps(different, indent=1, ensure_ascii=False)


def test_no_statement_is_recorded_twice() -> None:
    seen: dict[str, str] = {}
    for path in FILES:
        for entry in entries(path):
            key = json.dumps({name: entry.get(name) for name in INPUTS})
            assert key not in seen, f"{entry['sql']} is in {path.name} and in {seen[key]}"
            seen[key] = path.name


def test_every_refusal_is_recorded() -> None:
    recorded = {entry.get("refused") for path in FILES for entry in entries(path)}
    # What is too long (test_filling.py, test_planner.py); what a session chooses (tests/integration).
    elsewhere = {
        "too-many-values",
        "too-deep",
        "key-update-off",
        "cross-shard-off",
        "explain-execute",
        "statement-trigger",
        "role-unknown",
    }
    assert set(REFUSALS) - recorded == elsewhere
    reasons = {entry.get("plan", {}).get("reason") for path in FILES for entry in entries(path)}
    assert set(GATHERED) - reasons == set()


def test_there_are_many_plans() -> None:
    assert sum(len(entries(path)) for path in FILES) >= 250
