"""docs/traps.md names tests: each of them is there, and every trap has one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAPS = [*(f"H{number}" for number in range(1, 24)), *(f"S{number}" for number in range(1, 6))]
_NAMED = re.compile(r"`([\w/.]*)::(\w+)`")


@cache
def defined_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    found = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(name for name in found if name.startswith("test_"))


def named() -> dict[str, list[tuple[str, str]]]:
    """Return (path, test) by trap; a path is written once for the tests behind it."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in (ROOT / "docs" / "traps.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith(("| H", "| S")):
            path = ""
            for written, test in _NAMED.findall(cells[-1]):
                path = written or path
                found.setdefault(cells[0], []).append((path, test))
    return found


def test_every_trap_has_tests_and_they_exist() -> None:
    by_trap = named()
    assert list(by_trap) == TRAPS
    missing = [f"{path}::{test}" for all_ in by_trap.values() for path, test in all_ if test not in defined_in(path)]
    assert not missing
