"""Distributed transactions of several kinds through two proxies, while proxies and shards are killed, for a given time.

python tests/faults/soak.py --seconds 60 --seed 7
python tests/faults/soak.py --seconds 1800 --result docs/soak.md

Clients move money between accounts on different shards, count on every shard at once, append to lists (the history is
checked for the anomalies that Adya named), and read snapshots of all of it. Meanwhile proxies are killed (SIGKILL) and
stopped (SIGSTOP), and shards crash. Ends with status 0 if every promise held, else it says which one did not. The seed
makes the clients' transactions and the faults; what the machine does in between is its own.
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

from ledger import QUICK
from pages import write_first
from proxy.demo.embedded import EmbeddedServer, start_all, stop_all
from proxy_process import ProxyProcess, write_config
from soak_checks import Soak
from soak_workers import TABLES, Bank

PROGRESS_EVERY_SECONDS = 10.0
LIMITS = {**QUICK, "commit": {**QUICK["commit"], "commit_point_idle_ms": 3000}}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load (%(default)g)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds, about, something is killed (%(default)g)")
    parser.add_argument("--seed", type=int, default=None, help="(a new one)")
    parser.add_argument("--shards", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--proxies", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--transfers", type=int, default=8, help="clients that move money (%(default)s)")
    parser.add_argument("--counts", type=int, default=3, help="clients that count (%(default)s)")
    parser.add_argument("--lists", type=int, default=4, help="clients that append to lists (%(default)s)")
    parser.add_argument("--snapshots", type=int, default=2, help="clients that read snapshots (%(default)s)")
    parser.add_argument("--result", type=Path, default=None, help="write the outcome into this file (Markdown)")
    return parser.parse_args()


def main() -> None:
    """Run it and report."""
    options = arguments()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgchorus-soak-")))
        directory.chmod(0o755)
        servers = [EmbeddedServer(directory / f"s{shard}", durable=False) for shard in range(options.shards)]
        start_all(servers)
        stack.callback(stop_all, servers)
        direct = [server.dsn() for server in servers]
        proxies = []
        for number in range(options.proxies):
            config = directory / f"proxy{number}.yaml"
            proxies.append(ProxyProcess(write_config(config, {"postgres": direct}, TABLES, limits=LIMITS)))
            stack.callback(proxies[-1].close)
            proxies[-1].start()
        soak = Soak(Bank(proxies, direct, seed), servers)
        soak.bank.fill()
        try:
            run(soak, options)
            said = soak.check()
        except BaseException:
            print(*(proxy.log_tail() for proxy in proxies), sep="\n")
            raise
    words = describe(soak, options, said)
    print("\n".join(words))
    if options.result is not None:
        write_first(options.result, page(soak, options, words))
    if soak.in_doubt and not any(soak.in_doubt):
        sys.exit("no kill left anything in doubt, so this run shows nothing")
    print("all is well")


def run(soak: Soak, options: argparse.Namespace) -> None:
    """Load and faults, for the time that was asked for."""
    soak.start(options.transfers, options.counts, options.lists, options.snapshots)
    begin = last = time.monotonic()
    before = 0
    while time.monotonic() < begin + options.seconds:
        # One fault in each part of the time, at a moment of its own; and only after everybody has got on again.
        until = min(begin + options.seconds, time.monotonic() + 2 * options.every * soak.random.random())
        while time.monotonic() < until:
            soak.raise_failures()
            time.sleep(min(1.0, max(0.0, until - time.monotonic())))
            now = time.monotonic()
            if now - last >= PROGRESS_EVERY_SECONDS:
                rate = (soak.distributed - before) / (now - last)
                print(f"{now - begin:7.0f} s  {soak.distributed} distributed commits, {rate:.0f}/s", flush=True)
                last, before = now, soak.distributed
        if time.monotonic() < begin + options.seconds:
            said = soak.fault()
            print(f"{time.monotonic() - begin:7.1f} s  {said}", flush=True)
            soak.until_progress()
    soak.until_progress()
    soak.finish()


def describe(soak: Soak, options: argparse.Namespace, said: list[str]) -> list[str]:
    """Return what happened, line by line."""
    notes = soak.notes()
    faults = ", ".join(f"{count} x {kind}" for kind, count in sorted(soak.done.items()))
    history = soak.history
    clients = f"{options.transfers} + {options.counts} + {options.lists} + {options.snapshots}"
    return [
        (
            f"seed {soak.bank.seed}; {options.shards} shards, {options.proxies} proxies, {clients} clients (transfers,"
            " counters, lists, readers)"
        ),
        (
            f"{soak.seconds:.0f} s, {soak.distributed} distributed commits acknowledged,"
            f" {soak.distributed / soak.seconds:.0f}/s; {len(history)} list transactions;"
            f" {notes.snapshots} snapshots read, all whole"
        ),
        f"faults: {faults or 'none'}",
        (
            f"left prepared by proxies that were killed: {sum(soak.in_doubt)} parts,"
            f" at {sum(map(bool, soak.in_doubt))} of {len(soak.in_doubt)} kills"
        ),
        *said,
        *(f"  {count} x {text}" for text, count in notes.errors.most_common()),
        *(f"  {count} x notice {text}" for text, count in notes.warnings.most_common()),
    ]


def page(soak: Soak, options: argparse.Namespace, words: list[str]) -> str:
    """Return the page for the documentation."""
    top = [word for word in words if not word.startswith("  ")]
    rest = [word.strip() for word in words if word.startswith("  ")]
    return "\n".join(
        [
            "# Soak",
            "",
            "Written by one run of",
            "",
            "```console",
            (
                f"$ python tests/faults/soak.py --seconds {options.seconds:g} --every {options.every:g}"
                f" --seed {soak.bank.seed} --result docs/soak.md"
            ),
            "```",
            "",
            "Clients move money between accounts on different shards, add one to a counter on each shard, append to",
            "lists and read them (READ COMMITTED and REPEATABLE READ), and read snapshots of all this, through several",
            "proxies; meanwhile proxies are killed and stopped and shards crash. Checked: totals and counters in every",
            "snapshot; the journal against the balances; the order of increments on each shard; every acknowledged",
            "write is there and no refused one; the history of the lists has no anomaly that its level forbids",
            "(`tests/support/history.py`); nothing is left prepared; no proxy has logged an internal error.",
            "",
            *(f"- {word}" for word in top),
            "",
            "What clients were told besides COMMIT:",
            "",
            *(f"- {word}" for word in rest),
            "",
        ]
    )


if __name__ == "__main__":
    main()
