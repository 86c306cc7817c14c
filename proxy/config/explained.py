"""What ``conf/reference.yaml`` says of each key: its comments, for the schema and the page that are made of it.

For a checkout: the file is no part of an installed pgchorus. Decides how comments belong to keys: the lines right above
a key, and what stands behind it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from proxy.config.form import FORM, Either, Named, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.form import Form

REFERENCE: Final = Path(__file__).parents[2] / "conf" / "reference.yaml"


def places(node: yaml.Node | None, form: Form, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield the path (names of the user's choice as ``*``) and the line, from 0, of every key in a file."""
    if isinstance(form, Either):
        form = form.section
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if isinstance(form, Named):
            yield f"{prefix}*", key.start_mark.line
            yield from places(value, form.form, f"{prefix}*.")
        elif isinstance(form, Section):
            yield f"{prefix}{key.value}", key.start_mark.line
            yield from places(value, form.keys[key.value].form, f"{prefix}{key.value}.")


def explanations(file: Path = REFERENCE) -> dict[str, str]:
    """Return what the comments say of each key, by its path; of names of the user's choice what is said first."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    found: dict[str, str] = {}
    for path, line in places(yaml.compose(text), FORM):
        if path in found:
            continue
        first = line
        while first and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        said = [above.lstrip().removeprefix("#").strip() for above in lines[first:line]]
        _, mark, behind = lines[line].partition(" # ")
        found[path] = " ".join([*said, behind.strip()] if mark else said).strip()
    return {path: said for path, said in found.items() if said}
