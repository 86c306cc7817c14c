"""Runs other projects' test suites against one server and through the proxy, and compares.

python tests/suites/compare.py asyncpg pg8000
python tests/suites/compare.py asyncpg --only test_codecs
python tests/suites/compare.py psycopg --shards 1 2
python tests/suites/compare.py sqlalchemy-psycopg --parts 6 --jobs 2

Every test that passes directly has to pass through the proxy, or stand in docs/compatibility.md with the reason why it
cannot. Over several shards the suites' tables, which no configuration names, are at home. Ends with status 0 if nothing
differs without a reason. Needs the network: the suites are fetched, never kept here. A long suite is run in parts, each
with servers and a proxy of its own, some of them side by side.
"""

# ruff: noqa: T201, E402 - a command that speaks to a person and finds the modules of the tests

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parents[1] / "support"),
    str(Path(__file__).parents[2]),
]

import psycopg
from catalogue import DATABASE, SUITES, USER
from sources import CACHE, fetched

from proxy.demo.embedded import EmbeddedServer, free_port, start_all, stop_all
from proxy_process import ProxyProcess, write_config

if TYPE_CHECKING:
    from collections.abc import Collection

    from catalogue import Suite

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
TEST_SECONDS = 120
SUITE_SECONDS = 7200
START_SECONDS = 120.0
NO_TESTS = 5  # pytest's status
# A line of the page's list: | suite, or suite and number of shards | test (with * for any) | reason |
_EXCEPTION = re.compile(r"^\| *`(?P<suite>[^` ]+)(?: --shards (?P<shards>\d+))?` *\| *`(?P<test>[^`]+)` *\|")


def main() -> None:
    """Run what was asked for and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default=list(SUITES), help=f"of {', '.join(SUITES)} (all)")
    parser.add_argument("--only", default="", help="pytest's -k expression")
    parser.add_argument("--shards", nargs="+", type=int, default=[1], help="through the proxy over so many (1)")
    parser.add_argument("--known", action="store_true", help="what passes directly is known from the last whole run")
    parser.add_argument("--parts", type=int, default=1, help="cut each suite into so many (1)")
    parser.add_argument("--jobs", type=int, default=1, help="parts that run side by side (1)")
    options = parser.parse_args()
    failed = False
    for name in options.suites or SUITES:
        failed = not _compare(SUITES[name], options) or failed
    sys.exit(failed)


def _compare(suite: Suite, options: argparse.Namespace) -> bool:
    """Run one suite directly and through the proxy; say what differs; True when nothing does without a reason."""
    source = fetched(suite)
    with TemporaryDirectory(prefix="pgchorus-suites-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        direct = _directly(suite, source, options, directory)
        runs = {shards: _in_parts(suite, source, options, directory, shards) for shards in options.shards}
    partial = bool(options.only)
    good = [_report(suite, shards, direct, through, partial=partial) for shards, through in runs.items()]
    return all(good)


def _directly(suite: Suite, source: Path, options: argparse.Namespace, directory: Path) -> dict[str, str]:
    """Return each test's outcome on one server, from the last whole run if that is wanted."""
    kept = CACHE / f"{suite.name}-{suite.version}-direct.json"
    if options.known and kept.exists():
        return dict(json.loads(kept.read_text()))
    found = _in_parts(suite, source, options, directory, 0)
    if not options.only:
        kept.write_text(json.dumps(found))
    return found


def _in_parts(suite: Suite, source: Path, options: argparse.Namespace, directory: Path, shards: int) -> dict[str, str]:
    """Return each test's outcome through the proxy over so many shards, or on a server itself (0 of them)."""

    def part(number: int) -> dict[str, str]:
        name = f"through-{shards}-{number}" if shards else f"direct-{number}"
        run = Part(suite, source, options.only, f"{number}/{options.parts}", directory / name)
        return through(run, shards) if shards else _on_one(run)

    with ThreadPoolExecutor(options.jobs) as jobs:
        found = list(jobs.map(part, range(1, options.parts + 1)))
    return {test: outcome for outcomes in found for test, outcome in outcomes.items()}


class _Ports:
    """Free ports, each given once: nobody listens yet on those of a part that starts at the same time."""

    def __init__(self) -> None:
        self._given: list[int] = []
        self._lock = threading.Lock()

    def take(self) -> int:
        with self._lock:
            self._given.append(free_port(self._given))
            return self._given[-1]


_ports = _Ports()


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a suite, "2/5", and where its servers' and its own files go (names that start with `base`).

    `again`: tests that fail are run once more; some measure times, and fail on a busy machine, directly as well.
    """

    suite: Suite
    source: Path
    only: str
    part: str
    base: Path
    again: bool = False


def _server(directory: Path) -> EmbeddedServer:
    return EmbeddedServer(directory, port=_ports.take(), durable=False)


def _on_one(run: Part) -> dict[str, str]:
    with _server(run.base) as server:
        _prepare(server.dsn(DATABASE), run.suite)
        return _run(run, server.port)


def through(run: Part, shards: int) -> dict[str, str]:
    """Return each test's outcome through a proxy over fresh shards."""
    servers = [_server(run.base.with_name(f"{run.base.name}-s{shard}")) for shard in range(shards)]
    start_all(servers)
    try:
        dsns = [server.dsn(DATABASE) for server in servers]
        listen = {"host": "127.0.0.1", "port": _ports.take()}
        proxy = ProxyProcess(write_config(run.base.with_suffix(".yaml"), {DATABASE: dsns}, listen=listen))
        proxy.start(START_SECONDS)
        try:
            _prepare(proxy.dsn(DATABASE), run.suite)
            found = _run(run, proxy.port)
            failed = [test for test, outcome in found.items() if outcome == "failed"]
            return found | _run(run, proxy.port, failed) if run.again and failed else found
        finally:
            print(_complaints(proxy), end="")
            proxy.close()
    finally:
        stop_all(servers)


def _prepare(dsn: str, suite: Suite) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in suite.prepare:
            connection.execute(statement.encode())


def _run(run: Part, port: int, tests: Collection[str] = ()) -> dict[str, str]:
    """Run a part, or only some tests of it, against a port of this machine; return each test's outcome."""
    host = "127.0.0.1"
    suite = run.suite
    outcomes = run.base.with_suffix(".jsonl")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
        "PGHOST": host,
        "PGPORT": str(port),
        "PGUSER": USER,
        "PGDATABASE": DATABASE,
        "SUITE_OUTCOMES": str(outcomes),
        "SUITE_PART": run.part,
        "SUITE_TESTS": "\n".join(tests),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(run.source / ".needs")]),
        **suite.environment,
    }
    command = [sys.executable, "-m", "pytest", "-p", "recorder", "-q", "--tb=short"]
    command += ["-o", f"cache_dir={run.base.with_suffix('.cache')}"]
    command += [f"--timeout={TEST_SECONDS}", *suite.arguments(host, port), *(["-k", run.only] if run.only else [])]
    log = CACHE / f"{suite.name}-{run.base.name}.log"
    with log.open("w") as output:
        ended = subprocess.run(
            command,
            cwd=run.source,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=SUITE_SECONDS,
            check=False,
        )
    if ended.returncode == NO_TESTS:
        return {}
    if not outcomes.exists():
        msg = f"{suite.name} ran no test; see {log}"
        raise RuntimeError(msg)
    shutil.copy(outcomes, log.with_suffix(".jsonl"))
    return _outcomes(outcomes)


def _outcomes(file: Path) -> dict[str, str]:
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return {entry["test"]: entry["outcome"] for entry in found}


def _complaints(proxy: ProxyProcess) -> str:
    """Return what the proxy's log holds that none should: exceptions."""
    lines = proxy.log.read_text().splitlines()
    bad = [line for line in lines if "Traceback" in line or '"exception"' in line or "XX000" in line]
    return "".join(f"  the proxy's log: {line[:2000]}\n" for line in bad[:20])


def exceptions(suite: str, shards: int) -> dict[re.Pattern[str], bool]:
    """Read the page's list for one suite: what cannot pass, and whether that is said of this number of shards."""
    listed = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        found = _EXCEPTION.match(line)
        if found and found["suite"] == suite and int(found["shards"] or shards) == shards:
            pattern = re.compile(".*".join(re.escape(part) for part in found["test"].split("*")))
            listed[pattern] = found["shards"] is not None
    return listed


def _report(suite: Suite, shards: int, direct: dict[str, str], through: dict[str, str], *, partial: bool) -> bool:
    passing = [test for test, outcome in direct.items() if outcome == "passed" and (test in through or not partial)]
    lost = [test for test in passing if through.get(test, "not run") != "passed"]
    listed = exceptions(suite.name, shards)
    unexplained = [test for test in lost if not any(pattern.search(test) for pattern in listed)]
    print(
        f"{suite.name} {suite.version}, shards: {shards}: {len(passing)} tests pass directly, "
        f"{len(passing) - len(lost)} of them through the proxy; {len(lost) - len(unexplained)} are listed exceptions, "
        f"{len(unexplained)} are not"
    )
    for test in unexplained:
        print(f"  {through.get(test, 'not run')}: {test}")
    for pattern, here in listed.items():
        if not partial and (here or shards == 1) and not any(pattern.search(test) for test in lost):
            print(f"  passes now, though it is listed: {pattern.pattern}")
    return not unexplained


if __name__ == "__main__":
    main()
