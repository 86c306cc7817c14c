"""Prepared statements as the fast lane needs them: what the slow parts of Parse and Bind came to, once and for all.

Made of what the session, the caches of plans and the descriptions hold already; no shard is asked for anything. A
statement about which something is not known yet, or that is not quiet (router.shortcut), gets none and takes the long
road, which finds it out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from proxy.description import Description
from proxy.session.filling import moment_values, with_moments
from proxy.session.literals import has_changed
from proxy.session.planning import is_long
from proxy.session.prepared import Portal, PreparedStatement
from proxy.wire import frontend
from proxy.wire.errors import WireFailure
from proxy.wire.frames import HEADER, HEADER_BYTES
from proxy.wire.frontend import Parse
from proxy.wire.oids import has_oids
from proxy.wire.pipeline import Pipeline, Shape, add_parameters, read_parameter, shape_of
from router.digits import NATIVE, BindShape
from router.errors import Refused, SyntaxFailure
from router.keys import family
from router.one_row import KEY_OIDS, finds_one_row
from router.plan import Concat, Execution, Single, Task
from router.planned import Missing
from router.sharding import KEY_TYPE_OIDS, UNKNOWN_OID, UnsureKey, assigned_key, decode_key, integer_slot, slot_of
from router.shortcut import NAMED, PARSED, SHARED, Expected, is_quiet, keyed_bind, plain_control

if TYPE_CHECKING:
    from proxy.session.session import Session
    from proxy.settings import Applied
    from proxy.shards.link import ShardLink
    from router.plan import Statement
    from router.plan_control import Control
    from router.plan_steps import Moment
    from router.shortcut import KeyedBind, Shortcuts

# Statements of one session that are kept ready; a client that sends ever new texts must not fill the memory.
MANY: Final = 256
_PARSE: Final = ord("P")
_BIND: Final = ord("B")
_NO_BIND: Final = frontend.Bind(b"", b"")
_UNTYPED: Final = frozenset({0, UNKNOWN_OID})
_INT4_DIGITS: Final = 9
_FOLLOWERS: Final = 4
#: How often a pipeline is looked at for a shape: what has none then (texts, binary) is not asked again.
_MOST_TRIES: Final = 16
_ZERO: Final = ord("0")
_TELL: Final = frozenset({"client_min_messages", "log_parameter_max_length_on_error"})


class KnownBind(Expected):
    """A statement that is ready to be bound. ``control``: BEGIN or COMMIT, which no shard sees."""

    __slots__ = (
        "_assigned",
        "_bind_head",
        "_count",
        "_index",
        "_key_type",
        "_lone",
        "_name_delta",
        "_owners",
        "_parse",
        "_portals",
        "_sent",
        "_shape",
        "_shard",
        "_shortcuts",
        "_slots",
        "_tries",
        "control",
        "following",
        "moments",
        "writes",
    )

    def __init__(
        self,
        prepared: PreparedStatement,
        shortcuts: Shortcuts,
        applied: Applied,
        sent: tuple[PreparedStatement, tuple[Moment, ...]] | None = None,
    ) -> None:
        on_links, self.moments = sent or (prepared, ())
        plan = on_links.statement.plan
        statement = replace(prepared.statement, plan=plan) if self.moments else prepared.statement
        super().__init__(statement, NAMED if prepared.name else PARSED, -1)
        self.prepared, self.name = prepared, prepared.name
        self.writes = isinstance(plan, Single) and plan.writes
        self.control: Control | None = plain_control(self.statement)
        fields = prepared.description.fields or ()
        self.typeless = not any(map(has_oids, (*on_links.oids, *(field.type_oid for field in fields))))
        self._parse = Parse(b"", on_links.query, on_links.oids).encode() if self.moments else b""
        name = on_links.link_name(applied)
        self.link_name = name.decode()
        self._bind_head = b"\0" + name + b"\0"
        self._name_delta = len(name) - len(prepared.name)
        self._count = len(prepared.description.parameter_oids)
        self._owners, self._slots, self._shortcuts = shortcuts.owners, shortcuts.slots, shortcuts
        self._lone = shortcuts.is_lone
        self._key_type = self._sent = ""
        self._index, self._shard = -1, 0
        self._assigned: int | None = None
        self._portals: dict[int, Portal] = {}
        self._shape: Shape | None = None
        self._tries = 0  # to learn the shape
        self.following: list[KnownBind] = self.likely

    @property
    def text(self) -> str:
        """What the client has prepared."""
        query: bytes = self.prepared.query
        return query.decode("utf-8", "replace")

    def reads_key(self, source: KeyedBind, sent: str) -> None:
        """Say where the shard comes from: a parameter that is sent as type ``sent``."""
        self._key_type, self._sent, self._index, self._shard = source.key_type, sent, source.index, source.shard
        self._assigned = source.assigned

    def shard_of(self, data: bytes, cut: Pipeline) -> int | None:
        """Return the shard of a Bind; None when only the long road can tell, or say what is wrong with it."""
        index = self._index
        value = read_parameter(data, cut.name_end + 1, cut.bind_end, self._count, index)
        if value is None:
            return None
        if index < 0:
            return self._shard
        key, form = value
        if (
            key is not None
            and not form
            and self._sent in _WIDE_INTEGERS
            and len(key) <= _INT4_DIGITS
            and key.isdigit()
            and key[0] != _ZERO
        ):
            return self._owners[integer_slot(int(key), self._slots)]  # canonical, and it fits
        try:
            found = decode_key(self._sent, key, form)
            if self._assigned is not None:
                found = assigned_key(self._key_type, found, self._assigned)
            return self._owners[slot_of(self._key_type, found, self._slots)]
        except UnsureKey:
            return None

    def matched(self, data: bytes) -> int | None:
        """Return the shard of a pipeline if it is one like the last that was read; None: it must be read."""
        shape = self._shape
        key = shape.match(data) if shape is not None else None
        return None if key is None else self._owners[integer_slot(int(key), self._slots)]

    def share(self, session: Session) -> None:
        """Let the unnamed statement be run as a prepared one of links, if nobody can see that.

        Its plan must not depend on the values, and what it says not on when it was parsed (router.one_row). Messages
        for those who debug a server name statements.
        """
        prepared, database, shortcuts = self.prepared, session.database, self._shortcuts
        if not database.limits.statements_unnamed or not prepared.query.isascii():
            return
        if _tells_names(session.settings.applied):
            return
        if any(oid not in KEY_OIDS for oid in prepared.description.parameter_oids):
            return
        text = prepared.statement.text
        found = shortcuts.one_row.get(text)
        if found is None:
            found = finds_one_row(text, database.catalog, session.search_path)
            shortcuts.note_one_row(text, found=found)
        name = prepared.shared_name(session.settings.applied) if found else b""
        if name:
            self.kind, self.link_name = SHARED, name.decode()
            self._bind_head, self._name_delta = b"\0" + name + b"\0", len(name)

    def share_no_more(self, session: Session) -> None:
        """A link has not taken it as a prepared one: it is parsed for each use from now on."""
        session.database.counts.settle()  # by its kind
        self.kind, self.link_name = PARSED, ""

    def parse_alike(self, data: bytes) -> bytes:
        """Return the Parse of a pipeline that has matched, for the name on links."""
        assert self._shape is not None  # noqa: S101 - it has matched
        end = self._shape.cut(data).bind
        name = self.link_name.encode()
        return HEADER.pack(_PARSE, end - 1 + len(name)) + name + data[HEADER_BYTES:end]

    def sent_alike(self, data: bytes) -> bytes:
        """Return what a shard gets of a pipeline that has matched; of a statement that has a name on links."""
        head = self.heads.get(len(data))
        shape = self._shape
        assert shape is not None  # noqa: S101 - it has matched
        if self.kind == PARSED:
            return data
        if head is None:
            cut = shape.cut(data)
            length = cut.bind_end - cut.bind - 1 + self._name_delta
            head = self.heads[len(data)] = HEADER.pack(_BIND, length) + self._bind_head
            self.behind = shape.body
        return head + data[shape.body :]

    def cut(self, data: bytes) -> Pipeline:
        """Return the places in a pipeline that has matched."""
        assert self._shape is not None  # noqa: S101 - it has matched
        return self._shape.cut(data)

    def learn(self, data: bytes, cut: Pipeline) -> bool:
        """Remember the shape of a pipeline that was read; True: from now on a quick lane may expect it.

        Before one shard alone no parameter has to be the key.
        """
        if self._shape is not None or self._tries == _MOST_TRIES:
            return False
        self._tries += 1
        if self._lone or (self._index >= 0 and self._sent in _WIDE_INTEGERS):
            shape = self._shape = shape_of(data, cut, self._count, max(self._index, 0))
            if shape is not None and shape.exact is not None and self.typeless and not self.moments:
                self.shape = shape.exact
                if NATIVE and shape.parts is not None:
                    before, rest, middle, behind = shape.parts
                    self.keyed = BindShape(before, rest, middle, behind)
                return True
        return False

    def followed_by(self, other: KnownBind) -> None:
        """Remember what came after this one."""
        if other in self.following:
            self.following.remove(other)
        self.following.insert(0, other)
        del self.following[_FOLLOWERS:]

    def sent(self, session: Session, data: bytes, cut: Pipeline) -> bytes:
        """Return what a shard gets of a pipeline: the statement by its name on links, moments of the clock filled in.

        A statement with moments must be in a block: outside of one a shard's own clock is asked.
        """
        if self.moments:
            head = b"\0\0" if cut.bind else self._bind_head
            filled = add_parameters(data, cut, self._count, head, moment_values(session, self.moments))
            return self._parse + filled if cut.bind else filled
        if cut.bind:
            return data
        length = cut.bind_end - 1 + self._name_delta
        return b"".join((HEADER.pack(_BIND, length), self._bind_head, data[cut.name_end + 1 :]))

    def is_on(self, link: ShardLink) -> bool:
        """Whether the statement is prepared on a link; it is then the one used last there."""
        if self.link_name in link.statements:
            link.statements.move_to_end(self.link_name)
            return True
        return False

    def portal(self, shard: int | None) -> Portal:
        """Return what stays in the session of a Bind within a block."""
        key = -1 if shard is None else shard
        portal = self._portals.get(key)
        if portal is None:
            executable = None if shard is None else Execution((Task(shard),), Concat(), self.writes)
            portal = self._portals[key] = Portal(b"", self.prepared, _NO_BIND, executable, shard)
        return portal


_WIDE_INTEGERS: Final = frozenset({"int4", "int8"})


class KnownBinds:
    """One session's, valid for one catalog, one search_path and the same settings.

    ``lifts``: whether Queries may be run as prepared statements (``Shortcut.link_name``), until a link refuses one.
    """

    def __init__(self, session: Session, shortcuts: Shortcuts) -> None:
        self._session = session
        self.shortcuts = shortcuts
        self.applied = session.settings.applied
        self.lifts: bool = session.database.limits.statements_unnamed > 0 and not _tells_names(self.applied)
        self._named: dict[bytes, tuple[PreparedStatement, KnownBind | None]] = {}
        self._parsed: dict[bytes, KnownBind | None] = {}

    def named(self, name: bytes) -> KnownBind | None:
        """Return a statement that the client has prepared under a name."""
        prepared = self._session.statements.get(name)
        if prepared is None:
            return None
        found = self._named.get(name)
        if found is None or found[0] is not prepared:
            if len(self._named) >= MANY:
                self._named.clear()
            found = self._named[name] = (prepared, self._ready(prepared))
        return found[1]

    def parsed(self, frame: bytes) -> KnownBind | None:
        """Return the unnamed statement that a Parse message makes."""
        if frame in self._parsed:
            return self._parsed[frame]
        prepared = prepare_at_once(self._session, frame)
        if prepared is None:
            return None
        if len(self._parsed) >= MANY:
            self._parsed.clear()
        known = self._parsed[frame] = self._ready(prepared)
        return known

    def _ready(self, prepared: PreparedStatement) -> KnownBind | None:
        session, database = self._session, self._session.database
        current = prepared.catalog_version == database.catalog_version and prepared.search_path == session.search_path
        current = current and not has_changed(session, prepared)
        sent = with_moments(prepared)
        if sent is None or not current:
            return None
        known = KnownBind(prepared, self.shortcuts, self.applied, sent)
        if known.control is not None:
            return known
        functions = bool(database.catalog.functions)
        if known.moments and not is_quiet(sent[0].statement, functions=functions):
            return None
        quiet = is_quiet(known.statement, functions=functions)
        if not quiet or (prepared.name and not known.link_name):  # without a name: parsed for each use
            return None
        source = keyed_bind(known.statement, database.logical)
        key_sent = _sent_type(source, prepared.description.parameter_oids) if source is not None else None
        if source is None or key_sent is None:
            return None
        known.reads_key(source, key_sent)
        return known


def _tells_names(applied: Applied) -> bool:
    """Whether clients may be told what is bound: by what a server says to those who debug it, or of an error."""
    return any(name in _TELL for name, _ in applied.statements)


def _sent_type(source: KeyedBind, oids: tuple[int, ...]) -> str | None:
    """Return the type as which the key is sent; '' if there is none, None when it is not of the key's family."""
    if source.index < 0:
        return ""
    if source.index >= len(oids):
        return None
    oid = oids[source.index]
    sent = source.key_type if oid in _UNTYPED else KEY_TYPE_OIDS.get(oid, "")
    return sent if family(sent) is not None and family(sent) == family(source.key_type) else None


def prepare_at_once(session: Session, frame: bytes) -> PreparedStatement | None:
    """Return the unnamed statement of a Parse message if all is known about it, as ``preparing.prepare`` would."""
    try:
        message = frontend.decode(_PARSE, frame[HEADER_BYTES:])
    except WireFailure:
        return None
    if not isinstance(message, frontend.Parse) or message.statement:
        return None
    database, oids = session.database, message.parameter_oids
    text = message.query.decode("utf-8", "surrogateescape")
    found = _planned(session, text, oids)
    if found is None:
        return None
    statement, description = found
    return PreparedStatement(
        b"",
        message.query,
        oids,
        statement,
        description,
        database.catalog_version,
        session.search_path,
        session.settings.reading,
        codec=session.settings.encoding.codec,
    )


def _planned(session: Session, text: str, oids: tuple[int, ...]) -> tuple[Statement, Description] | None:
    database = session.database
    description = database.descriptions.known(session, text, oids)
    if description is None:
        # BEGIN and COMMIT are not described by a shard.
        plans = database.planned.known_text(text, session.search_path, oids)
        if plans is None or len(plans) != 1 or plain_control(plans[0]) is None:
            return None
        return plans[0], Description((), None)
    oids = description.parameter_oids or oids
    if is_long(text, learns=True):
        found = database.planned.find(text, session.search_path, oids)
        if isinstance(found, Missing) and is_long(text, learns=found.learns):
            return None  # planned beside the loop
    try:
        plans = session.plan(text, oids)
    except (Refused, SyntaxFailure):
        return None
    return (plans[0], description) if len(plans) == 1 else None
