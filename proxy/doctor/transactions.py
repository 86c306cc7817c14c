"""What transactions have left behind: prepared ones, ours and others', decisions not carried out, old records."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from proxy.doctor.finding import HAND, SHELL, Command
from proxy.doctor.look import listed, literal
from proxy.twophase.gid import PREFIX, GlobalId, parse_participant
from proxy.twophase.pending import read_decisions

if TYPE_CHECKING:
    from proxy.doctor.look import Look

PREPARED: Final = """SELECT coalesce(json_agg(json_build_array(gid, owner::text,
        extract(epoch FROM clock_timestamp() - prepared)::float8) ORDER BY prepared, gid), '[]')::text
    FROM pg_prepared_xacts WHERE database = current_database()"""
# The records of the last hours, newest first. An xid that the shard has not come to yet is of another timeline.
RECENT: Final = """SELECT coalesce(json_agg(json_build_array(d.gid, d.participants, d.xids::text[])), '[]')::text
    FROM (SELECT * FROM pgchorus.decision WHERE outcome = 'commit' AND cardinality(participants) > 0
        AND at < clock_timestamp() - interval '1 minute' ORDER BY at DESC LIMIT $1) d"""
STATUS: Final = """SELECT coalesce(json_object_agg(x, CASE WHEN x::xid8 >= pg_snapshot_xmax(pg_current_snapshot())
        THEN 'of a future of which this server knows nothing' ELSE pg_xact_status(x::xid8) END), '{}')::text
    FROM unnest($1::text[]) AS x"""
OVERDUE: Final = """SELECT json_build_array(count(*), min(at))::text FROM pgchorus.decision
    WHERE at < clock_timestamp() - make_interval(secs => $1::float8) - interval '1 hour'"""
RECORDS_LOOKED_AT: Final = 20_000
FOREIGN_S: Final = 60.0
PURGE_ROWS: Final = 1_000_000


async def look_at_prepared(look: Look) -> None:
    """Every prepared transaction of the database, on every shard."""
    limits = look.config.limits
    late_s = limits.recovery_grace_s + 2 * limits.recovery_interval_s
    for shard, rows in (await look.ask_all(PREPARED)).items():
        for name, owner, age_s in rows:
            parsed = parse_participant(name)
            age = f"prepared {age_s:.0f} s ago by {owner}"
            rollback = look.sql(shard, f"ROLLBACK PREPARED {literal(name)}")
            if parsed is None or parsed[0].cluster != look.config.cluster.name:
                whose = "of another cluster" if name.startswith(f"{PREFIX}:") else "not ours"
                if age_s > FOREIGN_S or parsed is None:
                    look.add("prepared-foreign", shard, name, f"{whose}, {age}", rollback)
                continue
            problem = await _for_a_person(look, shard, parsed[0], parsed[1], age_s)
            if problem:
                first = Command(
                    HAND, "see whether it was committed elsewhere: then COMMIT PREPARED (docs/operations.md)"
                )
                look.add("prepared-for-a-person", shard, name, f"{problem}; {age}", first, rollback)
            elif age_s > late_s:
                recover = Command(SHELL, f"pgchorus recover -c {look.options.config}")
                look.add("prepared-stays", shard, name, age, recover)


async def _for_a_person(look: Look, shard: int, gid: GlobalId, part: str, age_s: float) -> str:
    """Return why recovery must leave a prepared transaction alone; '' if it need not."""
    if part != look.name(shard):
        return f"it says that it is of shard {part}"
    if gid.commit_point not in look.database.shards:
        return f"its commit point {gid.commit_point} is not a shard of this database"
    commit_point = look.database.shards.index(gid.commit_point)
    if commit_point not in look.up or look.facts[commit_point]["own"] is None:
        return ""
    async with look.link(commit_point) as connection:
        decision = (await read_decisions(connection, [gid])).get(gid)
    if decision is None:
        made_s = look.facts[commit_point]["clock"] - gid.unix_ms / 1000
        old = max(age_s, made_s) > look.config.limits.commit_retention_s
        return "it is undecided, and older than records are kept" if old else ""
    if decision.committed and part not in decision.xids:
        return "its commit record does not know this part"
    return ""


async def look_at_decisions(look: Look) -> None:
    """Records that should be gone, and commits of which a shard has not got its part."""
    limits = look.config.limits
    keep_s = limits.commit_retention_s
    installed = [shard for shard in look.up if look.facts[shard]["own"] is not None]
    parts: defaultdict[int, dict[str, tuple[int, str]]] = defaultdict(dict)
    for shard in installed:
        count, oldest = await look.ask(shard, OVERDUE, keep_s + 2 * limits.recovery_purge_interval_s)
        if count:
            purge = f"SELECT pgchorus.purge(make_interval(secs => {keep_s:.0f}), {PURGE_ROWS})"
            look.add("decisions-overdue", shard, "", f"{count} records, the oldest of {oldest}", look.sql(shard, purge))
        for gid, participants, xids in await look.ask(shard, RECENT, RECORDS_LOOKED_AT):
            for name, xid in zip(participants, xids, strict=True):
                if name in look.database.shards:
                    parts[look.database.shards.index(name)][xid] = (shard, gid)
    for shard, by_xid in parts.items():
        if shard not in look.up:
            continue
        status = await look.ask(shard, STATUS, list(by_xid))
        prepared = {row[0] for row in await look.ask(shard, PREPARED)}
        bad: dict[str, Any] = {
            xid: word for xid, word in status.items() if word not in {"committed", "in progress", None}
        }
        for xid, word in bad.items():
            commit_point, gid = by_xid[xid]
            if f"{gid}:{look.name(shard)}" in prepared:
                continue  # on its way, or said already
            detail = f"committed on {look.name(commit_point)}; here its transaction {xid} is {word}"
            write = Command(
                HAND,
                f"write on {look.name(shard)} what it wrote there, by the rows of {listed([look.name(commit_point)])}",
            )
            drop = f"DELETE FROM pgchorus.decision WHERE gid = {literal(gid)}"  # noqa: S608 - quoted
            look.add("commit-torn", shard, gid, detail, write, look.sql(commit_point, drop))
