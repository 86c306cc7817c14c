"""``python -m bench.everything``: all benchmarks in turn, each a program that writes its page; forty minutes.

A part that fails does not keep the others from running; the exit status is 1 then. ``--only`` names parts, and
``--quick`` shows that all of them work, with figures that nobody should publish, in names that git ignores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from bench.standing import end_on_signals

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A part's name, its module, and its arguments.
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "select": (
        "bench", "--scenarios", "select", "--clients", "1,8,64,200", "--shards", "4", "--seconds", "3",
        "--name", "select",
    ),
    "writes": (
        "bench", "--scenarios", "tpcb,simple-update,transfer", "--shards", "1,4", "--seconds", "4", "--rounds", "2",
        "--name", "writes",
    ),
    "distributed": ("bench.distributed", "--name", "distributed"),
    "fence": ("bench.fence",),
    "streams": ("bench.streams",),
    "idle": ("bench.idle",),
    "workers": ("bench.workers",),
    "cores": ("bench.workers", "--share", "0.08", "--workers", "1,2,3", "--name", "cores"),
    "beside": ("bench.beside",),
    "lateness": ("bench.lateness",),
}  # fmt: skip
QUICK: Final[dict[str, tuple[str, ...]]] = {
    "select": ("bench", "--quick", "--scenarios", "select", "--clients", "1,8", "--shards", "2"),
    "writes": ("bench", "--quick", "--scenarios", "tpcb", "--shards", "2"),
    "distributed": ("bench.distributed", "--transactions", "20", "--shards", "2"),
    "fence": ("bench.fence", "--shards", "2", "--seconds", "1", "--rounds", "1", "--name", "latest"),
    "streams": ("bench.streams", "--rows", "20000", "--rounds", "1", "--pause", "0.5", "--name", "latest"),
    "idle": ("bench.idle", "--clients", "200", "--name", "latest"),
    "workers": ("bench.workers", "--seconds", "1", "--rounds", "1", "--scale", "2", "--name", "latest"),
    "cores": ("bench.workers", "--share", "0.3", "--seconds", "1", "--rounds", "1", "--scale", "2", "--name", "latest"),
    "beside": ("bench.beside", "--rounds", "1", "--shards", "2", "--modes", "simple"),
    "lateness": ("bench.lateness", "--rounds", "1", "--only", "nothing,parentheses", "--name", "latest"),
}
#: Parts that ask the kernel for what it gives to root alone.
FOR_ROOT: Final = frozenset({"cores"})


def run(command: Sequence[str]) -> int:
    """Run a part to its end and return its status; whatever ends this program ends the part first."""
    with subprocess.Popen(command) as part:
        try:
            return part.wait()
        except BaseException:
            part.terminate()
            raise


def main(argv: Sequence[str]) -> int:
    """Run the parts; 1 when one of them has failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.everything", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="shows that all works")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by commas (default: %(default)s)")
    given = parser.parse_args(argv)
    parts = QUICK if given.quick else PARTS
    wanted = given.only.split(",")
    unknown = sorted(set(wanted) - parts.keys())
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}")
    end_on_signals()
    failed = []
    for name in wanted:
        if name in FOR_ROOT and os.geteuid() != 0:
            sys.stdout.write(f"== {name}: not measured, since it is for root alone\n")
            continue
        sys.stdout.write(f"== python -m {' '.join(parts[name])}\n")
        sys.stdout.flush()
        if run([sys.executable, "-m", *parts[name]]):
            failed.append(name)
    if failed:
        sys.stderr.write(f"bench: with an error, or beyond its goal: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
