"""Throws damaged protocol at the readers of proxy.wire and at sessions of a proxy with one shard.

python tests/fuzz/fuzz.py --wire 1000000 --session 5000 --seed 7

Ends with status 0 if every input gave what it may give, else it says which one did not. A seed replays it.
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

from fuzzing import try_session, try_wire
from proxy.demo.embedded import EmbeddedServer
from proxy_process import ProxyProcess, write_config
from wire_client import connected

WIRE_INPUTS = 1_000_000
SESSION_INPUTS = 2_000


def main() -> None:
    """Run it and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wire", type=int, default=WIRE_INPUTS, help=f"inputs for the readers ({WIRE_INPUTS:,})")
    parser.add_argument("--session", type=int, default=SESSION_INPUTS, help=f"inputs for sessions ({SESSION_INPUTS:,})")
    parser.add_argument("--seed", type=int, default=None, help="(a new one)")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    begin = time.monotonic()
    chance = random.Random(seed)
    for number in range(options.wire):
        try:
            try_wire(chance)
        except Exception as error:
            error.add_note(f"input {number} of seed {seed}")
            raise
    print(f"wire: {options.wire:,} inputs in {time.monotonic() - begin:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="pgchorus-fuzz-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with EmbeddedServer(directory / "shard", durable=False) as server:
            proxy = ProxyProcess(write_config(directory / "pgchorus.yaml", {"postgres": [server.dsn()]}))
            proxy.start()
            try:
                sessions(proxy, options.session, seed)
            finally:
                proxy.close()


def sessions(proxy: ProxyProcess, count: int, seed: int) -> None:
    """Throw inputs at sessions, one after the other."""
    begin = time.monotonic()
    dsn = proxy.dsn("postgres")
    with connected(dsn) as client:
        client.query("create table plain (id int4 primary key, v text)")
        client.query("create table notes (k int8 primary key, v text, n int4)")
    chance = random.Random(seed)
    for number in range(count):
        try:
            try_session(chance, dsn)
        except Exception as error:
            error.add_note(f"input {number} of seed {seed}")
            raise
        if "Traceback" in proxy.log.read_text():
            sys.exit(f"input {number} of seed {seed} left an exception in the log; {proxy.log_tail()}")
    with connected(dsn) as client:
        client.rows("select 1")
    print(f"sessions: {count:,} inputs in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
