"""Crowds of clients over few rows, for a given time: are deadlocks found, and is nothing else taken for one?

python tests/faults/deadlocks.py --seconds 3600

By turns, for ten seconds each, clients of two proxies lock rows in one order (nobody may be ended) and in any order
(who is ended must be told 40P01, and the crowd must go on). Ends with status 0 if that held.
"""

# ruff: noqa: T201, E402 - a command that speaks to a person and finds the modules of the tests

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from crowd import LIMITS, TABLES, Crowd, fill
from proxy.demo.embedded import EmbeddedServer, start_all, stop_all
from proxy_process import ProxyProcess, write_config

TURN_SECONDS = 10.0


def main() -> None:
    """Run it and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load (%(default)g)")
    parser.add_argument("--clients", type=int, default=12, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="(a new one)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgchorus-deadlocks-")))
        directory.chmod(0o755)
        servers = [EmbeddedServer(directory / f"s{shard}", durable=False) for shard in range(3)]
        start_all(servers)
        stack.callback(stop_all, servers)
        dsns: list[str] = []
        for number in range(2):
            config = write_config(
                directory / f"proxy{number}.yaml", {"postgres": [one.dsn() for one in servers]}, TABLES, limits=LIMITS
            )
            proxy = ProxyProcess(config)
            stack.callback(proxy.close)
            proxy.start()
            dsns.append(proxy.dsn("postgres"))
            if number == 0:
                fill(dsns[0])
        run(dsns, options, seed)
    print("all is well")


def run(dsns: list[str], options: argparse.Namespace, seed: int) -> None:
    """Take turns until the time is up."""
    commits = {True: 0, False: 0}
    ended = 0
    turn = 0
    deadline = time.monotonic() + options.seconds
    while time.monotonic() < deadline:
        crowd = Crowd(dsns, clients=options.clients, seed=seed + turn, ordered=turn % 2 == 0)
        with crowd.at_work():
            time.sleep(TURN_SECONDS)
        crowd.check()
        # In any order the crowd mostly waits to be untangled, and the same clients may be the youngest again and again.
        if not (all if crowd.ordered else any)(crowd.committed):
            sys.exit(f"nobody, or not everybody, has committed anything in {TURN_SECONDS:g} s: {crowd.committed}")
        commits[crowd.ordered] += sum(crowd.committed)
        ended += len(crowd.errors)
        turn += 1
        print(
            f"in one order {commits[True]} commits, none ended; in any order {commits[False]} commits, {ended} ended",
            flush=True,
        )


if __name__ == "__main__":
    main()
