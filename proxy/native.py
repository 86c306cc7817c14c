"""What compiled modules say to mypyc, which plain Python need not know: nothing of it is there at run time.

``mypyc_attr(allow_interpreted_subclasses=True)`` stands before a compiled class with subclasses in modules that are not
compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_said: bool) -> object:
        """Leave a class as it is."""
        return lambda given: given


__all__ = ["mypyc_attr"]
