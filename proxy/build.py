"""Which build this is: its hot path as Python, or compiled by mypyc (setup.py). For those who tell it to somebody."""

from __future__ import annotations

from importlib.util import find_spec

PLAIN = "plain Python"
COMPILED = "compiled"


def build() -> str:
    """Return ``PLAIN`` or ``COMPILED``, by what one of the modules would be loaded from."""
    found = find_spec("proxy.session.lane")
    return PLAIN if found is None or str(found.origin).endswith(".py") else COMPILED
