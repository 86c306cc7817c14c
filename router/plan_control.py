"""Plan nodes of what concerns the session itself: transaction blocks, settings, prepared statements, cursors.

A part of :mod:`router.plan`; nodes have no behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Control(Enum):
    """Transaction control."""

    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    RELEASE = "release"
    ROLLBACK_TO = "rollback_to"
    SET_TRANSACTION = "set_transaction"  # SET TRANSACTION ...
    PREPARE = "prepare"  # PREPARE TRANSACTION, over several shards


@dataclass(frozen=True, slots=True)
class TransactionControl:
    """BEGIN, COMMIT and kin. ``options`` is BEGIN's/SET TRANSACTION's mode text in canonical SQL, '' for none."""

    control: Control
    savepoint: str = ""
    options: str = ""
    read_only: bool | None = None
    isolation: str | None = None  # 'read committed', 'repeatable read', 'serializable', 'read uncommitted'
    deferrable: bool | None = None
    chain: bool = False


class Setting(Enum):
    """What a settings statement does."""

    SET = "set"
    RESET = "reset"
    RESET_ALL = "reset_all"
    SHOW = "show"
    DISCARD_ALL = "discard_all"
    SESSION_CHARACTERISTICS = "session_characteristics"
    SET_CONSTRAINTS = "set_constraints"


@dataclass(frozen=True, slots=True)
class SettingControl:
    """SET, RESET, SHOW, DISCARD. ``name`` is the setting in lower case ('search_path', 'timezone', 'role', ...).

    ``elsewhere``: what shards other than home are told instead ('': nothing; None: the same). ``characteristics``: the
    settings that SET SESSION CHARACTERISTICS makes, with their values.
    """

    setting: Setting
    name: str = ""
    local: bool = False
    elsewhere: str | None = None
    characteristics: tuple[tuple[str, str], ...] = ()


class Prepared(Enum):
    """SQL-level prepared statements."""

    PREPARE = "prepare"
    EXECUTE = "execute"
    DEALLOCATE = "deallocate"
    DEALLOCATE_ALL = "deallocate_all"
    EXPLAIN = "explain"  # EXPLAIN EXECUTE


@dataclass(frozen=True, slots=True)
class PreparedControl:
    """PREPARE name (types) AS body; EXECUTE name (args); DEALLOCATE. Texts are cut from the original.

    EXPLAIN: ``body`` is what stands before the name, ``rest`` what stands behind it; ``runs``: it is ANALYZE.
    ``arguments`` are all of them in one text, which begins at ``arguments_at`` of the statement's.
    """

    prepared: Prepared
    name: str = ""
    type_names: tuple[str, ...] = ()
    body: str = ""
    arguments: str = ""
    argument_count: int = 0
    arguments_at: int = 0
    rest: str = ""
    runs: bool = False


@dataclass(frozen=True, slots=True)
class CursorControl:
    """FETCH, MOVE or CLOSE of an SQL cursor: goes to the shard where it was declared. ``name`` None: CLOSE ALL.

    ``count`` rows in the direction ``forward`` or ``relative``; neither: another one.
    """

    name: str | None
    closes: bool = False
    move: bool = False
    count: int = 0
    forward: bool = False
    relative: bool = False
