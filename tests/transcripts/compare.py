"""Sends random sequences of messages to one Postgres and to a proxy with one shard, and tells of all that differs.

python tests/transcripts/compare.py --rounds 5000 --seed 7

Ends with status 0 if only what docs/limits.md lists differs (support/listed_differences.py knows it by name). Anything
else is told as what is left of the sequence that shows it when all that can be left out is, and both answers. Goes on
then, up to so many of these. A seed replays it.
"""

# ruff: noqa: T201, E402 - a command that speaks to a person and finds the modules of the tests

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from databases import create_databases
from listed_differences import kind_of, name_of
from pipelines import difference_of, flat, is_lost, made, smallest, without
from proxy.demo.embedded import EmbeddedServer
from proxy_process import ProxyProcess, write_config
from tests.transcripts.conftest import Pair
from wire_client import difference

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 2_000
#: Unlisted differences of so many kinds are told, then it ends.
MOST_KINDS = 10
#: Where Postgres has said XX000 of itself, what it says afterwards is nothing to go by.
LOST = "Postgres has lost its own state (XX000)"


def main() -> None:
    """Run it and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"sequences ({ROUNDS:,})")
    parser.add_argument("--seed", type=int, default=None, help="(a new one)")
    parser.add_argument("--kinds", type=int, default=MOST_KINDS, help=f"unlisted differences to tell ({MOST_KINDS})")
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
                same = compare(pair, proxy, random.Random(seed), options.rounds, options.kinds)
            finally:
                pair.close()
                proxy.close()
    sys.exit(0 if same else 1)


def compare(pair: Pair, proxy: ProxyProcess, chance: random.Random, rounds: int, most: int) -> bool:
    """Play sequences, every second one message by message; return whether all that differed is listed."""
    begin = time.monotonic()
    listed: Counter[str] = Counter()
    unlisted: Counter[Any] = Counter()
    number = 0
    while number < rounds and len(unlisted) < most:
        parts, piecemeal = made(chance), bool(number % 2)
        for fewest, found in differences_of(pair, parts, piecemeal=piecemeal):
            name = LOST if is_lost(*found) else name_of(flat(fewest), *found)
            if name is not None:
                listed[name] += 1
                continue
            unlisted[kind_of(*found)] += 1
            if unlisted[kind_of(*found)] == 1:
                how = ", one by one" if piecemeal else ""
                told = [f"sequence {number}{how}:", *(f"    {part}" for part in flat(fewest)), difference(*found)]
                print("\n".join(told), flush=True)
        if "Traceback" in proxy.log.read_text():
            sys.exit(f"sequence {number} left an exception in the log; {proxy.log_tail()}")
        number += 1
    counted = ", ".join(f"{name}: {count}" for name, count in sorted(listed.items())) or "none"
    print(
        f"{number:,} sequences in {time.monotonic() - begin:.0f} s: {unlisted.total()} unlisted differences"
        f" of {len(unlisted)} kinds; listed ones: {counted}"
    )
    return not unlisted


def differences_of(pair: Pair, parts: list[Any], *, piecemeal: bool) -> Iterator[tuple[list[Any], Any]]:
    """Yield the smallest sequence and both answers of each difference; what it needs is left out to find the next."""
    while parts and (found := difference_of(pair, parts, piecemeal=piecemeal)) is not None:
        if is_lost(*found):
            yield parts, found
            return
        fewest = smallest(pair, parts, piecemeal=piecemeal)
        yield fewest, difference_of(pair, fewest, piecemeal=piecemeal) or found
        parts = without(parts, fewest)


if __name__ == "__main__":
    main()
