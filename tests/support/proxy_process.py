"""The proxy as users run it: a process of its own, started with `pgchorus serve -c FILE`.

In the test suite a `preloaded` process starts them (`ProxyProcess.start_from`), which saves importing all of it again.

With PGCHORUS_TEST_WORKERS=2 in the environment every configuration that does not say how many workers has two.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from proxy.demo.embedded import free_port
from watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from preloaded import Forked, Preloaded

READY = "pgchorus: ready on "
READY_SECONDS = 90.0
STOP_SECONDS = 90.0
LOG_LINES_SHOWN = 40


class ProxyProcess:
    """One `pgchorus serve`; `port` and `dsn()` are good after `start()`."""

    start_from: ClassVar[Preloaded | None] = None

    def __init__(self, config: Path, program: Sequence[str] = ()) -> None:
        self.config = config
        self._program = program or ("-m", "proxy", "serve", "-c", str(config))
        self.log = config.with_suffix(".log")
        self.host = ""
        self.port = 0
        self._process: subprocess.Popen[str] | Forked | None = None
        self._reader: threading.Thread | None = None
        self._watch: Watch | None = None
        self._told_to_end = False

    @property
    def pid(self) -> int:
        assert self._process is not None, "the proxy was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def died(self) -> bool:
        """Whether it ended although nobody had told it to."""
        return self._process is not None and not self.running and not self._told_to_end

    def dsn(self, database: str, user: str = "postgres", password: str = "") -> str:
        login = f"{user}:{password}" if password else user
        return f"postgres://{login}@{self.host}:{self.port}/{database}"

    def start(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Start it and return when it says that its port accepts connections."""
        assert not self.running, "the proxy runs already"
        self._told_to_end = False
        with self.log.open("a") as log:
            if self.start_from is not None:
                self._process = self.start_from.start(self._program, log)
            else:
                self._process = _begin(self._program, log)
        self._watch = Watch(self._process.pid)
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_pump, args=(self._process, lines), daemon=True)
        self._reader.start()
        give_up = time.monotonic() + timeout_seconds
        while True:
            try:
                line = lines.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                self.kill()
                msg = f"the proxy was not ready after {timeout_seconds:g} s; {self.log_tail()}"
                raise AssertionError(msg) from None
            if line is None:
                msg = f"the proxy ended with status {self._process.wait()} before it was ready; {self.log_tail()}"
                self._finish()
                raise AssertionError(msg)
            if line.startswith(READY):
                self.host, _, port = line.removeprefix(READY).strip().rpartition(":")
                self.port = int(port)
                return

    def stop(self) -> int:
        """SIGTERM (the polite way), wait, and return the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL, to the workers as well, if it has any: the crash that recovery is for."""
        assert self._process is not None, "the proxy was not started"
        workers = [os.pidfd_open(pid) for pid in children(self.pid)]
        self._told_to_end = True
        self._process.send_signal(signal.SIGKILL)
        # All at once: workers whose supervisor has gone drain, and keep its output open until they have.
        for worker in workers:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker, signal.SIGKILL)
        try:
            return self._end(None)
        finally:
            for worker in workers:
                ended = select.poll()
                ended.register(worker)
                assert ended.poll(STOP_SECONDS * 1000), "a worker that was killed is still there"
                os.close(worker)

    def wait(self) -> int:
        """Return the exit status of one that was told to end by other means."""
        return self._end(None)

    def close(self) -> None:
        """Kill it if it runs, and let go of what is left of it."""
        if self.running:
            self.kill()
        elif self._process is not None:
            self._finish()

    def restart(self) -> None:
        """Kill it and start it again on the same configuration."""
        self.kill()
        self.start()

    def _end(self, how: signal.Signals | None) -> int:
        process = self._process
        assert process is not None, "the proxy was not started"
        self._told_to_end = True
        if how is not None:
            process.send_signal(how)
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._finish()
            msg = f"the proxy did not end within {STOP_SECONDS:g} s of {how.name if how else 'that'}; {self.log_tail()}"
            raise AssertionError(msg) from None
        self._finish()
        return status

    def _finish(self) -> None:
        assert self._process is not None
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        if self._reader is not None:
            self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def log_tail(self) -> str:
        lines = self.log.read_text().splitlines()[-LOG_LINES_SHOWN:]
        return "\n  ".join(["the end of its log:", *lines])


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children."""
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []  # it has ended


def _begin(program: Sequence[str], log: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
    )


def _pump(process: subprocess.Popen[str] | Forked, lines: queue.SimpleQueue[str | None]) -> None:
    """Read standard output to its end, so that the proxy never waits for a full pipe."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def write_config(
    file: Path,
    databases: Mapping[str, Sequence[str]],
    tables: Mapping[str, Any] | None = None,
    **more: Any,
) -> Path:
    """Write a configuration (JSON is YAML): logical database -> DSNs of s0, s1, ...; the same tables in each.

    `more` replaces or adds top-level keys (auth, limits, workers ...); `functions` and `slots` go to each database.
    """
    per_database = {key: more.pop(key) for key in ("functions", "slots") if key in more}
    document: dict[str, Any] = {
        "cluster": "test",
        "listen": {"host": "127.0.0.1", "port": free_port()},
        "auth": {"method": "trust"},
        **({"workers": int(os.environ["PGCHORUS_TEST_WORKERS"])} if "PGCHORUS_TEST_WORKERS" in os.environ else {}),
        "databases": {
            name: {
                "shards": {f"s{index}": dsn for index, dsn in enumerate(dsns)},
                "home": "s0",
                "tables": dict(tables or {}),
                **per_database,
            }
            for name, dsns in databases.items()
        },
        **more,
    }
    file.write_text(json.dumps(document, indent=1))
    return file
