"""YAML in, frozen settings and ``router.cluster`` values out. The only reader and writer of YAML.

The form is declared once, in ``FORM``: reading, the list of known keys and the test of ``conf/reference.yaml`` go by
it. A mistake names file, line, key path, what is wrong and what would be right; all mistakes of a file are reported
together. Unknown and repeated keys are mistakes. Secrets may stand elsewhere: ``env:NAME`` or ``file:PATH`` (relative
to the file). No message shows a secret.

Decides what a configuration may say. Leaves to others whether the shards agree with it (``pgchorus doctor``, the
start).
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import yaml

from proxy import config_values as values
from proxy.access import CONNECTIONS, METHODS, Rule
from proxy.config_values import Wrong
from proxy.limits import SECTIONS, Limits
from proxy.wire.scram import is_verifier
from router.cluster import DEFAULT_SLOTS, Cluster, Database, Home, Placement, Reference, Sharded, TableName, Vouch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_NEED_USERS = ("scram-sha-256", "md5", "password")
SHARD_LOGINS = ("password", "trust")
DEFAULT_PORT = 6432
CONSOLE_DATABASE = "pgchorus"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Auth:
    """How clients prove who they are. ``users`` are clear passwords or SCRAM verifiers, by role.

    The first of ``rules`` that fits a client names the method; ``method`` is for those whom none fits.
    ``shards`` says how the clients' roles log in to the shards: with the same password, or by trust (the shards let the
    proxy in: a private network, certificates in the DSN).
    """

    method: str
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    shards: str = "password"
    rules: tuple[Rule, ...] = ()

    @property
    def passwords(self) -> Mapping[str, str]:
        """Passwords for logging in to the shards, by role."""
        return {} if self.shards == "trust" else self.users


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS towards clients: files in PEM. ``key`` may stand in the certificate's file."""

    certificate: Path
    key: Path | None = None
    client_ca: Path | None = None
    minimum_version: str = "1.2"


@dataclass(frozen=True, slots=True)
class Console:
    """Who may use the console: ``admins`` everything, ``readers`` SHOW."""

    admins: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """One logical database: what the router knows of it, and its shards' DSNs in the same order."""

    logical: Database
    dsns: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Config:
    """All that one proxy is told. ``cluster`` and ``databases`` have the same databases under the same names."""

    file: str
    cluster: Cluster
    databases: Mapping[str, DatabaseConfig]
    listen: Address
    metrics: Address | None
    workers: int
    auth: Auth
    limits: Limits
    tls: Tls | None = None
    console: Console = field(default_factory=Console)


@dataclass(frozen=True, slots=True)
class Tables:
    """Where the rows of tables live, and what is vouched for functions: a database's part of the configuration."""

    placements: Mapping[TableName, Placement]
    functions: Mapping[str, Vouch]
    slots: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in a file. ``line`` counts from 1; ``path`` is the key's, with dots."""

    file: str
    line: int
    path: str
    wrong: str
    right: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: {self.path}: " if self.path else f"{self.file}:{self.line}: "
        return f"{where}{self.wrong}; {self.right}" if self.right else f"{where}{self.wrong}"


class ConfigError(Exception):
    """A file cannot be used. ``mistakes`` are all that were found, in the order of their lines."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: mistake.line))
        super().__init__("\n".join(map(str, self.mistakes)))


# The form: a tree of sections and values.


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
        **_TABLES,
    }
)
_RULE = Section(
    {
        "method": Key(Value(values.choice(*METHODS))),
        "connection": Key(Value(values.choice(*CONNECTIONS)), "any"),
        "networks": Key(Value(values.networks), ()),
        "databases": Key(Value(values.names), ()),
        "users": Key(Value(values.names), ()),
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
FORM = Section(
    {
        "cluster": Key(Value(values.gid_name)),
        "listen": Key(
            Section({"host": Key(Value(values.text), "127.0.0.1"), "port": Key(Value(values.port), DEFAULT_PORT)}), None
        ),
        "metrics": Key(Section({"host": Key(Value(values.text), "127.0.0.1"), "port": Key(Value(values.port))}), None),
        "tls": Key(_TLS, None),
        "console": Key(_CONSOLE, None),
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


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "mapping"
    return "list" if isinstance(node, yaml.SequenceNode) else "single value"


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


class Reader:
    """Reads one file by a form; mistakes are collected, and what is wrong is None in the result."""

    def __init__(self, file: Path, environment: Mapping[str, str]) -> None:
        self.file = file
        self.environment = environment
        self.mistakes: list[Mistake] = []
        self._lines: dict[str, int] = {}

    def load(self, form: Section) -> dict[str, Any]:
        """Return the file's content as nested dicts with every default filled in; raises ConfigError."""
        try:
            root = yaml.compose(self.file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([Mistake(str(self.file), 1, "", f"cannot be read: {error}", "")]) from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "is not YAML"
            line = mark.line + 1 if mark is not None else 1
            raise ConfigError([Mistake(str(self.file), line, "", problem, "the file must be valid YAML")]) from error
        if root is None:
            root = yaml.MappingNode("tag:yaml.org,2002:map", [], None, None)
        content = self._section(root, form, "")
        if content is None:
            raise ConfigError(self.mistakes)
        return content

    def wrong(self, path: str, wrong: str, right: str) -> None:
        """Note a mistake at a path that was read before (or, if it was left out, at the nearest key above it)."""
        at = path
        while at and at not in self._lines:
            at = at.rpartition(".")[0]
        self.mistakes.append(Mistake(str(self.file), self._lines.get(at, 1), path, wrong, right))

    def check(self) -> None:
        """Raise ConfigError if there was any mistake."""
        if self.mistakes:
            raise ConfigError(self.mistakes)

    def _read(self, node: yaml.Node, form: Form, path: str) -> Any:
        if isinstance(form, Either):
            return self._read(node, form.scalar if isinstance(node, yaml.ScalarNode) else form.section, path)
        if isinstance(form, Section):
            return self._section(node, form, path)
        if isinstance(form, Named):
            return self._named(node, form, path)
        if not isinstance(node, yaml.ScalarNode):
            self.wrong(path, f"is a {_kind(node)}", "give one value")
            return None
        try:
            return form.read(self._secret(node.value) if form.secret else node.value)
        except Wrong as error:
            self.wrong(path, error.wrong, error.right)
            return None

    def _secret(self, text: str) -> str:
        if text.startswith("env:"):
            name = text.removeprefix("env:")
            if name not in self.environment:
                raise Wrong(f"the environment variable {name} is not set", f"set {name} before the start")
            return self.environment[name]
        if text.startswith("file:"):
            where = self.file.parent / text.removeprefix("file:")
            try:
                return where.read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not UTF-8"
                raise Wrong(
                    f"the file {where} cannot be read: {reason}", "give file:PATH of a readable file"
                ) from error
        return text

    def _items(self, node: yaml.Node, path: str) -> Iterator[tuple[str, str, yaml.Node]]:
        """Yield text, path and value node of each key, repeated ones but once."""
        if not isinstance(node, yaml.MappingNode):
            empty = isinstance(node, yaml.ScalarNode) and not node.value
            self.wrong(path, "is empty" if empty else f"is a {_kind(node)}", "give key: value pairs")
            return
        seen: dict[str, int] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._lines[path] = line
                self.wrong(path, "has a key that is no plain text", "write name: value")
                continue
            where = f"{path}.{key.value}" if path else str(key.value)
            if key.value in seen:
                self._lines[where] = line
                self.wrong(where, f"is there twice (first in line {seen[key.value]})", "keep one")
                continue
            seen[key.value] = self._lines[where] = line
            yield str(key.value), where, item

    def _section(self, node: yaml.Node, form: Section, path: str) -> dict[str, Any] | None:
        before = len(self.mistakes)
        found: dict[str, Any] = {}
        for name, where, item in self._items(node, path):
            key = form.keys.get(name)
            if key is None:
                near = difflib.get_close_matches(name, form.keys, n=1)
                right = f"did you mean {near[0]}?" if near else f"known keys here: {', '.join(form.keys)}"
                self.wrong(where, "is not a known key", right)
            elif key.default is None and isinstance(item, yaml.ScalarNode) and item.value in ("", "~", "null"):
                found[name] = None
            else:
                found[name] = self._read(item, key.form, where)
        if not isinstance(node, yaml.MappingNode):
            return None
        for name, key in form.keys.items():
            if name not in found:
                if key.default is ...:
                    where = f"{path}.{name}" if path else name
                    if not any(mistake.path == where for mistake in self.mistakes[before:]):
                        self.wrong(where, "is missing", "it has no default: conf/reference.yaml says what it means")
                found[name] = None if key.default is ... else key.default
        return found

    def _named(self, node: yaml.Node, form: Named, path: str) -> dict[Any, Any] | None:
        found: dict[Any, Any] = {}
        for text, where, item in self._items(node, path):
            value = self._read(item, form.form, where)
            try:
                name = form.name(text)
            except Wrong as error:
                self.wrong(where, error.wrong, error.right)
                continue
            if name in found:
                self.wrong(where, f"names {name} a second time", "keep one")
            found[name] = value
        if isinstance(node, yaml.MappingNode) and len(found) < form.least and not node.value:
            self.wrong(path, "is empty", f"name at least {form.least}")
        return found


def load(file: Path, environment: Mapping[str, str] | None = None) -> Config:
    """Read a configuration; raises ConfigError with every mistake in it."""
    reader = Reader(file, os.environ if environment is None else environment)
    content = reader.load(FORM)
    _check_auth(reader, content["auth"], content["tls"])
    databases = {
        name: made
        for name, database in (content["databases"] or {}).items()
        if database is not None and (made := _database(reader, name, database)) is not None
    }
    limits = Limits(
        **{
            f"{group}_{name}": value
            for group, part in (content["limits"] or {}).items()
            for name, value in (part or {}).items()
            if value is not None
        }
    )
    if CONSOLE_DATABASE in databases:
        reader.wrong(f"databases.{CONSOLE_DATABASE}", "is the name of the console", "give the database another name")
    if limits.fence_concurrent >= limits.control_per_shard:
        # Fences hold a control link to each shard while they wait for commits that need one to be finished.
        reader.wrong(
            "limits.fence.concurrent",
            f"is {limits.fence_concurrent}, and limits.control.per_shard is {limits.control_per_shard}",
            "leave at least one control link to each shard for finishing commits",
        )
    reader.check()
    auth = content["auth"]
    listen = content["listen"] or {"host": "127.0.0.1", "port": DEFAULT_PORT}
    return Config(
        file=str(file),
        cluster=Cluster(content["cluster"], {name: database.logical for name, database in databases.items()}),
        databases=databases,
        listen=Address(**listen),
        metrics=Address(**content["metrics"]) if content["metrics"] else None,
        workers=content["workers"],
        auth=Auth(auth["method"], auth["users"] or {}, auth["shards"], _rules(auth)),
        limits=limits,
        tls=_tls(file, content["tls"]),
        console=Console(**(content["console"] or {})),
    )


def load_tables(file: Path) -> Tables:
    """Read a file that has only ``tables``, ``functions`` and ``slots``; raises ConfigError."""
    reader = Reader(file, {})
    content = reader.load(TABLES_FORM)
    tables = _tables(content)
    reader.check()
    return tables


def dump(content: Mapping[str, Any]) -> str:
    """Return YAML for plain content (dicts, lists, text, numbers), in the order given."""
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=120)


def plain_tables(tables: Tables) -> dict[str, Any]:
    """Return placements as they stand in a file: the way back from ``load_tables``."""
    plain: dict[str, Any] = {
        "tables": {values.quoted_name(name): _plain(place) for name, place in tables.placements.items()}
    }
    if tables.functions:
        plain["functions"] = {name: vouch.value for name, vouch in tables.functions.items()}
    if tables.slots != DEFAULT_SLOTS:
        plain["slots"] = tables.slots
    return plain


def _plain(placement: Placement) -> object:
    if isinstance(placement, Sharded):
        return {"key": values.quoted(placement.key)}
    return "reference" if isinstance(placement, Reference) else "home"


def _rules(auth: dict[str, Any]) -> tuple[Rule, ...]:
    return tuple(Rule(name, **rule) for name, rule in (auth["rules"] or {}).items())


def _tls(file: Path, tls: dict[str, Any] | None) -> Tls | None:
    if tls is None:
        return None
    paths = {
        name: file.parent / tls[name] if tls[name] is not None else None for name in ("certificate", "key", "client_ca")
    }
    return Tls(paths["certificate"] or file, paths["key"], paths["client_ca"], tls["minimum_version"])


def _check_auth(reader: Reader, auth: dict[str, Any] | None, tls: dict[str, Any] | None) -> None:
    if not auth:
        return
    users = auth["users"] or {}
    rules = {f"auth.rules.{name}": rule for name, rule in (auth["rules"] or {}).items() if rule is not None}
    methods = {path: rule["method"] for path, rule in rules.items()} | {"auth": auth["method"]}
    for path, method in methods.items():
        if method in _NEED_USERS and not users and not reader.mistakes:
            reader.wrong("auth.users", "nobody could log in", 'give users: {ROLE: "env:NAME"}, or method: trust')
        if method == "cert" and (tls is None or tls["client_ca"] is None):
            reader.wrong(f"{path}.method", "needs certificates of clients", "give tls.client_ca, which signs them")
        if method == "md5" and any(secret is not None and is_verifier(secret) for secret in users.values()):
            reader.wrong(f"{path}.method", "cannot use SCRAM verifiers", "use scram-sha-256 or password")
    for path, rule in rules.items():
        if rule["connection"] == "tls" and tls is None:
            reader.wrong(f"{path}.connection", "can never be: there is no tls section", "give tls, or leave it out")
    _check_verifiers(reader, auth, users)


def _check_verifiers(reader: Reader, auth: dict[str, Any], users: Mapping[str, str | None]) -> None:
    if auth["shards"] == "trust":
        return
    for user, secret in users.items():
        if secret is not None and is_verifier(secret):
            reader.wrong(
                f"auth.users.{user}",
                "is a SCRAM verifier, which lets a client in here but cannot log in to a shard",
                "give the password (env:NAME or file:PATH), or auth.shards: trust if the shards ask for none",
            )


def _database(reader: Reader, name: str, content: dict[str, Any]) -> DatabaseConfig | None:
    path = f"databases.{name}"
    shards: dict[str, str] = content["shards"] or {}
    _check_distinct(reader, f"{path}.shards", shards)
    home = content["home"]
    if home is not None and shards and home not in shards:
        reader.wrong(f"{path}.home", f"{home} is no shard of this database", f"name one of {', '.join(shards)}")
    tables = _tables(content)
    if tables.slots < len(shards):
        reader.wrong(f"{path}.slots", f"{tables.slots} slots for {len(shards)} shards", "give more slots than shards")
    if reader.mistakes:
        return None
    names = tuple(shards)
    logical = Database(name, names, names.index(home), tables.placements, tables.functions, tables.slots)
    return DatabaseConfig(logical, tuple(shards.values()))


def _check_distinct(reader: Reader, path: str, shards: Mapping[str, str | None]) -> None:
    """Two shards in one place would have every row of a reference table twice."""
    seen: dict[tuple[object, ...], str] = {}
    for name, dsn in shards.items():
        if dsn is None:
            continue
        target = values.dsn_target(dsn)
        if target in seen:
            reader.wrong(f"{path}.{name}", f"is the same database as {seen[target]}", "give each shard its own")
        seen.setdefault(target, name)


def _tables(content: Mapping[str, Any]) -> Tables:
    placements: dict[TableName, Placement] = {}
    for table, place in (content["tables"] or {}).items():
        if isinstance(place, dict):
            placements[table] = Sharded(place["key"])
        elif place is not None:
            placements[table] = Reference() if place == "reference" else Home()
    functions = {name: Vouch(word) for name, word in (content["functions"] or {}).items() if word is not None}
    return Tables(placements, functions, content["slots"] or DEFAULT_SLOTS)
