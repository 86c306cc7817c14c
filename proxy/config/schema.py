"""The form of a configuration as a JSON Schema, for editors: ``make docs`` writes ``conf/pgchorus.schema.json``.

Decides how each reader's values look to a checker that sees YAML's values and not its text; what keys there are is
``form``'s. It knows less than ``pgchorus check`` (what goes together, what stands in a DSN), and never refuses what
that takes.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from proxy import config_values as values
from proxy.config.explained import explanations
from proxy.config.form import FORM, Either, Named, Value

if TYPE_CHECKING:
    from proxy.config.form import Form, Key

#: YAML 1.1 reads ``268_435_456`` as a number, YAML 1.2, which editors have, as text. ``env:`` stands for secrets alone.
_DIGITS: Final = r"^[+-]?[0-9][0-9_]*$"
_TEXT: Final[dict[str, Any]] = {"type": "string", "minLength": 1}
#: What a reader takes where its name alone says it. A scalar that is text to us may be a number to YAML (``users: 7``).
_READERS: Final[dict[Any, dict[str, Any]]] = {
    values.port: {"type": "integer", "minimum": 1, "maximum": values.MAX_PORT},
    values.workers: {
        "anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": values.MAX_WORKERS}],
    },
    values.power_of_two: {"enum": [1 << power for power in range(values.MAX_SLOTS.bit_length())]},
    values.share: {"type": "number", "minimum": 0, "maximum": 1},
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a whole configuration."""
    said = explanations()
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pgchorus",
        "description": "The configuration of pgchorus. `pgchorus check` says more than this can.",
    }
    return head | _of(FORM, "", said)


def _of(form: Form, path: str, said: dict[str, str]) -> dict[str, Any]:
    if isinstance(form, Either):
        return {"anyOf": [_scalar(form.scalar), _of(form.section, path, said)]}
    if isinstance(form, Value):
        return _scalar(form)
    if isinstance(form, Named):
        return {
            "type": "object",
            "minProperties": form.least,
            "additionalProperties": _explained(_of(form.form, f"{path}*.", said), f"{path}*", said),
        }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [name for name, key in form.keys.items() if key.default is ...],
        "properties": {name: _key(key, f"{path}{name}", said) for name, key in form.keys.items()},
    }


def _key(key: Key, path: str, said: dict[str, str]) -> dict[str, Any]:
    found = _explained(_of(key.form, f"{path}.", said), path, said)
    if key.default is None:  # a section, or a value, may be left empty where it may be left out
        return {"anyOf": [found, {"type": "null"}]}
    return found | {"default": key.default} if isinstance(key.default, str | int | float) else found


def _explained(found: dict[str, Any], path: str, said: dict[str, str]) -> dict[str, Any]:
    return {"description": said[path]} | found if path in said else found


def _scalar(form: Value) -> dict[str, Any]:
    read = form.read
    if isinstance(read, values.Choice):
        # `on` and `off` are truth values to YAML 1.1, `no` to nobody who means a word.
        truths = [word == "on" for word in read.words if word in ("on", "off")]
        return {"enum": [*read.words, *truths]}
    if isinstance(read, values.Number):
        kind = "integer" if read.whole else "number"
        number: dict[str, Any] = {"type": kind, "minimum": read.least}
        return {"anyOf": [number, {"type": "string", "pattern": _DIGITS}]} if read.whole else number
    if read in _READERS:
        return _READERS[read]
    return _TEXT if form.secret else {"type": ["string", "number", "boolean"]}


def main() -> None:
    """Write the schema to standard output."""
    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")


if __name__ == "__main__":
    main()
