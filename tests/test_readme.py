"""README.md as a reader follows it: its configuration before real servers, and its commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from programs import program
from proxy.demo.embedded import free_port
from proxy_process import ProxyProcess
from wire_client import connected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import MakeDatabases

    from proxy.demo.embedded import EmbeddedServer

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ROLE, PASSWORD = "app", "a password"
TABLES = (
    "CREATE TABLE customers (id bigint PRIMARY KEY)",
    "CREATE TABLE orders (customer_id bigint REFERENCES customers, id bigint, PRIMARY KEY (customer_id, id))",
    "CREATE TABLE countries (code text PRIMARY KEY)",
)


def block(language: str, having: str) -> str:
    """Return the one fenced block of the README in a language that has a text in it."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (one,) = [text for text in found if having in text]
    return str(one)


@pytest.fixture
def role(servers: list[EmbeddedServer]) -> Iterator[str]:
    """A role that is no superuser, on the two servers that the configuration has."""
    with ExitStack() as stack:
        admins = [stack.enter_context(connected(server.dsn())) for server in servers[:2]]
        for admin in admins:
            admin.rows(f"CREATE ROLE {ROLE} LOGIN")
        yield ROLE
        for admin in admins:
            admin.rows(f"DROP ROLE {ROLE}")


@pytest.fixture
def proxy(
    role: str, make_databases: MakeDatabases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ProxyProcess]:
    """`pgchorus serve -c pgchorus.yaml`, with the README's file but for addresses and port."""
    monkeypatch.setenv("APP_PASSWORD", PASSWORD)
    text = block("yaml", "databases:").replace("port: 6432", f"port: {free_port([])}")
    assert f"users: {{{role}: " in text
    dsns = make_databases(2, "readme")
    for dsn, written in zip(dsns, re.findall(r"postgres://\S+", text), strict=True):
        text = text.replace(written, dsn)
        with connected(dsn) as admin:
            admin.rows(f"GRANT ALL ON SCHEMA public TO {role}")
    (tmp_path / "pgchorus.yaml").write_text(text, encoding="utf-8")
    process = ProxyProcess(tmp_path / "pgchorus.yaml")
    process.start_from = None  # type: ignore[misc]  # a preloaded process has the environment that it was started with
    process.start()
    yield process
    process.close()


def test_its_configuration_and_its_commands(proxy: ProxyProcess) -> None:
    commands = [line[2:].partition("#")[0].strip() for line in block("console", "pgchorus check").splitlines()]
    assert [command.split()[:2] for command in commands] == [
        ["pgchorus", "check"],
        ["pgchorus", "serve"],  # which the fixture has done
        ["pgchorus", "doctor"],
        ["psql", "-h"],
    ]
    environment = os.environ | {
        "PATH": os.pathsep.join(
            [str(Path(sys.executable).parent), str(Path(program("psql")).parent), os.environ["PATH"]]
        ),
        "PGPASSWORD": PASSWORD,
    }

    def run(command: str) -> str:
        command = command.replace("6432", str(proxy.port))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=proxy.config.parent,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    run(f"psql -X -v ON_ERROR_STOP=1 -h 127.0.0.1 -p 6432 -U {ROLE} shop " + " ".join(f'-c "{sql}"' for sql in TABLES))
    for command in (commands[0], commands[2]):
        run(command)
    assert "Chosen by: sharding key (int8) = 7" in run(commands[3])


def test_its_pgbench() -> None:
    """These lines are run by tests/integration/test_pgbench.py, which asks the same of smaller tables."""
    lines = block("console", "pgbench").splitlines()
    assert [re.sub(r"-[sT] \d+", "", line) for line in lines] == [
        "$ pgbench -h 127.0.0.1 -p 6432 -U postgres -i  postgres",
        "$ pgbench -h 127.0.0.1 -p 6432 -U postgres -c 8 -j 2  -M prepared postgres",
    ]
