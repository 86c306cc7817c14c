"""How findings are told: to people (short, the worst first, a summary at the end), as JSON, as SQL to be run.

The exit status is the report's: 0, or 1 when there is a finding as bad as was asked for.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proxy.doctor.finding import FILE, HAND, PSQL, SHELL, Command
from proxy.doctor.kind import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from proxy.doctor.examine import Examined
    from proxy.doctor.finding import Finding

Target = Callable[[str, str], str]
"""What psql connects by, for a database and the name of a shard; without a password."""

MOST: Final = 8  # findings of one kind that people are shown
LONG: Final = 160  # characters of SQL that people are shown
PROGRESS_S: Final = 1.0


class Progress:
    """Says on standard error what is being looked at, once a second at most, and nothing of what is quick."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_S

    def __call__(self, text: str) -> None:
        """Say what is being looked at, if it is time."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + PROGRESS_S
            print(f"pgchorus doctor: {text}", file=sys.stderr, flush=True)


def status(findings: Iterable[Finding], fail_on: Severity) -> int:
    """Return the exit status."""
    return 1 if any(finding.kind.severity <= fail_on for finding in findings) else 0


# --- for people ------------------------------------------------------------------------------------------------------


def for_people(done: Examined, config: str, target: Target) -> Iterator[str]:
    """Yield lines: kinds by severity, with what each breaks; findings; how they are mended; a summary."""
    yield from finding_lines(done.findings, config, target)
    counts = Counter(finding.kind.severity for finding in done.findings)
    said = ", ".join(_count(counts[severity], str(severity)) for severity in Severity if counts[severity])
    what = f"{_count(len(done.databases), 'database')}, {_count(done.shards, 'shard')}"
    if len(done.databases) == 1:
        what = f"{done.databases[0]}: {_count(done.shards, 'shard')}"
    yield f"{what}: {said or 'all is well'} ({done.rows:,} rows read in {done.seconds:.1f} s)"


def finding_lines(findings: Sequence[Finding], config: str, target: Target) -> Iterator[str]:
    """Yield the lines of findings alone."""
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind.name, []).append(finding)
    for name, of_kind in by_kind.items():
        kind = of_kind[0].kind
        yield f"{kind.severity}: {name}: {kind.what}; {kind.breaks}"
        said: set[str] = set()
        for finding in of_kind[:MOST]:
            yield f"  {finding}"
            for line in _mends(finding, config, target):
                if line not in said or not line.startswith("$ pgchorus"):
                    yield f"    {line}"
                said.add(line)
        if len(of_kind) > MOST:
            yield f"  and {len(of_kind) - MOST} more: --json has all of them"


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _mends(finding: Finding, config: str, target: Target) -> Iterator[str]:
    """Yield a line for each step; SQL that is long, or goes over several shards, comes from ``--sql``."""
    script = any(command.on == PSQL or _is_long(command) for command in finding.mend)
    scripted = False
    for command in finding.mend:
        if command.on == SHELL:
            yield f"$ {command.text}"
        elif command.on == FILE:
            yield f"in the configuration: {command.text}"
        elif command.on == HAND:
            yield command.text
        elif not script:
            yield f"on {command.on}: {command.text};"
        elif not scripted:
            scripted = True
            at = target(finding.database, finding.shards[0] if finding.shards else command.on)
            yield f"$ pgchorus doctor -c {config} --sql {finding.kind.name} | psql -X '{at}'"


def _is_long(command: Command) -> bool:
    return command.on not in {SHELL, FILE, HAND} and (len(command.text) > LONG or "\n" in command.text)


# --- for programs ----------------------------------------------------------------------------------------------------


def as_json(findings: Sequence[Finding], exit_status: int, **more: Any) -> str:
    """Return one JSON document."""
    counts = Counter(finding.kind.severity for finding in findings)
    document = {
        **more,
        "findings": [
            {
                "id": finding.kind.name,
                "severity": str(finding.kind.severity),
                "database": finding.database or None,
                "shards": list(finding.shards),
                "object": finding.thing or None,
                "detail": finding.detail,
                "what": finding.kind.what,
                "breaks": finding.kind.breaks,
                "mend": [{"on": command.on, "run": command.text} for command in finding.mend],
            }
            for finding in findings
        ],
        "summary": {f"{severity}s": counts[severity] for severity in Severity},
        "status": exit_status,
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


# --- for psql --------------------------------------------------------------------------------------------------------


def as_sql(findings: Sequence[Finding], name: str, target: Target) -> Iterator[str]:
    """Yield a script for psql that mends the findings of one kind; what is no SQL stands in it as a comment."""
    wanted = [finding for finding in findings if finding.kind.name == name]
    yield f"-- {name}: {len(wanted)} found"
    yield "\\set ON_ERROR_STOP on"
    for finding in wanted:
        yield f"\n-- {finding}"
        at = ""
        for command in finding.mend:
            if command.on in {SHELL, FILE, HAND}:
                yield from (f"-- {command.on}: {line}" for line in command.text.splitlines())
            elif command.on == PSQL:
                yield command.text
                at = ""
            else:
                connect = f"\\connect '{target(finding.database, command.on)}'"
                if connect != at:
                    yield connect
                at = connect
                yield f"{command.text};"
