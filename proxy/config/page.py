"""Every key of a configuration as a document: ``python -m proxy.config.page > docs/configuration.md`` (``make docs``).

Decides only how the page reads: keys and defaults are ``form``'s, what they mean is in ``conf/reference.yaml``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from proxy.config.explained import explanations
from proxy.config.form import FORM, Either, Named, Section, Value
from proxy.config.schema import schema
from proxy.config_values import some_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.form import Form, Key

_HEAD: Final = """# The configuration

One YAML file. This page is made from the source (`make docs`); [conf/reference.yaml](../conf/reference.yaml) is the
same as a file, with every key in its place. `NAME` stands for a name of your choice.

```console
$ pgchorus check -c pgchorus.yaml
```

reads it without a network and tells each mistake with its line and what would be right. Editors with a language server
for YAML complete and check it by the JSON Schema in [conf/pgchorus.schema.json](../conf/pgchorus.schema.json), which a
first line names:

```yaml
# yaml-language-server: $schema=pgchorus.schema.json
```

Passwords and DSNs may stand elsewhere: `env:NAME` is an environment variable, `file:PATH` an ordinary file of
at most 64 KiB, relative to this one.
Names of tables and columns are read as in SQL: folded to lower case unless quoted. What `SIGHUP` and `RELOAD` read
again is in [operations.md](operations.md#starting-stopping-restarting).
"""


def document() -> str:
    """Return the whole page."""
    said = explanations()
    kinds = schema()["properties"]
    parts = [_HEAD]
    for name, key in FORM.keys.items():
        parts.append(f"## {name}\n")
        if name in said:
            parts.append(f"{_prose(said[name])}\n")
        rows = list(_rows(key, kinds[name], name, said))
        parts += ["| key | may be | default | |", "|---|---|---|---|", *rows, ""]
    return "\n".join(parts)


def _rows(key: Key, kind: dict[str, Any], path: str, said: dict[str, str], shown: str = "") -> Iterator[str]:
    """Yield the rows of a key and of what is below it; what is said of a heading's key is above its table."""
    shown = shown or path
    form = key.form
    meaning = _cell(said.get(path, "")) if "." in path else ""
    if isinstance(form, Value):
        default = "must be there" if key.default is ... else _default(key.default, form)
        yield f"| `{shown}` | {_may_be(kind)} | {default} | {meaning} |"
        return
    if "." in path or key.default is ...:
        needed = "must be there" if key.default is ... else ""
        kinds = _may_be(_scalar(kind)) + ", or keys" if isinstance(form, Either) else "keys"
        yield f"| `{shown}` | {kinds} | {needed} | {meaning} |"
    yield from _below(form, _object(kind), path, said, shown)


def _below(form: Form, kind: dict[str, Any], path: str, said: dict[str, str], shown: str) -> Iterator[str]:
    if isinstance(form, Either):
        form = form.section
    if isinstance(form, Section):
        for name, key in form.keys.items():
            yield from _rows(key, kind["properties"][name], f"{path}.{name}", said, f"{shown}.{name}")
    elif isinstance(form, Named):
        one, inner = f"{path}.*", kind["additionalProperties"]
        meaning = _cell(said.get(one, ""))
        if isinstance(form.form, Value):
            kinds = _may_be(inner)
        else:
            kinds = f"{_may_be(_scalar(inner))}, or keys" if isinstance(form.form, Either) else "keys"
        yield f"| `{shown}.NAME` | {kinds} | | {meaning} |"
        yield from _below(form.form, _object(inner), one, said, f"{shown}.NAME")


def _object(kind: dict[str, Any]) -> dict[str, Any]:
    """Return what a schema says of a mapping, where it may also be something else."""
    if "anyOf" not in kind:
        return kind
    return next((_object(one) for one in kind["anyOf"] if one.get("type") == "object" or "anyOf" in one), kind)


def _scalar(kind: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in kind["anyOf"] if one.get("type") != "object")


def _may_be(kind: dict[str, Any]) -> str:
    """Return in words what a value may be, from its schema."""
    if "enum" in kind:
        words = kind["enum"]
        if all(isinstance(word, int) for word in words):
            return f"a power of two up to {words[-1]}"
        return ", ".join(f"`{word}`" for word in words if isinstance(word, str))
    if "anyOf" in kind:
        return " or ".join(_may_be(one) for one in kind["anyOf"] if one.get("type") not in ("null", "string"))
    if kind.get("type") in ("integer", "number"):
        noun = "a whole number" if kind["type"] == "integer" else "a number"
        upto = (
            f"from {kind['minimum']} to {kind['maximum']}" if "maximum" in kind else f"of at least {kind['minimum']:g}"
        )
        return f"{noun} {upto}"
    return f"`{kind['const']}`" if "const" in kind else "text"


def _default(value: object, form: Value) -> str:
    if value is None:
        return "none"
    if value == ():
        return "nobody" if form.read is some_names else "all"
    if isinstance(value, int) and value >= 10_000:  # noqa: PLR2004 - where digits are hard to count
        return f"`{value:_}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _prose(text: str) -> str:
    return text.replace("<", "&lt;")


def main() -> None:
    """Write the page to standard output."""
    sys.stdout.write(document())


if __name__ == "__main__":
    main()
