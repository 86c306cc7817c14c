"""psql and pgbench of the embedded package, as users run them."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from proxy.demo.binaries import packaged_bin

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM_SECONDS = 90.0


def environment() -> dict[str, str]:
    """Ours without what would change how libpq connects or how psql speaks."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PSQL", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C.UTF-8", "PSQL_HISTORY": "/dev/null", "PSQLRC": "/dev/null", "PAGER": "cat"}


def program(name: str) -> str:
    return str(packaged_bin() / name)


def run(name: str, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of them to its end, whatever its status; standard error goes with standard output."""
    return subprocess.run(
        [program(name), *arguments],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        timeout=PROGRAM_SECONDS,
        check=False,
    )


def run_well(name: str, *arguments: str, text: str | None = None) -> str:
    """The same; fails unless the status is 0. Returns what it wrote."""
    done = run(name, *arguments, text=text)
    assert done.returncode == 0, done.stdout
    return done.stdout


def psql(dsn: str, *commands: str, options: Sequence[str] = ("-At",)) -> str:
    """Run commands through `psql -c`; fails on any error."""
    arguments = [argument for command in commands for argument in ("-c", command)]
    return run_well("psql", "-X", "-v", "ON_ERROR_STOP=1", *options, *arguments, dsn)
