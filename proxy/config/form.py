"""The form of a configuration: a tree of sections and values, declared once.

Reading, the list of known keys and the test of ``conf/reference.yaml`` go by it. A new key is one line here, one field
in ``settings`` and one argument in ``loading``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from proxy import config_values as values
from proxy.access import CONNECTIONS, METHODS
from proxy.config.settings import DEFAULT_PORT, READ_FROM, SHARD_LOGINS
from proxy.limits import SECTIONS, Limits
from proxy.logs import FORMS, LEVELS
from router.cluster import DEFAULT_SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Value:
    """A leaf. ``read`` makes a value of a scalar's text, or raises Wrong."""

    read: Callable[[str], Any]
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section. Without a default it must be there."""

    form: Form
    default: Any = ...


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping with known keys, each read by its own form."""

    keys: Mapping[str, Key]


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping from names of the user's choice. ``name`` makes the key of a name's text, or raises Wrong."""

    name: Callable[[str], Any]
    form: Form
    least: int = 0


@dataclass(frozen=True, slots=True)
class Either:
    """A scalar, or a section."""

    scalar: Value
    section: Section


Form = Value | Section | Named | Either


def _limits_form() -> Section:
    """Make the form of ``limits`` from the fields of the dataclass."""
    sections: dict[str, dict[str, Key]] = {name: {} for name in SECTIONS}
    for item in fields(Limits):
        section = next(name for name in SECTIONS if item.name.startswith(f"{name}_"))
        number = values.number(whole=isinstance(item.default, int), least=item.metadata["minimum"])
        sections[section][item.name.removeprefix(f"{section}_")] = Key(Value(number), item.default)
    return Section({name: Key(Section(keys), None) for name, keys in sections.items()})


_PLACEMENT = Either(
    Value(values.choice("reference", "home", more="or {key: COLUMN}")),
    Section({"key": Key(Value(values.identifier))}),
)
_TABLES = {
    "tables": Key(Named(values.table_name, _PLACEMENT), None),
    "functions": Key(Named(values.function_name, Value(values.choice("pure", "home", "local"))), None),
    "slots": Key(Value(values.power_of_two), DEFAULT_SLOTS),
}
_DATABASE = Section(
    {
        "shards": Key(Named(values.gid_name, Value(values.dsn, secret=True), least=1)),
        "home": Key(Value(values.text)),
        "spread": Key(Value(values.names), ()),
        "read_from": Key(Value(values.choice(*READ_FROM)), READ_FROM[0]),
        **_TABLES,
    }
)
_RULE = Section(
    {
        "method": Key(Value(values.choice(*METHODS))),
        "connection": Key(Value(values.choice(*CONNECTIONS)), "any"),
        "networks": Key(Value(values.networks), ()),
        "databases": Key(Value(values.ruled_names), ()),
        "users": Key(Value(values.ruled_names), ()),
    }
)
_TLS = Section(
    {
        "certificate": Key(Value(values.text)),
        "key": Key(Value(values.text), None),
        "client_ca": Key(Value(values.text), None),
        "minimum_version": Key(Value(values.choice("1.2", "1.3")), "1.2"),
    }
)
_CONSOLE = Section({"admins": Key(Value(values.some_names), ()), "readers": Key(Value(values.some_names), ())})
_SWITCH = Value(values.choice("on", "off"))
_LOG = Section(
    {
        "level": Key(Value(values.choice(*LEVELS)), "info"),
        "format": Key(Value(values.choice(*FORMS)), "people"),
        "slow_ms": Key(Value(values.number(whole=False, least=0)), None),
        "connections": Key(_SWITCH, "on"),
        "errors": Key(_SWITCH, "on"),
    }
)
_TRACING = Section(
    {
        "endpoint": Key(Value(values.text)),
        "sample": Key(Value(values.share), 0.0),
        "service": Key(Value(values.text), "pgchorus"),
    }
)
FORM = Section(
    {
        "cluster": Key(Value(values.gid_name)),
        "listen": Key(
            Section({"host": Key(Value(values.text), "127.0.0.1"), "port": Key(Value(values.port), DEFAULT_PORT)}), None
        ),
        "metrics": Key(Section({"host": Key(Value(values.text), "127.0.0.1"), "port": Key(Value(values.port))}), None),
        "log": Key(_LOG, None),
        "tracing": Key(_TRACING, None),
        "tls": Key(_TLS, None),
        "console": Key(_CONSOLE, None),
        "handover": Key(Value(values.text), None),
        "workers": Key(Value(values.workers), 1),
        "auth": Key(
            Section(
                {
                    "method": Key(Value(values.choice(*METHODS))),
                    "rules": Key(Named(values.text, _RULE), None),
                    "users": Key(Named(values.text, Value(values.password, secret=True)), None),
                    "shards": Key(Value(values.choice(*SHARD_LOGINS)), "password"),
                }
            )
        ),
        "databases": Key(Named(values.text, _DATABASE, least=1)),
        "limits": Key(_limits_form(), None),
    }
)
TABLES_FORM = Section({**_TABLES, "tables": Key(Named(values.table_name, _PLACEMENT, least=1))})


def known_keys(form: Form = FORM, prefix: str = "") -> Iterator[str]:
    """Yield the path of every key there is; ``*`` stands for a name of the user's choice."""
    if isinstance(form, Either):
        form = form.section
    if isinstance(form, Named):
        yield f"{prefix}*"
        yield from known_keys(form.form, f"{prefix}*.")
    elif isinstance(form, Section):
        for name, key in form.keys.items():
            yield f"{prefix}{name}"
            yield from known_keys(key.form, f"{prefix}{name}.")
