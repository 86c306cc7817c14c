"""What a kind of finding is: values without behaviour. The kinds there are: ``kinds``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Severity(IntEnum):
    """How bad a finding is; the worst comes first."""

    ERROR = 0
    """Something fails, or an answer may be wrong."""
    WARNING = 1
    """Nothing is wrong yet, or it may be meant so."""
    NOTE = 2
    """Worth knowing."""

    def __str__(self) -> str:
        return self.name.lower()


ERROR: Final = Severity.ERROR
WARNING: Final = Severity.WARNING
NOTE: Final = Severity.NOTE


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of finding. ``what``: a clause; ``breaks``: what comes of it; ``mend``: in words, for the page."""

    name: str
    severity: Severity
    what: str
    breaks: str
    mend: str


@dataclass(frozen=True, slots=True)
class Area:
    """Kinds that belong together, under a title."""

    title: str
    kinds: tuple[Kind, ...]
