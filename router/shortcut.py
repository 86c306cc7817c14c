"""Shortcuts: what a statement seen before needs so that the next one like it is sent without being planned.

A shortcut is made of a plan that the caches hold already (:mod:`router.planned`). It recognises a whole Query message
by one compiled expression, or by comparing its bytes, and says which shard it goes to. Statements that leave something
behind in the session, and plans that need more than one hash, get none: they take the long road.

The expression says the same as :func:`router.lifting.lift`: between the template's pieces stand integers of at most
nine digits, and since the pieces are the same, so is what stands beside each integer.

Pure. Valid for one catalog and one search_path, like the plans it is made of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from router import lifting
from router.bound_query import BoundQuery, with_parameters
from router.digits import NATIVE, QueryShape
from router.one_row import finds_one_row
from router.plan import (
    AnyShard,
    ByKeys,
    Constant,
    Empty,
    Execution,
    HomeShard,
    Parameter,
    Single,
    Statement,
)
from router.plan_control import Control, TransactionControl
from router.plan_steps import Filled, Moment
from router.resolve import UnresolvedKey, resolve
from router.sharding import INTEGER_TYPES, integer_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.catalog import Catalog
    from router.cluster import Database
    from router.digits import KeyShape
    from router.lifting import Lifted, Template
    from router.planned import PlannedStatements

# Candidates for what comes next after a statement: TPC-B's deltas, with a sign and without, make two of each UPDATE.
_FOLLOWERS: Final = 4
_HEADER_BYTES: Final = 5
_LENGTH_BYTES: Final = 4
_MOST_DIGITS: Final = 9
_MOST_HOLES: Final = 9  # beyond this, and for longer texts, an expression would be long that is rarely of use
_LONGEST_SHAPE: Final = 1 << 12
_TAGS: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})


QUERY: Final = 0
PARSED: Final = 1
NAMED: Final = 2
#: As PARSED for the client; on links it is a prepared statement (proxy.session.lane_shared).
SHARED: Final = 3
#: Of those that no quick lane may expect.
nothing_matches: Final = re.compile(rb"(?!)").match


class Expected:
    """What a quick lane may be sent next: a Query (its ``Shortcut``) or a pipeline (proxy.session.known_binds).

    ``shape`` tells it by one expression. Without a shard (-1) the key is the last group that has matched, a canonical
    integer that is not negative. ``prepared``, ``name`` and ``link_name``: what a pipeline runs, the
    client's name of it, and its name on links.
    """

    __slots__ = (
        "behind",
        "end",
        "heads",
        "keyed",
        "kind",
        "likely",
        "link_name",
        "name",
        "prepared",
        "shape",
        "shard",
        "statement",
        "tally",
        "typeless",
    )

    def __init__(self, statement: Statement, kind: int, shard: int) -> None:
        self.statement = statement
        self.kind = kind
        self.shard = shard
        self.shape: Callable[[bytes], re.Match[bytes] | None] = nothing_matches
        #: The same for compiled code, where only the key may differ.
        self.keyed: KeyShape | None = None
        #: What has come after it, the latest first.
        self.likely: list[Any] = []
        #: Where whoever runs it counts that (proxy.admin.statements); nothing until it is run.
        self.tally: Any = None
        self.prepared: Any = None
        self.name = b""
        self.link_name = ""
        #: How a shard's message begins instead of the first ``behind`` bytes of the client's, by the length of that. Of
        #: a Query its integer alone, up to ``end``, and router.bound_query's QUERY_TAIL follow.
        self.heads: dict[int, bytes] = {}
        self.behind = self.end = 0
        #: Whether nothing of it must be translated for shards that call types otherwise (``Relay.ask``).
        self.typeless = True

    def sent_alike(self, data: bytes) -> bytes:
        """Return what a shard gets of a message of this shape."""
        return data

    def parse_alike(self, data: bytes) -> bytes:  # noqa: ARG002 - of others
        """Return what prepares it on a link under ``link_name``."""
        return b""


class Shortcut(Expected):
    """One statement that is known. Shared by the sessions of a database; ``following`` learns what comes after it.

    ``pattern`` matches a whole Query message, its header among it (whose length the caller compares), or is None and
    ``message`` is that message. The key is the match's group ``group``; without one the shard is ``shard``. With a
    ``link_name`` it may be run as a prepared statement of that name, alone (proxy.session.lane_shared).
    """

    __slots__ = (
        "_bound",
        "control",
        "filled",
        "following",
        "group",
        "message",
        "pattern",
        "text",
        "writes",
    )

    def __init__(  # noqa: PLR0913 - made in one place
        self,
        statement: Statement,
        *,
        pattern: Callable[[bytes], re.Match[bytes] | None] | None = None,
        message: bytes = b"",
        group: int = 0,
        shard: int = 0,
        control: Control | None = None,
        text: str = "",
    ) -> None:
        super().__init__(statement, QUERY, -1 if group else shard)
        self.text = text  # one that it stands for
        plan = statement.plan
        self.writes = isinstance(plan, Single) and plan.writes
        self.pattern = pattern
        self.message = message
        self.group = group
        self.control = control
        #: In a block this text goes out instead: bytes, indexes of integers, and moments of the clock.
        self.filled: tuple[bytes | int | Moment, ...] = ()
        self.following: list[Shortcut] = self.likely
        self._bound: BoundQuery | None = None

    def may_be_bound(self, bound: BoundQuery) -> None:
        """Say how its integers are bound."""
        self._bound = bound
        self.link_name = bound.name
        self.heads, self.behind, self.end = bound.heads, bound.begin, bound.end

    def sent_alike(self, data: bytes) -> bytes:
        """Return what a shard gets that has it prepared."""
        return data if self._bound is None else self._bound.bind(data)

    def parse_alike(self, data: bytes) -> bytes:  # noqa: ARG002 - of others
        """Return what prepares it on a link."""
        return b"" if self._bound is None else self._bound.parse

    def followed_by(self, other: Shortcut) -> None:
        """Remember what came after this one, the latest first."""
        following = self.following
        if other in following:
            following.remove(other)
        following.insert(0, other)
        del following[_FOLLOWERS:]


# A shortcut and the shard to which it leads; a plain tuple costs a quarter of a named one.
Found = tuple[Shortcut, int]


@dataclass(frozen=True, slots=True)
class KeyedBind:
    """Where a Bind's shard comes from: the key is parameter ``index`` of type ``sent``; without one it is ``shard``.

    ``assigned``: the key column's type modifier, as Parameter has it.
    """

    key_type: str
    index: int
    shard: int = 0
    assigned: int | None = None


def is_quiet(statement: Statement, *, functions: bool) -> bool:
    """Whether a statement leaves nothing behind on its link or in its session.

    ``functions``: the catalog has functions of users; a trigger of what is written may call one.
    """
    if statement.tag not in _TAGS or not isinstance(statement.plan, Single):
        return False
    # Whatever else a plan may say of a statement, now or later: the default is that there is nothing to say.
    nothing_more = Statement("", statement.plan, statement.tag, returns_rows=statement.returns_rows)
    if replace(statement, text="", offset=0, parameters=0) != nothing_more:
        return False
    return statement.tag == "SELECT" or (not functions and "pg_settings" not in statement.text.lower())


def plain_control(statement: Statement) -> Control | None:
    """Return BEGIN or COMMIT when a statement is one and says nothing more."""
    plan = statement.plan
    if not isinstance(plan, TransactionControl) or plan.control not in {Control.BEGIN, Control.COMMIT}:
        return None
    if plan.chain or plan.isolation or plan.options or plan.read_only is not None or plan.deferrable is not None:
        return None
    return plan.control


def keyed_bind(statement: Statement, database: Database) -> KeyedBind | None:
    """Say where the shard of a prepared statement comes from; None when it takes more than one parameter."""
    plan = statement.plan
    if not isinstance(plan, Single):
        return None
    target = plan.target
    if isinstance(target, ByKeys) and len(target.terms) == 1:
        term = target.terms[0]
        if isinstance(term, Parameter):
            return KeyedBind(target.key_type, term.number - 1, assigned=term.assigned)
    shard = _constant_shard(statement, database)
    return None if shard is None else KeyedBind("", -1, shard)


def _constant_shard(statement: Statement, database: Database) -> int | None:
    plan = statement.plan
    if not isinstance(plan, Single):
        return None
    target = plan.target
    if isinstance(target, HomeShard | AnyShard) or (
        isinstance(target, ByKeys) and all(isinstance(term, Constant) for term in target.terms)
    ):
        try:
            executable = resolve(plan, database)
        except UnresolvedKey:
            return None
        return executable.tasks[0].shard if isinstance(executable, Execution) else None
    return None


def _filled(plan: Filled, template: Template) -> tuple[bytes | int | Moment, ...]:
    """Return what a text with moments of the clock is made of; nothing when it has other values in it.

    The client's text has no dollar in it (router.lifting), so every parameter is one of the plan's.
    """
    moments = [value for row in plan.values for value in row if isinstance(value, Moment)]
    if len(moments) != sum(map(len, plan.values)):
        return ()
    parts: list[bytes | int | Moment] = []
    for number, piece in enumerate(template):
        if number:
            parts.append(number)
        for place, text in enumerate(re.split(r"\$(\d+)", piece)):
            parts.append(moments[int(text) - 1] if place % 2 else text.encode("ascii"))
    return tuple(parts)


def _found(shortcut: Shortcut | None) -> Found | None:
    return None if shortcut is None else (shortcut, shortcut.shard)


class Shortcuts:
    """The shortcuts of one database under one search_path, made when they are first looked for.

    ``owners`` gives the shard of each slot; ``is_lone``: it is the same of all. By the ``catalog``, whose number
    ``version`` is, Queries that find one row by its key are told over several shards; without one there are none.
    """

    def __init__(  # noqa: PLR0913 - made in one place
        self,
        plans: PlannedStatements,
        database: Database,
        search_path: tuple[str, ...],
        *,
        functions: bool,
        entries: int,
        catalog: Catalog | None = None,
        version: int = 0,
    ) -> None:
        self._plans = plans
        self._database = database
        self._search_path = search_path
        self._functions = functions
        self._entries = entries
        self._templates: dict[Template, Shortcut | None] = {}
        self._messages: dict[bytes, Shortcut | None] = {}
        self.slots = database.slots
        #: Whether a text finds one row by its key (router.one_row), as far as somebody has asked.
        self.one_row: dict[str, bool] = {}
        #: Stands before the first statement of every session.
        self.start = Shortcut(Statement("", Empty(), ""))
        self.owners = tuple(database.shard_of_slot(slot) for slot in range(database.slots))
        self.is_lone = len(database.shards) == 1
        self._catalog = None if self.is_lone else catalog  # before one shard pg_stat_activity has the client's text
        self._version = version

    def note_one_row(self, text: str, *, found: bool) -> None:
        """Remember an answer; not of ever more texts."""
        if len(self.one_row) >= self._entries:
            self.one_row.clear()
        self.one_row[text] = found

    def predicted(self, message: bytes, previous: Shortcut) -> Found | None:
        """Return what a Query message is if it is one that has followed ``previous`` before."""
        for shortcut in previous.following:
            pattern = shortcut.pattern
            if pattern is None:
                if message == shortcut.message:
                    return shortcut, shortcut.shard
                continue
            match = pattern(message)
            if match is not None:
                group = shortcut.group
                if not group:
                    return shortcut, shortcut.shard
                return shortcut, self.owners[integer_slot(int(match[group]), self.slots)]
        return None

    def look_up(self, message: bytes) -> Found | None:
        """Return what a whole Query message is, if there is a plan for it and a shortcut can be made."""
        if message in self._messages:
            return _found(self._messages[message])
        body = message[_HEADER_BYTES:-1]
        if message[-1] or len(body) > lifting.MAX_TEXT_CHARACTERS or not body.isascii():
            return None
        text = body.decode("ascii")
        cut = lifting.lift(text)
        if cut is None:
            return self._look_up_whole(message, text)
        template, integers = cut
        shortcut = self._templates.get(template)
        if shortcut is None and template not in self._templates:
            shortcut = self._learn(template, text)
            if shortcut is None and template not in self._templates:
                return self._look_up_whole(message, text)  # always the same text: its template was never needed
        if shortcut is None or not shortcut.group:
            return _found(shortcut)
        return shortcut, self.owners[integer_slot(int(integers[shortcut.group - 1]), self.slots)]

    def _learn(self, template: Template, text: str) -> Shortcut | None:
        lifted = self._plans.known_template(template, self._search_path)
        if lifted is None:
            return None
        shortcut = self._of_template(template, lifted, text)
        if len(self._templates) >= self._entries:
            self._templates.clear()
        self._templates[template] = shortcut
        return shortcut

    def _look_up_whole(self, message: bytes, text: str) -> Found | None:
        planned = self._plans.known_text(text, self._search_path)
        if planned is None or "\0" in text:
            return None
        shortcut = self._of_text(message, planned[0]) if len(planned) == 1 else None
        if len(self._messages) >= self._entries:
            self._messages.clear()
        self._messages[message] = shortcut
        return _found(shortcut)

    def _of_text(self, message: bytes, statement: Statement) -> Shortcut | None:
        if statement.offset:
            return None
        control = plain_control(statement)
        if control is not None:
            return Shortcut(statement, message=message, control=control, text=statement.text)
        shard = _constant_shard(statement, self._database)
        if shard is None or not is_quiet(statement, functions=self._functions):
            return None
        shortcut = Shortcut(statement, message=message, shard=shard, text=statement.text)
        shortcut.shape = re.compile(re.escape(message), re.DOTALL).fullmatch
        return shortcut

    def _of_template(self, template: Template, lifted: Lifted, text: str) -> Shortcut | None:
        statement = lifted.statement
        filled: tuple[bytes | int | Moment, ...] = ()
        if isinstance(statement.plan, Filled):
            filled = _filled(statement.plan, lifted.filled or ())
            inner = statement.plan.inner
            if not filled or not is_quiet(inner, functions=self._functions):
                return None
            statement = replace(statement, plan=inner.plan)
        if statement.offset or "\0" in text or not is_quiet(statement, functions=self._functions):
            return None
        if statement.tag == "UPDATE" and "pg_settings" in text.lower():
            return None
        pieces = rb"(\d{1,9})".join(re.escape(piece.encode("ascii")) for piece in template)
        pattern = re.compile(b"Q.{4}" + pieces + b"\0", re.DOTALL).fullmatch
        if lifted.hole is None:
            shortcut = Shortcut(statement, pattern=pattern, shard=self._database.home, text=text)
        elif lifted.key_type in INTEGER_TYPES:
            shortcut = Shortcut(statement, pattern=pattern, group=lifted.hole + 1, text=text)
        else:
            return None
        shortcut.filled = filled
        shortcut.shape = _shape(template, shortcut.group)
        alone = len(template) == 2  # noqa: PLR2004 - what stands around one integer
        if NATIVE and alone and shortcut.group and shortcut.shape is not nothing_matches:
            shortcut.keyed = QueryShape(template[0].encode("ascii"), template[1].encode("ascii") + b"\0")
        if self._catalog is not None and statement.tag == "SELECT" and not filled:
            path = self._search_path
            if finds_one_row(with_parameters(template), self._catalog, path):
                shortcut.may_be_bound(BoundQuery(template, pattern, (path, self._version)))
        return shortcut


def _shape(template: Template, group: int) -> Callable[[bytes], re.Match[bytes] | None]:
    """Return an expression for whole Query messages: it compares their lengths as well, and cuts out the key alone."""
    pieces = [re.escape(piece.encode("ascii")) for piece in template]
    shortest = len(b"".join(piece.encode("ascii") for piece in template)) + len(pieces)  # a digit in each, and the NUL
    longest = shortest + (_MOST_DIGITS - 1) * (len(pieces) - 1)
    if longest + _LENGTH_BYTES > _LONGEST_SHAPE or len(pieces) > _MOST_HOLES:
        return nothing_matches
    lengths = b"|".join(
        b"%b.{%d}\\Z" % (re.escape((size + _LENGTH_BYTES).to_bytes(4, "big")), size)
        for size in range(shortest, longest + 1)
    )
    for number in range(1, len(pieces)):
        pieces[number] = (rb"(\d{1,9})" if number == group else rb"\d{1,9}") + pieces[number]
    return re.compile(b"Q(?=%b).{4}%b\0" % (lengths, b"".join(pieces)), re.DOTALL).fullmatch
