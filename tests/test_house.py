"""House rules that no linter checks: who may import what, sizes of modules and functions, names of limits."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "proxy").rglob("*.py"), *(ROOT / "router").rglob("*.py")])
MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 75  # about 70


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("proxy", "router", include_external_packages=True, cache_dir=None)


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("asyncpg", ("proxy.shards",)),
        ("pglast", ("router",)),
        ("yaml", ("proxy.config",)),
        ("scramp", ("proxy.wire",)),
        ("prometheus_client", ("proxy.admin",)),
        ("uvloop", ("proxy.cli", "proxy.demo")),
    ],
)
def test_a_foreign_package_is_known_in_one_room(
    imports: grimp.ImportGraph, package: str, allowed: tuple[str, ...]
) -> None:
    importers = imports.find_modules_that_directly_import(package)
    assert importers, f"nobody imports {package}: take it out of the dependencies"
    elsewhere = [name for name in importers if not any(name == room or name.startswith(f"{room}.") for room in allowed)]
    assert not elsewhere, f"{package} is imported by {elsewhere}"


def test_import_contracts_hold() -> None:
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[done.stdout.find("Contracts:") :] + done.stderr


def test_continuous_integration_runs_what_everybody_runs() -> None:
    run = ROOT / ".ci" / "run"
    assert run.stat().st_mode & 0o111
    commands = [line for line in run.read_text().splitlines() if not line.startswith("#")]
    assert commands == ["set -eu", 'cd "$(dirname "$0")/.."', "exec make test"]


def test_every_module_has_a_floor(imports: grimp.ImportGraph) -> None:
    """A new module of proxy must be put on a floor in pyproject.toml, or the contract says nothing about it."""
    text = (ROOT / "pyproject.toml").read_text()
    layers = text[text.index("layers = [") : text.index("]", text.index("layers = ["))]
    listed = set(layers.replace('"', " ").replace(",", " ").split())
    wanted = {name for name in imports.find_children("proxy") if name != "proxy.twophase"}
    wanted |= imports.find_children("proxy.twophase")
    assert wanted <= listed, f"on no floor: {sorted(wanted - listed)}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_small_and_say_what_they_are_for(source: Path) -> None:
    text = source.read_text()
    lines = text.count("\n")
    assert lines <= MAX_MODULE_LINES, f"{lines} lines: split it"
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no module docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"
