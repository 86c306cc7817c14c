"""The single values of a configuration: text in, checked value out, or Wrong. No YAML, no files, nothing of paths.

Names of tables and columns are read as Postgres reads them in SQL: folded to lower case unless quoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_network
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from proxy.twophase.gid import InvalidNameError, check_name
from proxy.wire.scram import Verifier
from router.cluster import TableName

if TYPE_CHECKING:
    from ipaddress import IPv4Network

MAX_IDENTIFIER_BYTES = 63
MAX_PORT = 65_535
MAX_WORKERS = 64
MAX_SLOTS = 1 << 16
DEFAULT_POSTGRES_PORT = 5432
RESERVED_SCHEMAS = ("information_schema", "pgchorus")

_HBA_MARKS = '+/@"'
_MAPPED = IPv6Network("::ffff:0:0/96")
_MD5 = re.compile("md5[0-9a-f]{32}")
_PLAIN = r"[A-Za-z_\u0080-\U0010ffff][A-Za-z0-9_$\u0080-\U0010ffff]*"
_QUOTED = r'"(?:[^"\0]|"")+"'
_PART = re.compile(f"{_PLAIN}|{_QUOTED}")
_QUALIFIED = re.compile(f"(?:({_PLAIN}|{_QUOTED})\\.)?({_PLAIN}|{_QUOTED})")
_FOLDED = re.compile(r"[a-z_][a-z0-9_$]*", re.ASCII)
_WHOLE = re.compile(r"[+-]?[0-9][0-9_]*", re.ASCII)
_FRACTION = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)


class Wrong(ValueError):  # noqa: N818 - it is raised to say what is wrong
    """What is wrong with a value, and what would be right."""

    def __init__(self, wrong: str, right: str) -> None:
        super().__init__(wrong)
        self.wrong = wrong
        self.right = right


def text(given: str) -> str:
    """Read any text but the empty one."""
    if not given:
        raise Wrong("is empty", "give a text")
    return given


@dataclass(frozen=True, slots=True)
class Choice:
    """Reads one of some words. ``more`` says what else would be right where the word stands."""

    words: tuple[str, ...]
    more: str = ""

    def __call__(self, given: str) -> str:
        """Return the word; raises Wrong."""
        if given not in self.words:
            right = " ".join(["use", " or ".join(self.words), self.more]).strip()
            raise Wrong(f"{given or 'nothing'} is not possible here", right)
        return given


def choice(*words: str, more: str = "") -> Choice:
    """Return a reader of one of some words."""
    return Choice(words, more)


@dataclass(frozen=True, slots=True)
class Number:
    """Reads a number of at least ``least``; underscores may part the digits of a whole one."""

    whole: bool
    least: float

    def __call__(self, given: str) -> float:
        """Return the number; raises Wrong."""
        kind = "a whole number" if self.whole else "a number"
        if not (_WHOLE if self.whole else _FRACTION).fullmatch(given):
            raise Wrong(f"{given!r} is not {kind}", f"give {kind} of at least {self.least:g}")
        value = int(given) if self.whole else float(given)
        if value < self.least:
            raise Wrong(f"{given} is too small", f"give {kind} of at least {self.least:g}")
        return value


def number(*, whole: bool, least: float) -> Number:
    """Return a reader of numbers of at least ``least``."""
    return Number(whole, least)


def share(given: str) -> float:
    """Read a part of a whole."""
    value = number(whole=False, least=0)(given)
    if value > 1:
        raise Wrong(f"{given} is more than all", "give a number from 0 to 1")
    return value


def port(given: str) -> int:
    """Read a TCP port."""
    value = int(number(whole=True, least=1)(given))
    if value > MAX_PORT:
        raise Wrong(f"{given} is not a TCP port", f"give a number up to {MAX_PORT}")
    return value


def workers(given: str) -> int:
    """Read how many processes serve; ``auto`` is 0: as many as there are cores for us."""
    if given == "auto":
        return 0
    value = int(number(whole=True, least=1)(given))
    if value > MAX_WORKERS:
        raise Wrong(f"{given} are too many processes", f"give a number up to {MAX_WORKERS}, or auto")
    return value


def names(given: str) -> tuple[str, ...]:
    """Read names with commas between them; ``all`` is every name, and so none."""
    parts = tuple(part.strip() for part in given.split(","))
    if not all(parts):
        raise Wrong("has an empty name", "give names with commas between them, or all")
    return () if parts == ("all",) else parts


def some_names(given: str) -> tuple[str, ...]:
    """Read names with commas between them; nobody is meant when there is none."""
    found = names(given) if given.strip() else ()
    if given.strip() == "all":
        raise Wrong("cannot be all", "name them, with commas between")
    return found


def ruled_names(given: str) -> tuple[str, ...]:
    """Read names of a rule. What means something else in pg_hba.conf would fit nobody here, and is a mistake."""
    found = names(given)
    for name in found:
        if name[0] in _HBA_MARKS:
            raise Wrong(f"{name} is no name", "groups (+), patterns (/), files (@) and quotes are not known: name them")
        if len(name.encode()) > MAX_IDENTIFIER_BYTES:
            raise Wrong(f"{name} is longer than {MAX_IDENTIFIER_BYTES} bytes", "give the name as Postgres has cut it")
    return found


def networks(given: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Read networks (or addresses) with commas between them; ``all`` is every address."""
    try:
        found = tuple(ip_network(part) for part in names(given))
    except ValueError as error:
        if isinstance(error, Wrong):
            raise
        raise Wrong(str(error), "write networks as 10.0.0.0/8 or fd00::/8, addresses as they are") from error
    for one in found:
        if isinstance(one, IPv6Network) and (one.network_address.scope_id or one.subnet_of(_MAPPED)):
            raise Wrong(f"{one} fits nobody", "an IPv4 address in IPv6 counts as IPv4, and scopes are not looked at")
    return found


def power_of_two(given: str) -> int:
    """Read a number of slots."""
    value = int(number(whole=True, least=1)(given))
    if value & (value - 1) or value > MAX_SLOTS:
        raise Wrong(f"{given} slots are not possible", f"give a power of two up to {MAX_SLOTS}")
    return value


def gid_name(given: str) -> str:
    """Read a name that becomes part of transaction ids."""
    try:
        return check_name(given)
    except InvalidNameError as error:
        raise Wrong(str(error), "it is part of every transaction id: choose another one") from error


def identifier(given: str) -> str:
    """Read a column's name."""
    if not _PART.fullmatch(given):
        raise Wrong(f"{given!r} is not a column's name", "write it as in SQL: name or '\"Name\"'")
    return _fold(given)


def table_name(given: str) -> TableName:
    """Read a table's name, ``public`` unless it says another schema."""
    found = _QUALIFIED.fullmatch(given)
    if found is None:
        raise Wrong(f"{given!r} is not a table's name", "write it as in SQL: name, schema.name or '\"Name\"'")
    schema = _fold(found[1]) if found[1] else "public"
    if schema in RESERVED_SCHEMAS or schema.startswith("pg_"):
        raise Wrong(f"schema {schema} is not yours", "place your own tables only")
    return TableName(schema, _fold(found[2]))


def function_name(given: str) -> str:
    """Read a function's name, with its schema or in ``public``: it stands for all functions of that name."""
    found = _QUALIFIED.fullmatch(given)
    if found is None:
        raise Wrong(f"{given!r} is not a function's name", "write it without arguments: name or schema.name")
    return f"{_fold(found[1]) if found[1] else 'public'}.{_fold(found[2])}"


def _fold(part: str) -> str:
    """Return the name that Postgres stores for a part that is written in SQL (it folds ASCII letters only)."""
    if part.startswith('"'):
        name = part[1:-1].replace('""', '"')
    else:
        name = "".join(letter.lower() if letter.isascii() else letter for letter in part)
    if len(name.encode()) > MAX_IDENTIFIER_BYTES:
        raise Wrong(
            f"{name} is longer than {MAX_IDENTIFIER_BYTES} bytes", "Postgres would cut it: give the stored name"
        )
    return name


def quoted(name: str) -> str:
    """Return a stored name as it would be written in SQL: the inverse of reading it."""
    return name if _FOLDED.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def quoted_name(table: TableName) -> str:
    """Return a table's name as it would be written in a configuration."""
    return quoted(table.name) if table.schema == "public" else f"{quoted(table.schema)}.{quoted(table.name)}"


def password(given: str) -> str:
    """Read a password, or a SCRAM verifier as Postgres stores it."""
    if not given:
        raise Wrong("is empty", "give a password, env:NAME or file:PATH")
    if _MD5.fullmatch(given):
        raise Wrong("is what Postgres keeps of a password for md5", "give the password, or a SCRAM verifier")
    if "\0" in given:
        raise Wrong("has a NUL in it", "no client could send that")
    if given.startswith("SCRAM-SHA-256$"):
        try:
            Verifier.parse(given)
        except ValueError as error:
            raise Wrong(f"looks like a SCRAM verifier, but {error}", "copy rolpassword of pg_authid whole") from error
    return given


_PRIMARIES = ("any", "read-write", "primary")


def dsn(given: str) -> str:
    """Read an asyncpg DSN. What it says is never repeated: there may be a password in it."""
    right = "write postgres://ROLE:PASSWORD@HOST:PORT/DATABASE (or env:NAME)"
    try:
        parts = urlsplit(given)
        target = dsn_target(given)
    except ValueError as error:
        raise Wrong("is not a DSN", right) from error
    if parts.scheme not in ("postgres", "postgresql"):
        raise Wrong("is not a DSN that begins with postgres://", right)
    if not target[0]:
        raise Wrong("names no host", right)
    wanted = parse_qs(parts.query).get("target_session_attrs", ["any"])[-1]
    if len(target[0]) > 1 and wanted not in _PRIMARIES:
        # What is sought among several hosts is the primary, whatever the word.
        raise Wrong(f"asks for {wanted} servers", "a shard is its primary: write target_session_attrs=read-write")
    return given


def dsn_target(given: str) -> tuple[tuple[tuple[str, int], ...], str]:
    """Return the hosts with their ports, and the database, that a DSN leads to; raises ValueError."""
    parts = urlsplit(given)
    query = parse_qs(parts.query)
    login, _, hosts = parts.netloc.rpartition("@")
    hosts = hosts or ",".join(query.get("host", []))
    default_port = query.get("port", [str(DEFAULT_POSTGRES_PORT)])[-1]
    user = login.partition(":")[0] or query.get("user", [""])[-1]
    database = parts.path.lstrip("/") or query.get("dbname", query.get("database", [user]))[-1]
    return tuple(_host(host, default_port) for host in hosts.split(",") if host), database


def _host(given: str, default_port: str) -> tuple[str, int]:
    name, colon, number_text = given.rpartition(":")
    if not colon or given.endswith("]"):
        name, number_text = given, default_port
    value = int(number_text)
    if not 0 < value <= MAX_PORT:
        raise ValueError("not a port")
    return name.lower(), value
