"""What the small benchmarks stand on: servers while they run, a proxy before these, a page for the outcome."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import machine
from bench.contenders import READY, child, wait_for_line
from proxy.demo.embedded import EmbeddedServer, start_all, stop_all

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

RESULTS = Path(__file__).parent / "results"


@contextmanager
def standing(
    name: str, count: int, settings: dict[str, str] | None = None
) -> Iterator[tuple[list[EmbeddedServer], Path, ExitStack]]:
    """Yield so many servers (fsync off), a directory that they can read, and what ends before them.

    A signal to stop ends it all as an error does.
    """
    end_on_signals()
    with tempfile.TemporaryDirectory(prefix=f"pgchorus-{name}-") as temporary, ExitStack() as stack:
        home = Path(temporary)
        home.chmod(0o755)
        servers = [EmbeddedServer(home / f"s{at}", durable=False, settings=settings or {}) for at in range(count)]
        stack.callback(stop_all, servers)
        start_all(servers)
        yield servers, home, stack


def end_on_signals() -> None:
    """Let a signal to stop unwind everything that was started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signum, _frame: sys.exit(128 + signum))


def serve(stack: ExitStack, configuration: str, home: Path, name: str) -> subprocess.Popen[bytes]:
    """Start a proxy and wait until it is ready."""
    path, log = home / f"{name}.yaml", home / f"{name}.log"
    path.write_text(configuration)
    process: subprocess.Popen[bytes] = stack.enter_context(
        child([sys.executable, "-m", "proxy", "serve", "-c", str(path)], home, log)
    )
    wait_for_line(process, log, READY)
    return process


def facts_of(server: EmbeddedServer) -> dict[str, str]:
    """Return machine, versions and build."""
    facts = machine.describe({"PostgreSQL": [server.program("postgres"), "--version"]}, {})
    return {**facts, "pgchorus": machine.pgchorus_version()}


def store(name: str, text: str, figures: Any = None) -> None:
    """Write the page, and the raw figures if there are any, and print the page."""
    directory = RESULTS / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "README.md").write_text(text)
    if figures is not None:
        (directory / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    sys.stdout.write(text)
