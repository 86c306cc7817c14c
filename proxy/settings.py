"""What a session has set, and how a pooled link is brought to it.

A link serves many sessions, one transaction at a time. It remembers which settings were applied to it last
(``link.settings``); when a session with other settings checks it out, one simple query in the same packet resets it and
applies the session's own.

Decided here: which texts reproduce a session's settings, what a rollback undoes, which links are beyond resetting. Left
to others: reading SET statements (router.statement), sending (proxy.transaction).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final

from proxy.encodings import UTF8, Encoding
from proxy.errors import ProxyError
from router.builtins import names
from router.errors import refusal
from router.own_schema import quote_identifier

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# SET SESSION AUTHORIZATION and ROLE are not reset by RESET ALL; the former takes the latter with it, but only when it
# changes.
RESET_SQL = "SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL"

# Parameters of a StartupMessage that are not settings.
NOT_SETTINGS = frozenset({"user", "database", "options", "replication"})

#: Settings under which several shards are used, whatever a packet, a role or a database says: with others Postgres
#: reads a text otherwise than the router, which would then send it to too few shards, or than the proxy has written it.
READING: Final = {
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "session_replication_role": "origin",
}

#: Settings that Postgres looks at when a statement runs, not when it is parsed, or for which it parses a prepared one
#: anew (search_path, role). Others, as DateStyle, say how literals are read. '' is SET CONSTRAINTS and the like.
WHEN_RUN: Final = names(
    """
    application_name client_min_messages constraint_exclusion cursor_tuple_fraction default_transaction_deferrable
    default_transaction_isolation default_transaction_read_only deadlock_timeout extra_float_digits
    idle_in_transaction_session_timeout idle_session_timeout jit lock_timeout log_min_duration_statement log_statement
    maintenance_work_mem plan_cache_mode random_page_cost role row_security search_path session_authorization
    statement_timeout synchronous_commit temp_buffers transaction_timeout work_mem
    """
) | {""}

#: Settings by which Postgres reads literals (and "= NULL") when it parses a statement: what they say is said then.
READ_AT_PARSE: Final = names(
    """
    array_nulls backslash_quote datestyle intervalstyle lc_monetary standard_conforming_strings timezone
    timezone_abbreviations transform_null_equals xmloption
    """
)

_SET_CONFIG: Final = re.compile(
    r"SELECT pg_catalog\.set_config\('(?P<name>(?:[^'\\]|'')*)', (?P<value> ?E?'(?:[^']|'')*'), false\)"
)
#: Of these SET makes one element of each string.
_LISTS: Final = frozenset(
    {
        "search_path",
        "temp_tablespaces",
        "local_preload_libraries",
        "session_preload_libraries",
        "unix_socket_directories",
    }
)
_PLAIN_NAME: Final = re.compile(r'[a-z_][a-z0-9_]*|"\$user"')
RESET_ALL: Final = "reset all"  # in the place of a setting's name

#: Which of them are set, by what SQL: in the order of their names. Equal ones read a text alike.
Reading = tuple[tuple[str, str], ...]


def reading_of(made: Iterable[tuple[str, str]]) -> Reading:
    """Return what settings, in the order they were made, come to for literals."""
    found = {name.lower(): sql for name, sql in made}
    return tuple(sorted((name, sql) for name, sql in found.items() if name in READ_AT_PARSE))


def check_reading(values: Sequence[str]) -> None:
    """Refuse a session that would begin with other values of ``READING`` than these. Raises ProxyError."""
    for (name, right), value in zip(READING.items(), values, strict=True):
        if value != right:
            raise ProxyError.of_refusal(refusal("session-start", name=name, value=value))


def quote_literal(value: str) -> str:
    """Return an SQL string literal that means ``value`` whatever standard_conforming_strings says."""
    escaped = value.replace("'", "''")
    if "\\" in escaped:
        return " E'" + escaped.replace("\\", "\\\\") + "'"
    return "'" + escaped + "'"


def set_config_sql(name: str, value: str, *, local: bool = False) -> str:
    """Return SQL that sets ``name`` to a value in the form of a start-up packet (a list setting is one string)."""
    until = "true" if local else "false"
    return f"SELECT pg_catalog.set_config({quote_literal(name)}, {quote_literal(value)}, {until})"


def without_snapshot(sql: str) -> str:
    """Return a text made of ``set_config_sql`` as one of SETs: behind a SELECT an isolation level comes too late.

    What SET would write otherwise than it is given stays a SELECT: a list whose elements it would quote, or part.
    """
    return _SET_CONFIG.sub(_set, sql)


def _set(call: re.Match[str]) -> str:
    name, value = call["name"].replace("''", "'"), call["value"]
    if name.lower() in _LISTS:
        elements = value.removeprefix("'").removesuffix("'").split(", ")
        if not all(_PLAIN_NAME.fullmatch(element) for element in elements):
            return call[0]
        value = ", ".join(quote_literal(element.strip('"')) for element in elements)
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
    return f"SET {quoted} TO {value}"


def _words(text: str) -> list[str]:
    """Split at white space; a backslash takes the next character as it is (pg_split_opts of the server)."""
    words: list[str] = []
    word, started = "", False
    characters = iter(text)
    for character in characters:
        if character.isspace():
            if started:
                words.append(word)
            word, started = "", False
        else:
            word, started = word + (next(characters, "") if character == "\\" else character), True
    return [*words, word] if started else words


# What follows -f, and -t, in ``options``; of -t Postgres compares as much as is here.
_PLANS_OFF: Final = {
    "s": "enable_seqscan",
    "i": "enable_indexscan",
    "o": "enable_indexonlyscan",
    "b": "enable_bitmapscan",
    "t": "enable_tidscan",
    "n": "enable_nestloop",
    "m": "enable_mergejoin",
    "h": "enable_hashjoin",
}
_STATISTICS: Final = {"pa": "log_parser_stats", "pl": "log_planner_stats", "e": "log_executor_stats"}
_PLAIN_SWITCHES: Final = {
    "e": ("datestyle", "euro"),
    "s": ("log_statement_stats", "true"),
    "O": ("allow_system_table_mods", "true"),
    "F": ("fsync", "false"),
    "i": ("listen_addresses", "*"),
    "l": ("ssl", "true"),
}
# Those of a whole server: SET of what they stand for is refused as they are.
_VALUE_SWITCHES: Final = {
    "S": "work_mem",
    "B": "shared_buffers",
    "N": "max_connections",
    "h": "listen_addresses",
    "k": "unix_socket_directories",
    "p": "port",
}
_IGNORED_SWITCHES: Final = frozenset("bEjnT")
_IGNORED_WITH_VALUE: Final = frozenset("CDrv")
_DEBUG: Final = ((2, "log_statement", "all"), (3, "debug_print_parse", "true"), (4, "debug_print_plan", "true"),
                 (5, "debug_print_rewritten", "true"))  # fmt: skip
_NUMBER: Final = re.compile(r"\s*([+-]?\d+)")


def parse_options(options: str) -> list[tuple[str, str]]:
    """Read the ``options`` start-up parameter: ``-c name=value``, ``--name=value``, and the server's short switches.

    Raises ProxyError (42601) for anything else: a switch that is not understood must not be dropped. So are those that
    a running server does not take, and -P and -W, which cannot be passed on by SET.
    """
    settings: list[tuple[str, str]] = []
    pending = iter(_words(options))
    for item in pending:
        if not item.startswith("-") or item == "-":
            raise _bad_option(item)
        if item == "--":
            if (left := next(pending, None)) is not None:
                raise _bad_option(left)
            break
        if item.startswith("--"):
            settings.append(_assignment("--", item[2:]))
            continue
        switches = iter(item[1:])
        for switch in switches:
            if switch in _PLAIN_SWITCHES:
                settings.append(_PLAIN_SWITCHES[switch])
                continue
            if switch in _IGNORED_SWITCHES:
                continue
            value = "".join(switches) or next(pending, None)
            found = None if value is None else _with_value(switch, value)
            if found is None:
                raise _bad_option(item if value is None or item.endswith(value) else value)
            settings += found
    return settings


def _with_value(switch: str, value: str) -> list[tuple[str, str]] | None:  # noqa: PLR0911 - one line for each kind
    """Return what a switch with a value sets; None: nothing that is known."""
    if switch == "c":
        return [_assignment("-c ", value)]
    if switch in _VALUE_SWITCHES:
        return [(_VALUE_SWITCHES[switch], value)]
    if switch in _IGNORED_WITH_VALUE:
        return []
    if switch == "d":
        return _debug(value)
    if switch == "f" and value[:1] in _PLANS_OFF:
        return [(_PLANS_OFF[value[0]], "false")]
    if switch == "t":
        return next(([(name, "true")] for begin, name in _STATISTICS.items() if value.startswith(begin)), None)
    return None


def _debug(value: str) -> list[tuple[str, str]]:
    """Return what -d sets (set_debug_options of the server, which reads the number by atoi)."""
    number = _NUMBER.match(value)
    level = int(number[1]) if number is not None else 0
    messages = f"debug{level}" if level > 0 else "notice"
    return [("log_min_messages", messages), *((name, what) for least, name, what in _DEBUG if level >= least)]


def boolean(text: str) -> bool | None:
    """Read a boolean as Postgres does (parse_bool); None: it is none."""
    word = text.lower()
    if word in {"1", "on"} or (word and ("true".startswith(word) or "yes".startswith(word))):
        return True
    if word in {"0", "of", "off"} or (word and ("false".startswith(word) or "no".startswith(word))):
        return False
    return None


def _assignment(switch: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ProxyError("42601", f"{switch}{text} requires a value")
    if not name:
        raise _bad_option(switch.strip() + text)
    return name.replace("-", "_").lower(), value


def _bad_option(item: str) -> ProxyError:
    message = f"invalid command-line argument for server process: {item}"
    return ProxyError("42601", message, hint='Try "postgres --help" for more information.')


@dataclass(frozen=True, slots=True)
class Applied:
    """Settings in the order they were made: (name, SQL) pairs. Equal values mean equal behaviour of a link."""

    statements: tuple[tuple[str, str], ...] = ()

    @property
    def resettable(self) -> bool:
        """A custom setting stays '' instead of NULL after RESET, which policies could see: such a link is closed."""
        return not any("." in name for name, _ in self.statements)

    @property
    def names_role(self) -> bool:
        """Whether rights depend on these settings."""
        return any(name in ("role", "session_authorization") for name, _ in self.statements)

    def queries(self) -> list[bytes]:
        """Return the texts of the simple queries that bring any link to these settings: one, most often.

        A link may have any client_encoding when they arrive. It has UTF8 behind a reset, and a message is read as it
        was when that arrived: so what is not ASCII comes in a second one.
        """
        # A timeout comes last: on one Postgres nothing of this is under it.
        made = "; ".join(text for _, text in sorted(self.statements, key=_is_timeout))
        if made.isascii():
            return [f"{RESET_SQL}; {made}".encode() if made else RESET_SQL.encode()]
        return [RESET_SQL.encode(), made.encode("utf-8", "surrogateescape")]


_NO_TIMEOUT = "pg_catalog.set_config('statement_timeout', '0', false)"


def _is_timeout(statement: tuple[str, str]) -> bool:
    return statement[0] == "statement_timeout"


NOTHING_APPLIED = Applied()
# Equal settings are one object, so that most links are seen to have the right ones by identity.
MANY_SETTINGS = 10_000
_known: dict[Applied, Applied] = {NOTHING_APPLIED: NOTHING_APPLIED}
UNKNOWN = object()  # link.settings after something that may have changed settings without a trace


@dataclass(frozen=True, slots=True)
class Unsure:
    """``link.settings`` as UNKNOWN, of a link that had custom settings before, which nobody else may find there."""

    had: Applied


def unsure(settings: object) -> object:
    """Return what a link with some settings has when something may have changed them without a trace."""
    if isinstance(settings, Unsure):
        return settings
    return Unsure(settings) if isinstance(settings, Applied) and not settings.resettable else UNKNOWN


def can_become(settings: object, wanted: Applied) -> bool:
    """Whether a link with some settings can be brought to those wanted; one that cannot must be closed."""
    had = settings.had if isinstance(settings, Unsure) else settings
    return not isinstance(had, Applied) or had.resettable or had == wanted


@dataclass(slots=True)
class SessionSettings:
    """The settings of one session: start-up parameters, then SETs; with a snapshot to go back to on ROLLBACK."""

    startup: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    custom: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)  # start-up parameters of the proxy's own, which no shard gets
    applied: Applied = NOTHING_APPLIED
    reading: Reading = ()  # of ``applied``
    encoding: Encoding = UTF8  # what client_encoding is now, which a SET LOCAL may have changed as well
    idle_limit_s: float = inf  # after which a server closes an idle link that has these settings

    def _refresh(self) -> None:
        empty = [item for item in self.custom.items() if item[0] not in self.made and item[0] not in self.startup]
        applied = Applied((*self.startup.items(), *empty, *self.made.items()))
        if len(_known) >= MANY_SETTINGS:
            _known.clear()
        self.applied = _known.setdefault(applied, applied)
        self.reading = reading_of(applied.statements)

    def touch(self, name: str) -> None:
        """Note that a custom setting was named: from then on it is '' for this session when it is nothing else.

        Nothing takes that back in Postgres: no RESET, no ROLLBACK, no DISCARD ALL.
        """
        if "." in name and name not in self.custom:
            # RESET makes it '' as well. To assign that would fail where an extension defines the name, and would give a
            # warning when its library is loaded later.
            self.custom[name] = "RESET " + ".".join(quote_identifier(part) for part in name.split("."))
            self._refresh()

    def set_startup(self, name: str, value: str, *, again: bool = False) -> None:
        """Note a start-up parameter; RESET goes back to it.

        Of session_authorization Postgres only looks whether it could be set. First, because it would take a role along.
        ``again``: one that was given before is set before it, as it may be no value for it, or leave a part of it.
        """
        made = set_config_sql(name, value)
        if name == "session_authorization":
            self.startup = {name: f"{made}; RESET SESSION AUTHORIZATION", **self.startup}
        else:
            before = self.startup.get(name) if again else None
            self.startup[name] = made if before in (None, made) else f"{before}; {made}"
        self._refresh()

    def at_login(self) -> SessionSettings:
        """Return what a link is brought to for the login, which is not under the client's own statement_timeout.

        That is looked at, and gone when its statement ends: nothing is under it.
        """
        given = self.startup.get("statement_timeout")
        if given is None:
            return self
        startup = {**self.startup, "statement_timeout": f"{given}, {_NO_TIMEOUT}"}
        made = SessionSettings(startup=startup, custom=self.custom, encoding=self.encoding)
        made._refresh()
        return made

    def set(self, name: str, sql: str) -> None:
        """Note that ``sql`` set ``name``. The latest goes last: what may be set can depend on what was set before."""
        self._forget(name)
        self.made[name] = sql
        self._refresh()

    def reset(self, name: str) -> None:
        """RESET name: back to the start-up value."""
        self._forget(name)
        self._refresh()

    def _forget(self, name: str) -> None:
        self.made.pop(name, None)
        if name == "session_authorization":
            self.made.pop("role", None)  # of before: it is none now, which a link does not do that has that user

    def reset_all(self) -> None:
        """RESET ALL keeps role and session authorization, as Postgres does."""
        self.made = {name: sql for name, sql in self.made.items() if name in ("role", "session_authorization")}
        self._refresh()

    def discard_all(self) -> None:
        """DISCARD ALL resets everything."""
        self.made = {}
        self._refresh()

    def snapshot(self) -> dict[str, str]:
        """Return what ROLLBACK must restore."""
        return dict(self.made)

    def restore(self, made: dict[str, str]) -> None:
        """Go back to a snapshot."""
        self.made = dict(made)
        self._refresh()
