"""Sends random sequences of messages to one Postgres and to a proxy with one shard, until their answers differ.

python tests/transcripts/compare.py --rounds 5000 --seed 7

Ends with status 0 if they never do; else it says what is left of the first sequence that shows it when all that can be
left out is, and both answers. A seed replays it.
"""

# ruff: noqa: T201, E402 - a command that speaks to a person and finds the modules of the tests

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from databases import create_databases
from pipelines import difference_of, made, smallest
from proxy.demo.embedded import EmbeddedServer
from proxy_process import ProxyProcess, write_config
from tests.transcripts.conftest import Pair
from wire_client import difference

ROUNDS = 2_000


def main() -> None:
    """Run it and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"sequences ({ROUNDS:,})")
    parser.add_argument("--seed", type=int, default=None, help="(a new one)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pgchorus-pipelines-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with EmbeddedServer(directory / "server", durable=False) as server:
            (direct,), (shard,) = (create_databases([server], database) for database in ("direct", "shard"))
            file = directory / "pgchorus.yaml"
            tables = {"notes": {"key": "k"}}
            proxy = ProxyProcess(write_config(file, {"shard": [shard]}, tables, functions={"noisy": "pure"}))
            proxy.start()
            pair = Pair(direct, proxy.dsn("shard"), shard, [direct, shard])
            try:
                compare(pair, proxy, random.Random(seed), options.rounds)
            finally:
                pair.close()
                proxy.close()


def compare(pair: Pair, proxy: ProxyProcess, chance: random.Random, rounds: int) -> None:
    """Play sequences, every second one message by message; exits at the first that is answered otherwise."""
    begin = time.monotonic()
    for number in range(rounds):
        parts, piecemeal = made(chance), bool(number % 2)
        found = difference_of(pair, parts, piecemeal=piecemeal)
        if found is not None:
            fewest = smallest(pair, parts, piecemeal=piecemeal)
            found = difference_of(pair, fewest, piecemeal=piecemeal) or found
            how = ", one by one" if piecemeal else ""
            sys.exit("\n".join([f"sequence {number}{how}:", *(f"    {part}" for part in fewest), difference(*found)]))
        if "Traceback" in proxy.log.read_text():
            sys.exit(f"sequence {number} left an exception in the log; {proxy.log_tail()}")
    print(f"{rounds:,} sequences in {time.monotonic() - begin:.0f} s: the same answers")


if __name__ == "__main__":
    main()
