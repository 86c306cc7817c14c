"""Which build is tested: plain Python, or with PGCHORUS_BUILD=compiled (make test-compiled) a compiled wheel."""

from __future__ import annotations

import ast
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.build import build

if TYPE_CHECKING:
    from conftest import StartProxy

CHECKOUT = Path(__file__).parent.parent
COMPILED = os.environ.get("PGCHORUS_BUILD") == "compiled"


def _listed() -> list[str]:
    """Return what setup.py compiles; running it would build."""
    for statement in ast.parse((CHECKOUT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "COMPILED":
            return list(ast.literal_eval(statement.value))
    raise AssertionError("setup.py lists nothing")


def test_what_is_to_be_compiled_is_there_and_is_what_this_build_says() -> None:
    assert build() == ("compiled" if COMPILED else "plain Python")
    for path in _listed():
        assert (CHECKOUT / path).is_file()
        found = find_spec(path.removesuffix(".py").replace("/", "."))
        assert found is not None
        assert str(found.origin).endswith(".so" if COMPILED else ".py"), path


@pytest.mark.skipif(not COMPILED, reason="make test-compiled builds and runs it")
def test_a_compiled_proxy_answers(shard_databases: list[str], start_proxy: StartProxy) -> None:
    process = start_proxy(shard_databases[:2], {"town": {"key": "id"}})
    assert "/pgchorus__mypyc." in Path(f"/proc/{process.pid}/maps").read_text()
    database = shard_databases[0].rpartition("/")[2]
    with psycopg.connect(process.dsn(database), autocommit=True) as client:
        client.execute("CREATE TABLE town (id int PRIMARY KEY, name text)")
        with client.transaction():
            for number in range(20):
                client.execute(f"INSERT INTO town (id, name) VALUES ({number}, 'x')")
        assert client.execute("SELECT count(*), sum(id) FROM town").fetchone() == (20, 190)
        for number in range(20):
            assert client.execute(f"SELECT name FROM town WHERE id = {number}").fetchone() == ("x",)
