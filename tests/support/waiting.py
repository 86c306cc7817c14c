"""Waiting, without an event loop, for what happens in another process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 20.0


def eventually(holds: Callable[[], object], what: str = "") -> None:
    """Look again and again until something holds; fail after PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, what or "it never came to hold"
        time.sleep(0.01)
