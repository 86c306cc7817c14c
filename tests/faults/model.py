"""The model of a commit, explored deeper than every day: minutes of CPU, no server needed.

python tests/faults/model.py               all of it
python tests/faults/model.py 3 0 2         three writers, no reader, two faults

Prints how many states were explored and ends with status 0 if no promise was broken in any of them, and if the
machine's table allows nothing that never happens.
"""

# ruff: noqa: T201, E402 - a command that speaks to a person and finds the modules of the tests

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from proxy.twophase.machine import TRANSITIONS
from twophase_explorer import Explorer

# Writers, readers, faults, and whether another proxy's recovery takes part, one statement at a time.
DEPTHS = (
    (2, 0, 5, True),
    (2, 1, 3, True),
    (2, 2, 2, False),
    (3, 0, 3, False),
    (3, 0, 1, True),
    (3, 1, 2, False),
    (4, 0, 2, False),
    (4, 0, 0, True),
)


def main(arguments: list[str]) -> int:
    """Explore, report, and return the exit status."""
    depths = [(*map(int, arguments), True)] if arguments else DEPTHS
    transitions = set()
    states = broken = 0
    for writers, readers, faults, meanwhile in depths:
        begin = time.process_time()
        explorer = Explorer(recovers_meanwhile=meanwhile)
        explorer.explore(writers, readers, faults)
        seconds = time.process_time() - begin
        print(f"{explorer.report(writers, readers, faults)}, {seconds:.0f} s", flush=True)
        for problem in explorer.broken:
            print(f"  BROKEN: {problem}")
        transitions |= explorer.transitions
        states += explorer.states
        broken += len(explorer.broken)
    print(f"{states} states, {broken} broken promises")
    if arguments:
        return bool(broken)
    allowed = {(state, event, target) for (state, event), targets in TRANSITIONS.items() for target in targets}
    for state, event, target in sorted(allowed - transitions, key=str):
        print(f"never seen, though the table allows it: {event.__name__} in {state.value} leads to {target.value}")
    return bool(broken or allowed - transitions)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
