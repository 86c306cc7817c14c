"""As whom a session acts: ``"$user"`` in its search_path, and the schemas of that in which names are found.

No server reports ``role``, so it is asked for after each statement that sets it. What it is when a block has ended
follows from the settings that are left, and those have been asked for when they were made; where they have not, the
role is unknown, and nothing is planned until it is set again. SHOW takes no snapshot.

Decides what the role is. Left to others: which schemas it may use (router.rights), what functions set (following).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.session.session import Session
    from proxy.settings import SessionSettings

ROLE_SETTINGS: Final = frozenset({"role", "session_authorization"})
_NOBODY: Final = ""  # no role has this name: the search_path is unknown then
_MANY: Final = 1_000


def made_by(settings: SessionSettings) -> tuple[tuple[str, str], ...]:
    """Return the settings that make the role what it is outside of blocks, in their order."""
    return tuple(item for item in settings.applied.statements if item[0] in ROLE_SETTINGS)


async def learn_role(session: Session, *, lasting: bool) -> None:
    """Something has set the role: ask as whom the session acts. ``lasting``: what was noted in its settings says so."""
    transaction, database = session.transaction, session.database
    if transaction.shard_count == 1:
        return
    shard = session.settings_shard
    link = (await transaction.join([shard], writes=False, reads=False))[shard]
    answer = await link.run("SHOW role")
    name = session.encoding.heard(answer.rows[0][0] or b"")
    note_role(
        session, link.parameters.get("session_authorization", _NOBODY) if name == "none" else name, lasting=lasting
    )
    if session.planner_in_block is None:
        await database.know_role(session.acting)


def note_role(session: Session, role: str, *, lasting: bool) -> None:
    """The session acts as ``role`` from now on."""
    session.acting = role
    session.role_moved = session.transaction.in_block
    if lasting:
        if len(session.roles) >= _MANY and not session.transaction.in_block:
            first = next(iter(session.roles))  # of the start, to which RESET and DISCARD ALL go back
            session.roles = {first: session.roles[first]}
        session.roles[made_by(session.settings)] = role


def may_have_role(session: Session) -> bool:
    """Whether to have no role would be news: the session has set one, or begins with one."""
    settings = session.settings
    begins_as = next(iter(session.roles.values()))
    return "role" in settings.made or "role" in settings.startup or begins_as != session.role


def role_outside(session: Session) -> None:
    """A block that has set the role has ended, or DISCARD ALL: the session acts as its settings say."""
    session.role_moved = False
    session.acting = session.roles.get(made_by(session.settings), _NOBODY)
