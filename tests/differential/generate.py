"""Generated schemas, rows and statements: one Postgres, and the proxy over 1, 2 and 4 shards.

python tests/differential/generate.py --statements 100000 --seed 1
python tests/differential/generate.py --statements 2000 --seed 17 --each 2000     one schema with all of them

Each schema has a seed of its own, counted up from the first; a difference names it. Status 0 if there is none.
"""

# ruff: noqa: T201, E402 - a command that speaks to a person and finds the modules of the tests

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from oracle import generated
from oracle.generator import Generator
from oracle.ground import fill, ground
from proxy.demo.embedded import EmbeddedServer, start_all, stop_all

SHOWN = 20


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--statements", type=int, default=10_000, help="(10000)")
    parser.add_argument("--each", type=int, default=2_000, help="statements for each schema (2000)")
    parser.add_argument("--seed", type=int, default=None, help="(a new one)")
    parser.add_argument("--shards", default="1,2,4", help="numbers of shards (1,2,4)")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    shards = [int(count) for count in options.shards.split(",")]
    total: Counter[str] = Counter()
    differences: list[str] = []
    done, began = 0, time.monotonic()
    import tempfile  # noqa: PLC0415 - of the command only

    with tempfile.TemporaryDirectory(prefix="pgchorus-generated-") as directory:
        Path(directory).chmod(0o755)
        servers = [EmbeddedServer(Path(directory) / f"s{n}", durable=False) for n in range(max(shards))]
        start_all(servers)
        try:
            while done < options.statements:
                count = min(options.each, options.statements - done)
                generator = Generator(seed)
                with ground(shards, servers, tables=generator.placements()) as found:
                    fill([found.one, *found.proxies.values()], generator.definitions)
                    one, proxies = found.askers()
                    counts, different = generated.run(generator, count, one, proxies)
                    for asker in (one, *proxies.values()):
                        asker.close()
                    if found.process.died:
                        different.append(found.process.log_tail())
                total += counts
                differences += different
                done += count
                rate = done / (time.monotonic() - began)
                print(f"seed {seed}: {done} statements, {rate:.0f} a second, {len(differences)} different", flush=True)
                seed += 1
        finally:
            stop_all(servers)
    print(dict(total.most_common()))
    print("\n".join(differences[:SHOWN]))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
