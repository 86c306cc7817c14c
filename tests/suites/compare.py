"""Runs other projects' test suites against one server and through the proxy with one shard, and compares.

python tests/suites/compare.py asyncpg pg8000
python tests/suites/compare.py asyncpg --only test_codecs

Every test that passes directly has to pass through the proxy, or stand in docs/compatibility.md with the reason why it
cannot. Ends with status 0 if so. Needs the package index: the suites are fetched, never kept here.
"""

# ruff: noqa: T201, E402 - a command that speaks to a person and finds the modules of the tests

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
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

from proxy.demo.embedded import EmbeddedServer, start_all, stop_all
from proxy_process import ProxyProcess, write_config

if TYPE_CHECKING:
    from catalogue import Suite

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".suites"
PAGE = ROOT / "docs" / "compatibility.md"
TEST_SECONDS = 120
SUITE_SECONDS = 3600
# A line of the page's list: | suite | test (with * for any) | reason |
_EXCEPTION = re.compile(r"^\| *`(?P<suite>[^`]+)` *\| *`(?P<test>[^`]+)` *\| *(?P<reason>.+?) *\|$")


def main() -> None:
    """Run what was asked for and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", default=list(SUITES), help=f"of {', '.join(SUITES)} (all)")
    parser.add_argument("--only", default="", help="pytest's -k expression")
    options = parser.parse_args()
    failed = False
    for name in options.suites:
        failed = not _compare(SUITES[name], options.only) or failed
    sys.exit(failed)


def _compare(suite: Suite, only: str) -> bool:
    """Run one suite both ways; say what differs; True when nothing does without a reason."""
    source = _fetched(suite)
    with TemporaryDirectory(prefix="pgchorus-suites-") as made:
        directory = Path(made)
        directory.chmod(0o755)
        servers = [EmbeddedServer(directory / name, durable=False) for name in ("direct", "shard")]
        start_all(servers)
        try:
            for server in servers:
                _prepare(server, suite)
            proxy = ProxyProcess(write_config(directory / "pgchorus.yaml", {DATABASE: [servers[1].dsn(DATABASE)]}))
            proxy.start()
            try:
                direct = _run(suite, source, only, servers[0].port, directory / "direct.jsonl")
                through = _run(suite, source, only, proxy.port, directory / "through.jsonl")
            finally:
                print(_complaints(proxy), end="")
                proxy.close()
        finally:
            stop_all(servers)
    return _report(suite, direct, through, partial=bool(only))


def _prepare(server: EmbeddedServer, suite: Suite) -> None:
    with psycopg.connect(server.dsn(DATABASE), autocommit=True) as connection:
        for statement in suite.prepare:
            connection.execute(statement.encode())


def _fetched(suite: Suite) -> Path:
    """Return the directory with the suite's tests, downloaded and unpacked if need be."""
    target = CACHE / f"{suite.distribution}-{suite.version}".lower()
    if target.exists():
        return target
    archives = CACHE / "archives"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wanted = f"{suite.distribution}=={suite.version}"
    download = ["download", "--no-deps", "--no-binary", suite.distribution, "-d", str(archives), wanted]
    subprocess.run([*pip, *download], check=True)
    normal = re.sub("[-_.]+", "[-_.]+", suite.distribution)
    (archive,) = (
        file
        for file in archives.iterdir()
        if re.fullmatch(f"{normal}-{re.escape(suite.version)}.tar.gz", file.name, re.IGNORECASE)
    )
    fresh = target.with_suffix(".new")
    with tarfile.open(archive) as source:
        for member in source.getmembers():
            inside = member.name.partition("/")[2]
            if inside.startswith(tuple(suite.keep)):
                member.name = inside
                source.extract(member, fresh, filter="data")
    if suite.needs:
        subprocess.run([*pip, "install", "--no-deps", "--target", str(fresh / ".needs"), *suite.needs], check=True)
    fresh.rename(target)
    return target


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
    command = [sys.executable, "-m", "pytest", "-p", "recorder", "-p", "no:cacheprovider", "-q", "--tb=short"]
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
    found = [json.loads(line) for line in outcomes.read_text().splitlines()]
    return {entry["test"]: entry["outcome"] for entry in found}


def _complaints(proxy: ProxyProcess) -> str:
    """Return what the proxy's log holds that none should: exceptions."""
    lines = proxy.log.read_text().splitlines()
    bad = [line for line in lines if "Traceback" in line or '"exception"' in line or "XX000" in line]
    return "".join(f"  the proxy's log: {line[:2000]}\n" for line in bad[:20])


def _exceptions(suite: str) -> list[re.Pattern[str]]:
    """Read the page's list for one suite."""
    listed = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        found = _EXCEPTION.match(line)
        if found and found["suite"] == suite:
            listed.append(re.compile(".*".join(re.escape(part) for part in found["test"].split("*"))))
    return listed


def _report(suite: Suite, direct: dict[str, str], through: dict[str, str], *, partial: bool) -> bool:
    passing = [test for test, outcome in direct.items() if outcome == "passed"]
    lost = [test for test in passing if through.get(test, "not run") != "passed"]
    listed = _exceptions(suite.name)
    unexplained = [test for test in lost if not any(pattern.search(test) for pattern in listed)]
    idle = [pattern.pattern for pattern in listed if not partial and not any(pattern.search(test) for test in lost)]
    print(
        f"{suite.name} {suite.version}: {len(passing)} tests pass directly, {len(passing) - len(lost)} of them through "
        f"the proxy; {len(lost) - len(unexplained)} are listed exceptions, {len(unexplained)} are not"
    )
    for test in unexplained:
        print(f"  {through.get(test, 'not run')}: {test}")
    for pattern in idle:
        print(f"  passes now, though it is listed: {pattern}")
    return not unexplained


if __name__ == "__main__":
    main()
