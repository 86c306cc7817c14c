"""A plan as plain data: one form for EXPLAIN (ROUTE), logs and golden tests.

Decides only how a plan is written down: kind of node first, then its fields; what is at its default is left out.
Values of keys are shown as they are in the plan, so a log must not be given this without thought.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

from router.plan import AnyShard, ByKeys, Constant, Elements, EveryShard, HomeShard, Parameter, Statement

_PLACES = {AnyShard: "any", HomeShard: "home", EveryShard: "every"}


def describe(statement: Statement) -> dict[str, Any]:
    """Return a statement's plan and the flags that are not at their defaults; its text is left out."""
    found = _node(statement.plan)
    for item in fields(statement):
        if item.name in {"plan", "text"}:
            continue
        value = getattr(statement, item.name)
        if value != item.default or item.name == "tag":
            found[item.name] = plain(value)
    return found


def _node(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"node": type(node).__name__}
    for item in fields(node):
        value = getattr(node, item.name)
        if item.default is MISSING or value != item.default:
            found[item.name] = plain(value)
    return found


def plain(value: Any) -> Any:  # noqa: PLR0911 - one line for each kind of value
    """Return a value as JSON has it."""
    if type(value) in _PLACES:
        return _PLACES[type(value)]
    if isinstance(value, ByKeys):
        return {"keys": [plain(term) for term in value.terms], "type": value.key_type}
    if isinstance(value, Constant):
        return {"hex": value.value.hex()} if isinstance(value.value, bytes) else value.value
    if isinstance(value, Parameter):
        return {"parameter": value.number}
    if isinstance(value, Elements):
        return {"elements of parameter": value.number}
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return _node(value)
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def summary(statement: Statement) -> str:
    """Return a plan in a few words, without any value: for logs."""
    plan = statement.plan
    name = type(plan).__name__
    target = getattr(plan, "target", None)
    where = _PLACES.get(type(target), f"{len(target.terms)} keys" if isinstance(target, ByKeys) else "")
    combine = getattr(plan, "combine", None)
    return " ".join(filter(None, [name, where, type(combine).__name__ if combine is not None else ""]))
