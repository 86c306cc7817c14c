"""Pages of the documentation that several commands write, each its own section."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_first(page: Path, text: str) -> None:
    """Write what comes before the first section; the sections stay."""
    old = page.read_text() if page.exists() else ""
    _, mark, sections = old.partition("\n## ")
    page.write_text(text.rstrip("\n") + "\n" + (f"{mark}{sections}" if mark else ""))


def write_section(page: Path, heading: str, text: str) -> None:
    """Write one section, at the place of the old one or at the end; ``heading`` begins with ``## ``."""
    parts = (page.read_text() if page.exists() else "").rstrip("\n").split("\n## ")
    section = f"{heading.removeprefix('## ')}\n\n{text.rstrip()}\n"
    title = section.partition("\n")[0]
    kept = [part for part in parts[1:] if part.partition("\n")[0] != title]
    page.write_text("\n## ".join([parts[0].rstrip("\n") + "\n", *(part.rstrip("\n") + "\n" for part in kept), section]))
