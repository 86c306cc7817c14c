"""docs/machine.md, drawn from the commit machine's own table; run this file to write it anew.

The arrows are ``TRANSITIONS`` of proxy/twophase/machine.py, the words on crashes are the docstrings of its states.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from proxy.twophase import machine
from proxy.twophase.machine import TRANSITIONS, State

FILE = Path(__file__).parents[2] / "docs" / "machine.md"

WORDS = {
    "Answered": "answer",
    "Failed": "error or lost link",
    "TimedOut": "time is up",
    "Settled": "the record tells",
    "Unsettled": "nobody can be asked",
    "Finished": "finished elsewhere",
    "Unfinished": "not finished",
}
HEAD = """# The commit machine

Drawn from the table `TRANSITIONS` in [proxy/twophase/machine.py](../proxy/twophase/machine.py) by
`python tests/support/machine_diagram.py`; a test sees that it is current. How a commit works, and why, is in
[proxy/twophase/README.md](../proxy/twophase/README.md).
"""


def meanings() -> dict[State, str]:
    """Return the docstrings of the states: what a crash of the proxy in each one means."""
    (made,) = (
        node
        for node in ast.parse(inspect.getsource(machine)).body
        if isinstance(node, ast.ClassDef) and node.name == State.__name__
    )
    found: dict[State, str] = {}
    for name, text in zip(made.body, made.body[1:], strict=False):
        if isinstance(name, ast.Assign) and isinstance(name.targets[0], ast.Name) and isinstance(text, ast.Expr):
            assert isinstance(text.value, ast.Constant)
            found[State[name.targets[0].id]] = " ".join(str(text.value.value).split())
    return found


def arrows() -> list[str]:
    """Return one line for each pair of states that differ or stay, with all the events that lead there."""
    events: dict[tuple[State, State], list[str]] = {}
    for (state, event), targets in TRANSITIONS.items():
        for target in targets:
            events.setdefault((state, target), []).append(WORDS[event.__name__])
    order = list(State)
    return [
        f"    {start.name} --> {end.name}: {', '.join(events[start, end])}"
        for start, end in sorted(events, key=lambda pair: (order.index(pair[0]), order.index(pair[1])))
    ]


def draw() -> str:
    """Return the whole page."""
    said = meanings()
    assert said.keys() == set(State), "a state without a word on crashes"
    lines = [
        HEAD,
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> NEW",
        "    NEW --> PREPARING: start, step 1 is sent",
        "    NEW --> UNDOING: start, a link is not in a healthy transaction",
        *arrows(),
        "    DONE --> [*]",
        "```",
        "",
        "| state | what a crash of the proxy there means |",
        "|---|---|",
        *(f"| `{state.name}` | {said[state]} |" for state in State),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    FILE.write_text(draw())
