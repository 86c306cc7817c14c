"""Generated schemas, rows and statements: one Postgres, and the proxy over 1, 2 and 4 shards.

python tests/differential/generate.py --statements 100000 --seed 1 --jobs 3
python tests/differential/generate.py --statements 1000 --seed 17 --shards 4         one schema with all of them

Each schema has a seed of its own, counted up from the first, and runs over 1, 2 or 4 shards in turn (by its seed); each
statement is asked in one of three ways: as a simple query, in the extended protocol with text, and with binary. A
difference names the seed, and the seed with the same --each gives it again. Status 0 if there is none. Ctrl-C or
SIGTERM ends it and reports the schemas that are done.
"""

# ruff: noqa: T201, E402 - a command that speaks to a person and finds the modules of the tests

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from oracle.generated import Comparison, Outcome
from oracle.generator.scenes import Scenes
from oracle.ground import fill, ground
from proxy.demo.embedded import EmbeddedServer, start_all, stop_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.queues import Queue

SHOWN = 40
NUMBERS_OF_SHARDS = (1, 2, 4)


def one_schema(
    seed: int, count: int, shards: int, servers: Sequence[EmbeddedServer], shares: dict[str, float]
) -> Outcome:
    """Compare the statements of one seed."""
    generator = Scenes(seed)
    for name, share in shares.items():
        setattr(generator, name, share)
    with ground([shards], servers, tables=generator.placements()) as found:
        fill([found.one, *found.proxies.values()], generator.definitions)
        one, proxies = found.askers()
        if seed % 2:
            proxies[shards].must("set pgchorus.allow_key_update = on")
        outcome = Comparison(generator, one, proxies[shards], shards).run(count)
        for asker in (one, *proxies.values()):
            asker.close()
        if found.process.died:
            outcome.differences.append(f"seed {seed}: the proxy died; {found.process.log_tail()}")
    return outcome


def work(
    tasks: Queue[tuple[int, int, int] | None],
    results: Queue[tuple[int, Outcome]],
    most_shards: int,
    shares: dict[str, float],
) -> None:
    """One job: servers of its own, and one seed after another."""
    with tempfile.TemporaryDirectory(prefix="pgchorus-generated-") as directory:
        Path(directory).chmod(0o755)
        servers = [EmbeddedServer(Path(directory) / f"s{n}", durable=False) for n in range(most_shards)]
        start_all(servers)
        try:
            while (task := tasks.get()) is not None:
                seed, count, shards = task
                try:
                    outcome = one_schema(seed, count, shards, servers, shares)
                except Exception:  # noqa: BLE001 - whatever it is, it belongs into the report
                    outcome = Outcome(differences=[f"seed {seed} [{shards} shards] ended by\n{traceback.format_exc()}"])
                results.put((seed, outcome))
        finally:
            stop_all(servers)


def report(total: Outcome) -> None:
    """Print shares, refusals, errors, configurations and differences."""
    statements = total.statements or 1
    print("\n".join(total.differences[:SHOWN]))
    for name, example in sorted(total.examples.items()):
        print(f"refused by {name}, for example {example}")
    for name, counts in (("ended", total.counts), ("refused by", total.refusals), ("failed with", total.failures),
                         ("configuration", total.configurations)):  # fmt: skip
        for what, count in counts.most_common():
            print(f"{name:14} {what:45} {count:8} {100 * count / statements:6.2f} %")
    answered = sum(total.counts[what] for what in ("rows", "no rows", "changed", "changed nothing"))
    print(
        f"{total.statements} statements: {100 * answered / statements:.1f} % answered, "
        f"{100 * total.counts['failed alike'] / statements:.1f} % failed alike, "
        f"{100 * total.counts['refused'] / statements:.1f} % refused, {len(total.differences)} differences"
    )


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--statements", type=int, default=10_000, help="(10000)")
    parser.add_argument("--each", type=int, default=1_000, help="statements for each schema (1000)")
    parser.add_argument("--seed", type=int, default=None, help="of the first schema (a new one)")
    parser.add_argument("--shards", type=int, default=0, help="always this number (1, 2 and 4 in turn)")
    parser.add_argument("--jobs", type=int, default=2, help="schemas at a time, each with servers and a proxy (2)")
    parser.add_argument("--rarer", type=float, help="the share of rarer forms (its own)")
    parser.add_argument("--through-views", type=float, help="the share of changes that go through views (its own)")
    options = parser.parse_args()
    shares = {name: share for name in ("rarer", "through_views") if (share := getattr(options, name)) is not None}
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    for told in (signal.SIGINT, signal.SIGTERM):
        signal.signal(told, signal.default_int_handler)
    spawn = multiprocessing.get_context("spawn")
    tasks: Queue[tuple[int, int, int] | None] = spawn.Queue()
    results: Queue[tuple[int, Outcome]] = spawn.Queue()
    left, seeds = options.statements, 0
    while left > 0:
        shards = options.shards or NUMBERS_OF_SHARDS[(seed + seeds) % len(NUMBERS_OF_SHARDS)]
        tasks.put((seed + seeds, min(options.each, left), shards))
        left -= options.each
        seeds += 1
    jobs = [
        spawn.Process(target=work, args=(tasks, results, options.shards or max(NUMBERS_OF_SHARDS), shares), daemon=True)
        for _ in range(min(options.jobs, seeds))
    ]
    for job in jobs:
        tasks.put(None)
        job.start()
    total, began = Outcome(), time.monotonic()
    for _ in range(seeds):
        try:
            done, outcome = results.get()
        except KeyboardInterrupt:
            for job in jobs:
                job.terminate()  # their servers and proxies notice, and end
            break
        total.add(outcome)
        rate = total.statements / (time.monotonic() - began)
        print(f"seed {done}: {total.statements} statements, {rate:.0f} a second, "
              f"{len(total.differences)} different", flush=True)  # fmt: skip
    for job in jobs:
        job.join()
    report(total)
    return 1 if total.differences else 0


if __name__ == "__main__":
    sys.exit(main())
