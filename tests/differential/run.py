"""The differential runner: statement files on one Postgres and on the proxy over 1, 2 and 4 shards.

python tests/differential/run.py                                  every file, all shards, all modes
python tests/differential/run.py --only tpch --shards 2 --modes simple
python tests/differential/run.py --refusals refused.txt           each refused statement under its refusal's id

Ends with status 0 if no answer is different. `tests/support/oracle/corpus.py` says what a statement file looks like.
"""

# ruff: noqa: T201, E402 - a command that speaks to a person and finds the modules of the tests

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from oracle import report
from oracle.answers import MODES
from oracle.corpus import read_all
from oracle.ground import definitions, fill, ground, placements
from oracle.runner import Runner

STATEMENTS = Path(__file__).parent / "statements"


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="files whose folder or name contains this")
    parser.add_argument("--shards", default="1,2,4", help="numbers of shards (1,2,4)")
    parser.add_argument("--modes", default=",".join(MODES), help=f"({','.join(MODES)})")
    parser.add_argument("--refusals", type=Path, help="a file for the refused statements")
    parser.add_argument("--statements", type=Path, default=STATEMENTS, help="another folder of statement files")
    options = parser.parse_args()
    files = read_all(options.statements, options.only)
    began = time.monotonic()
    with ground([int(count) for count in options.shards.split(",")]) as found:
        fill([found.one, *found.proxies.values()], definitions())
        one, proxies = found.askers()
        print(f"{sum(file.size for file in files)} statements; servers filled in {time.monotonic() - began:.1f} s")
        runner = Runner(one, proxies, placements(), options.modes.split(","))
        for file in files:
            runner.run(file)
        for asker in (one, *proxies.values()):
            asker.close()
        died = found.process.died
        if died:
            print(found.process.log_tail())
    print("\n".join(report.lines(runner.report, files)), f"in {time.monotonic() - began:.1f} s")
    if options.refusals is not None:
        options.refusals.write_text("\n".join(report.refused(runner.report)) + "\n")
    return 1 if runner.report.differences or died else 0


if __name__ == "__main__":
    sys.exit(main())
