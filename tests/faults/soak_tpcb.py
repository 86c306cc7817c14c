"""TPC-B over three shards while the proxy is killed (SIGKILL), and shards with it if asked for, for as long as asked.

python tests/faults/soak_tpcb.py --seconds 60 --kills 10 --seed 7
python tests/faults/soak_tpcb.py --seconds 60 --kills 5 --shard-kills 5

Ends with status 0 if every promise held, else it says which one did not. The seed makes the clients' transactions and
the moments of the kills; what the machine does in between is its own.
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

from ledger import QUICK
from proxy.demo.embedded import EmbeddedServer, start_all, stop_all
from proxy_process import ProxyProcess, write_config
from tpcb import TABLES, Load

SHARDS = 3
SCALE = 5
WRITERS = 4
PGBENCH_CLIENTS = 4


def main() -> None:
    """Run it and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load (60)")
    parser.add_argument("--kills", type=int, default=10, help="of the proxy (10)")
    parser.add_argument("--shard-kills", type=int, default=0, help="immediate shutdowns of a shard (0)")
    parser.add_argument("--seed", type=int, default=None, help="(a new one)")
    parser.add_argument("--scale", type=int, default=SCALE, help=f"of pgbench ({SCALE})")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="pgchorus-soak-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        servers = [EmbeddedServer(directory / f"s{shard}", durable=False) for shard in range(SHARDS)]
        start_all(servers)
        try:
            direct = [server.dsn() for server in servers]
            process = ProxyProcess(
                write_config(directory / "pgchorus.yaml", {"postgres": direct}, TABLES, limits=dict(QUICK))
            )
            process.start()
            try:
                soak(Load(process, direct, seed=seed, scale=options.scale), servers, options)
            finally:
                if process.running:
                    process.kill()
        finally:
            stop_all(servers)


def soak(load: Load, servers: list[EmbeddedServer], options: argparse.Namespace) -> None:
    """Fill, run under kills, and check."""
    load.fill()
    load.start(WRITERS, PGBENCH_CLIENTS)
    what = ["proxy"] * options.kills + ["shard"] * options.shard_kills
    load.random.shuffle(what)
    begin = time.monotonic()
    for number, kind in enumerate(what):
        # One kill in each part of the time, at a moment of its own; and only after everybody has got on again.
        load.until_progress()
        moment = begin + (number + load.random.random()) * options.seconds / len(what)
        time.sleep(max(0.0, moment - time.monotonic()))
        if kind == "proxy":
            load.kill_proxy()
            print(f"{time.monotonic() - begin:6.1f} s  proxy killed, {load.in_doubt[-1]} in doubt", flush=True)
        else:
            server = load.random.choice(servers)
            server.kill()
            server.start()
            print(f"{time.monotonic() - begin:6.1f} s  shard {server.name} crashed and came back", flush=True)
    load.until_progress()
    time.sleep(max(0.0, begin + options.seconds - time.monotonic()))
    load.finish()
    print(load.report())
    load.check()
    if options.kills and not any(load.in_doubt):
        sys.exit("no kill left anything in doubt, so this run shows nothing")
    print(f"all is well: {len(what)} kills, {sum(load.in_doubt)} transactions in doubt, seed {load.seed}")


if __name__ == "__main__":
    main()
