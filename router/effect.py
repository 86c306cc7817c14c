"""What running a function may do, as values; and what the built-in functions do.

Decides the effect of a built-in by its name, its volatility and the lists of :mod:`router.builtins`, and how several
effects become one. Effects of user functions are drawn by :mod:`router.closure`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from router import builtins

if TYPE_CHECKING:
    from collections.abc import Iterable

    from router.cluster import TableName


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """Something that no single placement describes, or that cannot be exact.

    ``reason`` is a clause for an error's DETAIL.
    """

    reason: str


class EffectKind(Enum):
    """What is known of the tables that a function touches."""

    CLOSED = "closed"  # none
    TOUCHES = "touches"  # those listed
    UNKNOWN = "unknown"  # nobody can tell


class Runs(Enum):
    """Where a call gives the answer that one Postgres would give."""

    ANYWHERE = "anywhere"  # on any shard, on several at once
    HOME = "home"  # on the home shard only
    LOCAL = "local"  # vouched: on the shard of the statement's own key
    NOWHERE = "nowhere"  # refuse it when the database has several shards


@dataclass(frozen=True, slots=True)
class FunctionEffect:
    """What calling something of a name may do: all its overloads, and all that they call in turn.

    ``touches``: tables read or written; ``reaches_sharded``: those of them that are sharded. ``writes``: it may change
    data or act at commit, so its shard is a writer. ``reason``: why ``runs`` is not ANYWHERE, a clause for DETAIL.
    ``must_commit``: why Postgres refuses to PREPARE afterwards. ``pins``: why the link must stay with the session.
    ``sets``: it may change settings, so the link is reset before reuse; ``sets_custom``: such as stay behind, empty, so
    that the link is closed instead; ``sets_unnamed``: such as it names by an expression.
    ``clock``: it reads the transaction's clock.
    ``session_state``: the function that remembers earlier statements of its link (``currval``): others answer wrongly.
    ``advances_sequences``, ``asks_sequences``: it may call ``nextval``, or ``currval`` and ``lastval``.
    ``sets_sequences``: it may call ``setval``, which no rollback takes back.
    ``if_audited``: where it runs if what nobody can tell turns out to touch nothing that it must not; else as ``runs``.
    ``found``: a function of that name exists. ``aggregate``, ``window``, ``returns_set``: some overload is one.
    """

    kind: EffectKind = EffectKind.CLOSED
    runs: Runs = Runs.ANYWHERE
    volatile: bool = False
    writes: bool = False
    touches: frozenset[TableName] = frozenset()
    reaches_sharded: frozenset[TableName] = frozenset()
    if_audited: Runs = Runs.ANYWHERE
    reason: str = ""
    must_commit: str = ""
    pins: str = ""
    sets: bool = False
    sets_custom: bool = False
    sets_unnamed: bool = False
    clock: bool = False
    session_state: str = ""
    advances_sequences: bool = False
    asks_sequences: bool = False
    sets_sequences: bool = False
    found: bool = True
    aggregate: bool = False
    window: bool = False
    returns_set: bool = False
    user_defined: bool = False

    @property
    def auditable(self) -> bool:
        """Whether all that stands against running it at home is that nobody can tell what it touches there."""
        return self.kind is EffectKind.UNKNOWN and self.if_audited in {Runs.ANYWHERE, Runs.HOME}


NO_EFFECT = FunctionEffect()


def run_together(one: Runs, other: Runs) -> Runs:
    """Return where two calls of one statement can both run."""
    if one is other or other is Runs.ANYWHERE:
        return one
    if one is Runs.ANYWHERE:
        return other
    return Runs.NOWHERE


def merge(effects: Iterable[FunctionEffect]) -> FunctionEffect:
    """Return the effect of everything that ``effects`` may do, taken together. Nothing at all: no effect, not found."""
    merged: FunctionEffect | None = None
    for effect in effects:
        merged = effect if merged is None or (merged is NO_EFFECT and effect.found) else _both(merged, effect)
    return replace(NO_EFFECT, found=False) if merged is None else merged


_ORDER = {EffectKind.CLOSED: 0, EffectKind.TOUCHES: 1, EffectKind.UNKNOWN: 2}


def _both(one: FunctionEffect, other: FunctionEffect) -> FunctionEffect:
    runs = run_together(one.runs, other.runs)
    if runs is Runs.NOWHERE and other.runs is Runs.NOWHERE and one.runs is not Runs.NOWHERE:
        reason = other.reason
    else:
        reason = one.reason or other.reason
    return FunctionEffect(
        kind=max(one.kind, other.kind, key=_ORDER.__getitem__),
        runs=runs,
        volatile=one.volatile or other.volatile,
        writes=one.writes or other.writes,
        touches=one.touches | other.touches,
        reaches_sharded=one.reaches_sharded | other.reaches_sharded,
        if_audited=run_together(one.if_audited, other.if_audited),
        reason=reason,
        must_commit=one.must_commit or other.must_commit,
        pins=one.pins or other.pins,
        sets=one.sets or other.sets,
        sets_custom=one.sets_custom or other.sets_custom,
        sets_unnamed=one.sets_unnamed or other.sets_unnamed,
        clock=one.clock or other.clock,
        session_state=one.session_state or other.session_state,
        advances_sequences=one.advances_sequences or other.advances_sequences,
        asks_sequences=one.asks_sequences or other.asks_sequences,
        sets_sequences=one.sets_sequences or other.sets_sequences,
        found=one.found or other.found,
        aggregate=one.aggregate or other.aggregate,
        window=one.window or other.window,
        returns_set=one.returns_set or other.returns_set,
        user_defined=one.user_defined or other.user_defined,
    )


def _harmless(name: str) -> bool:
    return name in builtins.HARMLESS_VOLATILE or name.startswith(builtins.HARMLESS_PREFIXES)


def _pins(name: str) -> str:
    if name in builtins.SESSION_LOCKS and "unlock" not in name:
        return "session advisory lock"
    if name in builtins.SERVER_PROCESS:
        return f"what {name}() leaves behind"
    return "random seed" if name == "setseed" else ""


def builtin_effect(name: str, facts: builtins.Builtin, arguments: int | None = None) -> FunctionEffect:
    """Return what calling ``pg_catalog.name`` may do; ``arguments`` is the number of arguments where it is known."""
    volatile = facts.volatile == "v"
    if name in builtins.TEXT_QUERY_READERS and arguments not in {None, 2}:
        volatile = False  # only the form with a query is
    kind, runs, reason = EffectKind.CLOSED, Runs.ANYWHERE, ""
    if name in builtins.READERS or (name in builtins.TEXT_QUERY_READERS and arguments in {None, 2}):
        kind, runs = EffectKind.UNKNOWN, Runs.NOWHERE
        reason = f"{name}() reads whatever its argument names"
    elif name in builtins.SNAPSHOTS:
        runs, reason = Runs.NOWHERE, f"{name}() exports the snapshot of one shard only"
    elif name in builtins.SEQUENCES:
        runs, reason = Runs.HOME, f"{name}() uses a sequence, and sequences live on the home shard"
    elif name in builtins.LARGE_OBJECTS:
        runs, reason = Runs.HOME, f"{name}() uses large objects, which live on the home shard"
    elif name in builtins.SESSION_LOCKS or name in builtins.TRANSACTION_LOCKS:
        runs, reason = Runs.HOME, f"{name}() uses advisory locks, which live on the home shard"
    elif name == builtins.SERVER_VALUE:
        runs, reason = Runs.HOME, "it reads what is each server's own"
    elif name in builtins.ONE_SERVER or name.startswith(builtins.ONE_SERVER_PREFIXES):
        runs, reason = Runs.HOME, f"{name}() tells of one server only"
    elif volatile and name not in builtins.FREE_VOLATILE:
        runs, reason = Runs.HOME, f"{name}() is volatile"
    return FunctionEffect(
        kind=kind,
        runs=runs,
        volatile=volatile,
        writes=name in builtins.WRITERS or (volatile and not _harmless(name)),
        if_audited=Runs.HOME if kind is EffectKind.UNKNOWN else runs,
        reason=reason,
        must_commit=builtins.NO_PREPARE.get(name, ""),
        pins=_pins(name),
        sets=name in builtins.SETTINGS,
        clock=name in builtins.TRANSACTION_CLOCK,
        session_state=name if name in builtins.SESSION_SEQUENCES or name == "setseed" else "",
        advances_sequences=name in builtins.ADVANCING_SEQUENCES,
        asks_sequences=name in builtins.SESSION_SEQUENCES,
        sets_sequences=name == builtins.SETS_SEQUENCE,
        aggregate="a" in facts.kinds,
        window="w" in facts.kinds,
        returns_set=facts.returns_set,
    )
