"""What the extended protocol has collected for one link and not sent yet.

Decides nothing but what a statement does to the transaction of a pipeline; when a batch goes out is for ``extended``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from proxy.session.relay import EXECUTE_ENDS, Step
from router.plan_control import Control, Setting, SettingControl, TransactionControl

if TYPE_CHECKING:
    from proxy.session.prepared import Place, Portal, PreparedStatement
    from proxy.shards.link import ShardLink
    from router.plan import Plan, Statement

_CALLS: Final = frozenset({"CALL", "DO"})
# Of those that Postgres refuses in a block; it then has one open, as behind any other statement.
_SEVERAL_TRANSACTIONS: Final = frozenset({"VACUUM", "CREATE INDEX", "DROP INDEX", "REINDEX", "CLUSTER", "ALTER TABLE"})


class Batch:
    """Messages for one link that have not gone out yet, and what becomes of their answers."""

    def __init__(self, link: ShardLink, shard: int) -> None:
        self.link = link
        self.shard = shard
        self.frames = bytearray()
        self.script: deque[Step] = deque()
        self.statements: list[Statement] = []  # that Execute in this batch
        self.bound: list[Statement] = []
        self.executes = 0
        self.ends_transactions = False  # it begins with an Execute that may, and that finds no block in Postgres
        self.in_block = False  # what is in it wants a block, whatever comes behind it
        self.reads = False  # a Bind of a data statement is in it, which may take a snapshot
        self._unnamed: PreparedStatement | None = None  # that is parsed in it

    def add(self, frame: bytes, ends: frozenset[int], *, forward: bool) -> None:
        """Queue a message whose answer ends with a frame of a type in ``ends``."""
        self.frames += frame
        self.script.append(Step(ends, forward))

    def unless_parsed(
        self, portal: Portal, name: bytes, frames: bytes, script: list[Step]
    ) -> tuple[bytes, bytes, list[Step]]:
        """Leave the Parse of an unnamed statement out that is parsed in it: to Postgres a Parse is not nothing.

        What a suspended portal has written is seen by what is bound behind a Parse, and not behind a Bind alone.
        """
        again = not name and portal.on_link is None and self._unnamed is portal.prepared
        if not name:
            self._unnamed = None if portal.on_link is not None else portal.prepared
        return (name, b"", []) if again else (name, frames, script)

    def execute(self, frame: bytes, statement: Statement | None, place: Place | None = None) -> None:
        """Queue an Execute; ``statement`` is None for a cursor that DECLARE made, ``place`` is its portal's."""
        self.add(frame, EXECUTE_ENDS, forward=True)
        self.script[-1].place = place
        self.executes += 1
        if statement is not None:
            self.statements.append(statement)

    def declares(self, name: bytes) -> bool:
        """Whether a statement in it declares a cursor of that name."""
        return any(one.declares.encode() == name for one in self.statements if one.declares)

    def is_alone(self, *, last: bool) -> bool:
        """Whether it needs no block of ours; ``last``: the client's Sync is next, and ends it."""
        return self.begins_itself or (last and not self.in_block and (self.executes <= 1 or self.ends_transactions))

    @property
    def begins_itself(self) -> bool:
        """Whether it holds one Execute, of a statement that must not be put in a block."""
        if self.executes != 1 or not self.statements:
            return False
        return begins_itself(self.statements[0])


def begins_itself(statement: Statement) -> bool:
    """Whether Postgres refuses a statement inside a block, or would do in one of ours what it does not do outside.

    In Postgres the first Execute of a pipeline is outside any block, and such a statement ends its transaction. PREPARE
    TRANSACTION must find no block of ours that it could prepare.
    """
    return not statement.transaction_block or statement.tag == "PREPARE TRANSACTION"


def may_end_transactions(statement: Statement) -> bool:
    """Whether a statement's own code may COMMIT, where Postgres runs it outside of any block."""
    return statement.tag in _CALLS


def needs_block_before(statement: Statement) -> bool:
    """Whether Postgres refuses a statement outside any block; a shard would not, behind the BEGIN of a pipeline."""
    return statement.tag == "LOCK TABLE" or (statement.tag == "DECLARE CURSOR" and not statement.must_commit)


def minds_block(statement: Statement) -> bool:
    """Whether it matters to a statement whether a block is open."""
    plan = statement.plan
    if isinstance(plan, SettingControl):
        return plan.local or plan.setting is Setting.DISCARD_ALL
    if isinstance(plan, TransactionControl):
        return plan.control is Control.SET_TRANSACTION
    return begins_itself(statement) or needs_block_before(statement)


def is_transaction(plan: Plan) -> bool:
    """Whether Postgres begins no implicit block behind a statement, because it is about transactions itself."""
    return isinstance(plan, TransactionControl) and plan.control is not Control.SET_TRANSACTION


def ends_pipeline(statement: Statement, *, alone: bool) -> bool:
    """Whether Postgres begins no implicit block behind an Execute; ``alone``: there was none before it.

    What is a transaction of its own is committed at once, and so ends there; what makes several leaves the last open.
    """
    return is_transaction(statement.plan) or (alone and statement.tag not in _SEVERAL_TRANSACTIONS)
