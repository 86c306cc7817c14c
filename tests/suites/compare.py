"""Runs other projects' test suites against one server and through the proxy, and compares.

python tests/suites/compare.py asyncpg pg8000
python tests/suites/compare.py asyncpg --only test_codecs
python tests/suites/compare.py psycopg --shards 1 2

Every test that passes directly has to pass through the proxy, or stand in docs/compatibility.md with the reason why it
cannot. Over several shards the suites' tables, which no configuration names, are at home. Ends with status 0 if nothing
differs without a reason. Needs the network: the suites are fetched, never kept here.
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

from proxy.demo.embedded import EmbeddedServer, start_all, stop_all
from proxy_process import ProxyProcess, write_config

if TYPE_CHECKING:
    from catalogue import Suite

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
TEST_SECONDS = 120
SUITE_SECONDS = 7200
START_SECONDS = 120.0
# A line of the page's list: | suite, or suite and number of shards | test (with * for any) | reason |
_EXCEPTION = re.compile(r"^\| *`(?P<suite>[^` ]+)(?: --shards (?P<shards>\d+))?` *\| *`(?P<test>[^`]+)` *\|")


def main() -> None:
    """Run what was asked for and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default=list(SUITES), help=f"of {', '.join(SUITES)} (all)")
    parser.add_argument("--only", default="", help="pytest's -k expression")
    parser.add_argument("--shards", nargs="+", type=int, default=[1], help="through the proxy over so many (1)")
    parser.add_argument("--known", action="store_true", help="what passes directly is known from the last whole run")
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
        runs = {shards: _through(suite, source, options.only, directory, shards) for shards in options.shards}
    partial = bool(options.only)
    good = [_report(suite, shards, direct, through, partial=partial) for shards, through in runs.items()]
    return all(good)


def _directly(suite: Suite, source: Path, options: argparse.Namespace, directory: Path) -> dict[str, str]:
    """Return each test's outcome on one server, from the last whole run if that is wanted."""
    kept = CACHE / f"{suite.name}-{suite.version}-direct.jsonl"
    if options.known and kept.exists():
        return _outcomes(kept)
    outcomes = directory / "direct.jsonl"
    with EmbeddedServer(directory / "direct", durable=False) as server:
        _prepare(server.dsn(DATABASE), suite)
        found = _run(suite, source, options.only, server.port, outcomes)
    if not options.only:
        shutil.copy(outcomes, kept)
    return found


def _through(suite: Suite, source: Path, only: str, directory: Path, shards: int) -> dict[str, str]:
    """Return each test's outcome through the proxy over fresh shards."""
    name = f"through-{shards}"
    servers = [EmbeddedServer(directory / f"{name}-s{shard}", durable=False) for shard in range(shards)]
    start_all(servers)
    try:
        dsns = [server.dsn(DATABASE) for server in servers]
        proxy = ProxyProcess(write_config(directory / f"{name}.yaml", {DATABASE: dsns}))
        proxy.start(START_SECONDS)
        try:
            _prepare(proxy.dsn(DATABASE), suite)
            return _run(suite, source, only, proxy.port, directory / f"{name}.jsonl")
        finally:
            print(_complaints(proxy), end="")
            proxy.close()
    finally:
        stop_all(servers)


def _prepare(dsn: str, suite: Suite) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in suite.prepare:
            connection.execute(statement.encode())


def _run(suite: Suite, source: Path, only: str, port: int, outcomes: Path) -> dict[str, str]:
    """Run the suite against a port of this machine; return each test's outcome."""
    host = "127.0.0.1"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
        "PGHOST": host,
        "PGPORT": str(port),
        "PGUSER": USER,
        "PGDATABASE": DATABASE,
        "SUITE_OUTCOMES": str(outcomes),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(source / ".needs")]),
        **suite.environment,
    }
    command = [sys.executable, "-m", "pytest", "-p", "recorder", "-q", "--tb=short"]
    command += ["-o", f"cache_dir={outcomes.with_suffix('.cache')}"]
    command += [f"--timeout={TEST_SECONDS}", *suite.arguments(host, port), *(["-k", only] if only else [])]
    log = CACHE / f"{suite.name}-{outcomes.stem}.log"
    with log.open("w") as output:
        subprocess.run(
            command,
            cwd=source,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=SUITE_SECONDS,
            check=False,
        )
    if not outcomes.exists():
        sys.exit(f"{suite.name} ran no test; see {log}")
    return _outcomes(outcomes)


def _outcomes(file: Path) -> dict[str, str]:
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return {entry["test"]: entry["outcome"] for entry in found}


def _complaints(proxy: ProxyProcess) -> str:
    """Return what the proxy's log holds that none should: exceptions."""
    lines = proxy.log.read_text().splitlines()
    bad = [line for line in lines if "Traceback" in line or '"exception"' in line or "XX000" in line]
    return "".join(f"  the proxy's log: {line[:2000]}\n" for line in bad[:20])


def _exceptions(suite: str, shards: int) -> dict[re.Pattern[str], bool]:
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
    listed = _exceptions(suite.name, shards)
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
