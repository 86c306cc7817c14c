"""Parts of a core for processes, kept by the kernel (bandwidth of control groups, version 1 or 2; for root alone).

A worker that may use a tenth of a core leaves the rest to its neighbours: so one sees on a machine of few cores what
more workers would give if each had a core of its own, as long as their parts, the servers and the clients fit on it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.model import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Where the controller is mounted: version 1 has a tree of its own for it.
ROOT: Final = Path("/sys/fs/cgroup")
#: What a group may use in a period: the least that the kernel takes, so that it stands still for short times only.
QUOTA_US: Final = 1_000


def group_below(root: Path, name: str) -> Path:
    """Return the directory of a group that is not there yet; BenchError where nobody keeps shares of CPU."""
    if (root / "cpu" / "cpu.cfs_quota_us").exists():
        return root / "cpu" / name
    controllers = root / "cgroup.controllers"
    if controllers.exists() and "cpu" in controllers.read_text().split():
        return root / name
    raise BenchError(f"no control groups for CPU below {root}")


def limit(group: Path, share: float) -> None:
    """Say how much of a core the group's processes may use together."""
    period = round(QUOTA_US / share)
    if (group.parent / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_period_us").write_text(str(period))
        (group / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
    else:
        (group / "cpu.max").write_text(f"{QUOTA_US} {period}")


@contextmanager
def limited(share: float, name: str, root: Path = ROOT) -> Iterator[Callable[[Sequence[int]], None]]:
    """Yield what puts each of some processes, with all its threads, into a group that gets ``share`` of a core.

    The groups are taken away at the end, when the processes must have ended.
    """
    groups: list[Path] = []
    first = group_below(root, f"pgchorus-{os.getpid()}-{name}-0")
    if first.parent == root:  # version 2: children of the root have the controller only if it says so
        with (root / "cgroup.subtree_control").open("w") as control:
            control.write("+cpu")

    def put(pids: Sequence[int]) -> None:
        for pid in pids:
            group = group_below(root, f"pgchorus-{os.getpid()}-{name}-{len(groups)}")
            group.mkdir()
            groups.append(group)
            limit(group, share)
            (group / "cgroup.procs").write_text(str(pid))

    try:
        yield put
    finally:
        for group in groups:
            group.rmdir()
