"""CPU and memory of a process and everything below it, from /proc.

A proxy may be one process or a supervisor with workers, and Postgres forks one per connection, so a reading sums over
the living tree and over its dead that were waited for (the kernel adds those to their parent). Two readings are
subtracted.
Resolution is the kernel's clock tick (10 ms as a rule): nothing over a run of seconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that matter here; times in ticks, their own and of children that were waited for."""

    pid: int
    parent: int
    user: int
    system: int
    resident_pages: int


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds in user and kernel mode, and resident memory, of one or more process trees."""

    user_s: float = 0.0
    system_s: float = 0.0
    resident_bytes: int = 0

    @property
    def cpu_s(self) -> float:
        """User and kernel time together."""
        return self.user_s + self.system_s

    def since(self, earlier: Usage) -> Usage:
        """Return the CPU used since an earlier reading; memory as it is now."""
        return Usage(self.user_s - earlier.user_s, self.system_s - earlier.system_s, self.resident_bytes)


def parse_stat(line: str) -> Stat:
    """Read one line of /proc/PID/stat (proc(5)). The name in brackets may hold blanks and brackets of its own."""
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    user, system, children_user, children_system = (int(field) for field in fields[11:15])
    return Stat(
        pid=int(head.split("(", 1)[0]),
        parent=int(fields[1]),
        user=user + children_user,
        system=system + children_system,
        resident_pages=int(fields[21]),
    )


def add_up(stats: list[Stat], roots: list[int]) -> Usage:
    """Sum over the trees below some roots; a root that is not there counts nothing."""
    children: dict[int, list[Stat]] = {}
    by_pid = {stat.pid: stat for stat in stats}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat)
    todo = [by_pid[root] for root in set(roots) if root in by_pid]
    user = system = pages = 0
    seen: set[int] = set()
    while todo:
        stat = todo.pop()
        if stat.pid in seen:
            continue
        seen.add(stat.pid)
        user, system, pages = user + stat.user, system + stat.system, pages + stat.resident_pages
        todo.extend(children.get(stat.pid, ()))
    return Usage(user / TICKS_PER_SECOND, system / TICKS_PER_SECOND, pages * PAGE_BYTES)


def snapshot() -> list[Stat]:
    """Read every process there is now."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                found.append(parse_stat((entry / "stat").read_text(errors="replace")))
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
    return found


def machine_busy_s() -> float:
    """Return the CPU seconds that the whole machine has spent on anything (idle, I/O wait and stolen time left out)."""
    return parse_busy((PROC / "stat").read_text().splitlines()[0]) / TICKS_PER_SECOND


def parse_busy(line: str) -> int:
    """Read the first line of /proc/stat: user, nice, system, irq and softirq ticks (guest time is within user)."""
    user, nice, system, _idle, _wait, irq, softirq = (int(field) for field in line.split()[1:8])
    return user + nice + system + irq + softirq
