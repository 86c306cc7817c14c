"""The ``pgchorus`` schema's part for commits: the fence, the decision record, and the SQL that reads and writes them.

What is where, on every shard:

- ``fence``     empty. Deciders hold it in ROW EXCLUSIVE mode, readers of several shards in SHARE mode.
- ``decision``  one row for each distributed transaction whose commit point this shard was. The row *is* the outcome: it
                commits together with the commit point's own data. ``xid`` is the transaction that wrote the row.
- ``secret``    one random key. ``decide`` and ``fence_commit`` are executable by every role, because they run inside
                clients' transactions; they obey only those who know the key, and a proof is good for one transaction.
- ``epoch``     the version of the placement; a proxy with another one cannot commit across shards.
- ``waiting``   on the home shard: what proxies tell each other of their transactions that wait (deadlock).

A proof, not a password: ``decide`` runs on the client's link, where others of the same role may read it in
pg_stat_activity. What goes over the wire is a keyed hash of the whole decision with the deciding transaction's xid in
it, and ``decide`` compares that xid with the one it runs in; copied, it is of no use. So nobody can decide for a gid
that they read in pg_prepared_xacts, nor hold the fence by a function that was meant for commits.

Rules kept here:

- ``decide`` locks the fence before it writes. The other way round a waiting decider would hold its row while recovery
  waits.
- An abort row goes only when no transaction that could still decide is alive: see ``purge``.
- A commit row stays for the whole retention, whoever has finished: a coordinator that settles late would read an abort.
- Nobody writes an abort row for a gid older than the retention. ``decide`` refuses ids from the future, so that an id's
  time is never later than its record's, except for one hour, by which records are kept longer.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from proxy.twophase.valued import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.twophase.gid import GlobalId

# What the functions below raise, and their limits: a decider waits 15 s for the fence, longer than readers that were
# there first may hold it; recovery waits 2 s for a decider (which may stand behind a dead standby for ever); records
# are kept an hour longer than the retention, the distance that clocks may have.
NOT_OUR_TRANSACTION = "PGC01"
BAD_PROOF = "PGC02"
OTHER_EPOCH = "PGC03"
TOO_OLD = "PGC04"
# A decision is being written: lock_not_available, serialization_failure.
DECIDER_IN_FLIGHT = ("55P03", "40001")

_TABLES = [
    "CREATE SCHEMA IF NOT EXISTS pgchorus",
    "CREATE TABLE IF NOT EXISTS pgchorus.fence ()",
    """CREATE TABLE IF NOT EXISTS pgchorus.decision (
    gid text PRIMARY KEY,
    outcome text NOT NULL CHECK (outcome IN ('commit', 'abort')),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    participants text[] NOT NULL DEFAULT '{}',
    xids xid8[] NOT NULL DEFAULT '{}',
    epoch bigint,
    CHECK (cardinality(participants) = cardinality(xids))
)""",
    "CREATE INDEX IF NOT EXISTS decision_at ON pgchorus.decision (at)",
    "CREATE TABLE IF NOT EXISTS pgchorus.secret (one boolean PRIMARY KEY DEFAULT true CHECK (one), key bytea NOT NULL)",
    # Two random uuids: 244 random bits from the server's strong generator, without an extension.
    """INSERT INTO pgchorus.secret (key)
    SELECT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) ON CONFLICT DO NOTHING""",
    """CREATE TABLE IF NOT EXISTS pgchorus.epoch (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch bigint NOT NULL)""",
    "INSERT INTO pgchorus.epoch (epoch) VALUES (1) ON CONFLICT DO NOTHING",
    # Unlogged: after a crash nobody waits any more.
    """CREATE UNLOGGED TABLE IF NOT EXISTS pgchorus.waiting (
    id text PRIMARY KEY,
    uuid text NOT NULL,
    proxy text NOT NULL,
    committing boolean NOT NULL,
    members jsonb NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
)""",
]

_GID_TIME = """CREATE OR REPLACE FUNCTION pgchorus.gid_time(gid text) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_timestamp(('x0000' || replace(substr(split_part(gid, ':', 4), 1, 13), '-', ''))::bit(64)::bigint / 1000.0)
$$"""

_CHECK_EPOCH = """CREATE OR REPLACE FUNCTION pgchorus.check_epoch(p_epoch bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_epoch bigint;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        -- The transaction's snapshot may be older than the epoch: 40001 if it is.
        PERFORM FROM pgchorus.epoch e FOR SHARE;
    END IF;
    SELECT e.epoch INTO v_epoch FROM pgchorus.epoch e;
    IF v_epoch IS DISTINCT FROM p_epoch THEN
        RAISE EXCEPTION 'this proxy has placement version %, the shard has %', p_epoch, v_epoch
            USING ERRCODE = 'PGC03', HINT = 'Reload the configuration of the proxy.';
    END IF;
END $$"""

# In every commit over several shards: so it calls no other function of ours, each of which has a search_path to be set,
# and the INSERT reads the epoch itself, by a snapshot that is taken behind the fence's lock (docs/hot-path.md).
_DECIDE = """CREATE OR REPLACE FUNCTION pgchorus.decide(
    p_gid text, p_xid xid8, p_participants text[], p_xids xid8[], p_epoch bigint, p_proof bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '15s' AS $$
BEGIN
    -- Outside a block, or in another transaction than the one that was asked in step 1, the record would stand alone.
    IF pg_current_xact_id_if_assigned() IS DISTINCT FROM p_xid THEN
        RAISE EXCEPTION 'decision for %: this is not its transaction', p_gid USING ERRCODE = 'PGC01';
    END IF;
    PERFORM FROM pgchorus.secret s WHERE p_proof = sha256(s.key || sha256(s.key || convert_to(concat_ws('|',
        'decide', p_gid, p_xid, array_to_string(p_participants, ','), array_to_string(p_xids, ','), p_epoch), 'UTF8')));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'decision for %: no proof', p_gid USING ERRCODE = 'PGC02';
    END IF;
    IF to_timestamp(('x0000' || replace(substr(split_part(p_gid, ':', 4), 1, 13), '-', ''))::bit(64)::bigint / 1000.0)
            > clock_timestamp() + interval '1 hour' THEN  -- gid_time
        RAISE EXCEPTION 'decision for %: its time is in the future', p_gid
            USING ERRCODE = 'PGC04', HINT = 'Set the clocks of the proxies and the shards.';
    END IF;
    LOCK TABLE pgchorus.fence IN ROW EXCLUSIVE MODE;
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        -- The transaction's snapshot may be older than the epoch: 40001 if it is.
        PERFORM FROM pgchorus.epoch e FOR SHARE;
    END IF;
    INSERT INTO pgchorus.decision (gid, outcome, xid, participants, xids, epoch)
        SELECT p_gid, 'commit', p_xid, p_participants, p_xids, e.epoch FROM pgchorus.epoch e WHERE e.epoch = p_epoch;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this proxy has placement version %, the shard has %',
                p_epoch, (SELECT e.epoch FROM pgchorus.epoch e)
            USING ERRCODE = 'PGC03', HINT = 'Reload the configuration of the proxy.';
    END IF;
END $$"""

_FENCE_COMMIT = """CREATE OR REPLACE FUNCTION pgchorus.fence_commit(p_epoch bigint, p_proof bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '15s' AS $$
BEGIN
    PERFORM FROM pgchorus.secret s WHERE p_proof = sha256(s.key || sha256(s.key || convert_to(concat_ws('|',
        'fence', pg_backend_pid(), p_epoch), 'UTF8')));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'commit behind the fence: no proof' USING ERRCODE = 'PGC02';
    END IF;
    LOCK TABLE pgchorus.fence IN ROW EXCLUSIVE MODE;
    PERFORM pgchorus.check_epoch(p_epoch);
END $$"""

# Read COMMITTED is asked for by the caller; each statement of a volatile plpgsql function has a snapshot of its own, so
# the last SELECT sees the row that the INSERT ran into. The WAL message makes this transaction's COMMIT wait for what a
# decider's COMMIT waits for: an outcome that was read here is on the synchronous standbys.
_ABANDON = """CREATE OR REPLACE FUNCTION pgchorus.abandon(p_gid text, p_retention interval) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    v_outcome text;
BEGIN
    SELECT d.outcome INTO v_outcome FROM pgchorus.decision d WHERE d.gid = p_gid;
    IF NOT FOUND THEN
        IF pgchorus.gid_time(p_gid) < clock_timestamp() - p_retention THEN
            RAISE EXCEPTION '% is older than decision records are kept', p_gid USING ERRCODE = 'PGC04';
        END IF;
        INSERT INTO pgchorus.decision (gid, outcome) VALUES (p_gid, 'abort') ON CONFLICT DO NOTHING;
        SELECT d.outcome INTO STRICT v_outcome FROM pgchorus.decision d WHERE d.gid = p_gid;
    END IF;
    PERFORM pg_logical_emit_message(true, 'pgchorus', '');
    RETURN v_outcome;
END $$"""

# An abort row must outlive every transaction that could still run decide() for its gid. That transaction was open
# before any participant prepared, hence before the row was written: its xact_start is before ``at``. Three guards, each
# enough on a server whose clock does not jump: age, no older transaction alive, and the row's xid below every snapshot.
_PURGE = """CREATE OR REPLACE FUNCTION pgchorus.purge(p_retention interval, p_limit integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_count bigint;
    v_oldest timestamptz;
BEGIN
    IF NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN
        RAISE EXCEPTION 'the owner of schema pgchorus needs the role pg_read_all_stats' USING ERRCODE = '42501';
    END IF;
    SELECT coalesce(min(a.xact_start), 'infinity') INTO v_oldest
        FROM pg_stat_activity a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid();
    DELETE FROM pgchorus.decision d USING (
        SELECT gid FROM pgchorus.decision
        WHERE at < clock_timestamp() - p_retention - interval '1 hour'
            AND (outcome = 'commit' OR (at < v_oldest AND xid < pg_snapshot_xmin(pg_current_snapshot())))
        ORDER BY at LIMIT p_limit) old
    WHERE d.gid = old.gid;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$"""

_SIGNATURES = {
    "gid_time(text)": False,
    "check_epoch(bigint)": False,
    "decide(text, xid8, text[], xid8[], bigint, bytea)": True,
    "fence_commit(bigint, bytea)": True,
    "abandon(text, interval)": False,
    "purge(interval, integer)": False,
}


def install_sql() -> list[str]:
    """Return statements that create what is missing and renew the functions, to be run in order, as often as you like.

    The role that runs them owns the schema. Clients' roles can execute what runs inside their transactions, and no
    more.
    """
    grants = ["GRANT USAGE ON SCHEMA pgchorus TO PUBLIC"]
    grants += [
        f"REVOKE ALL ON TABLE pgchorus.{table} FROM PUBLIC"
        for table in ("fence", "decision", "secret", "epoch", "waiting")
    ]
    for signature, public in _SIGNATURES.items():
        grants.append(f"REVOKE ALL ON FUNCTION pgchorus.{signature} FROM PUBLIC")
        if public:
            grants.append(f"GRANT EXECUTE ON FUNCTION pgchorus.{signature} TO PUBLIC")
    return [*_TABLES, _GID_TIME, _CHECK_EPOCH, _DECIDE, _FENCE_COMMIT, _ABANDON, _PURGE, *grants]


# What control connections run. Recovery, settling and the fence use these texts and no others.

READ_KEY = "SELECT key FROM pgchorus.secret"
READ_EPOCH = "SELECT epoch FROM pgchorus.epoch"
ABANDON = "SELECT pgchorus.abandon($1, make_interval(secs => $2::float8))"
PURGE = "SELECT pgchorus.purge(make_interval(secs => $1::float8), $2)"
READ_DECISIONS = """SELECT gid, outcome, participants, xids::text[] AS xids
    FROM pgchorus.decision WHERE gid = ANY($1::text[])"""
# Commits only when every synchronous standby has what was committed before it: a record that is visible is then safe as
# well.
CONFIRM_DURABLE = "SELECT pg_logical_emit_message(true, 'pgchorus', '')::text"
LIST_PREPARED = """SELECT gid, owner::text AS owner, transaction::text AS xid,
        extract(epoch FROM clock_timestamp() - prepared)::float8 AS age,
        owner = current_user OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS may_finish
    FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, $1) ORDER BY prepared"""
LIVE_DECIDERS = """SELECT (classid::bigint << 32 | objid::bigint) AS key FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
XACT_STATUS = "SELECT pg_xact_status($1::text::xid8)"

# What the deadlock detector asks. A wait is told by its backend's transaction and its own beginning.

LIST_WAITS = """SELECT l.pid, l.waitstart::text AS since, pg_blocking_pids(l.pid) AS blockers,
        extract(epoch FROM clock_timestamp() - l.waitstart)::float8 AS lasted_s,
        l.mode || ' on ' || CASE l.locktype
            WHEN 'transactionid' THEN 'transaction ' || l.transactionid::text
            WHEN 'relation' THEN 'relation ' || l.relation::regclass::text
            WHEN 'tuple' THEN 'tuple of relation ' || l.relation::regclass::text
            WHEN 'advisory' THEN 'advisory lock [' || concat_ws(',', l.classid, l.objid, l.objsubid) || ']'
            ELSE l.locktype END AS lock
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid AND a.datname = current_database()
    WHERE NOT l.granted AND l.waitstart < clock_timestamp() - make_interval(secs => $1::float8)"""
TRANSACTIONS_OF = """SELECT pid, coalesce(xact_start::text, 'none since ' || backend_start::text) AS began
    FROM pg_stat_activity WHERE pid = ANY($1::integer[]) AND backend_start IS NOT NULL"""
# A prepared transaction's locks have no pid, and among them is the one on its own xid: that names it.
PREPARED_BLOCKERS = """SELECT w.pid, h.mode AS held, w.mode AS wanted, p.gid
    FROM pg_locks w
    JOIN pg_locks h ON h.pid IS NULL AND h.granted AND h.locktype = w.locktype
        AND h.database IS NOT DISTINCT FROM w.database AND h.relation IS NOT DISTINCT FROM w.relation
        AND h.page IS NOT DISTINCT FROM w.page AND h.tuple IS NOT DISTINCT FROM w.tuple
        AND h.transactionid IS NOT DISTINCT FROM w.transactionid AND h.classid IS NOT DISTINCT FROM w.classid
        AND h.objid IS NOT DISTINCT FROM w.objid AND h.objsubid IS NOT DISTINCT FROM w.objsubid
    JOIN pg_locks x ON x.pid IS NULL AND x.locktype = 'transactionid' AND x.virtualtransaction = h.virtualtransaction
    JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
    WHERE NOT w.granted AND w.pid = ANY($1::integer[])"""
CANCEL_WAIT = """SELECT bool_or(pg_cancel_backend(l.pid)) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.pid = $1 AND a.xact_start::text = $2 AND NOT l.granted AND l.waitstart::text = $3"""
EXCHANGE_WAITING = """WITH ours AS (SELECT * FROM jsonb_to_recordset($2::text::jsonb)
            AS r (id text, uuid text, committing boolean, members jsonb)),
        gone AS (DELETE FROM pgchorus.waiting w WHERE (w.proxy = $1 AND NOT EXISTS (
            SELECT FROM ours o WHERE o.id = w.id)) OR w.at < clock_timestamp() - interval '1 minute'),
        put AS (INSERT INTO pgchorus.waiting (id, uuid, proxy, committing, members)
            SELECT id, uuid, $1, committing, members FROM ours
            ON CONFLICT (id) DO UPDATE
            SET committing = excluded.committing, members = excluded.members, at = excluded.at)
    SELECT w.id, w.uuid, w.committing, w.members::text AS members,
        extract(epoch FROM clock_timestamp() - w.at)::float8 AS age_s
    FROM pgchorus.waiting w WHERE w.proxy <> $1 AND w.at > clock_timestamp() - interval '1 minute'"""

#: What ``decide_sql`` returns, with parameters: links prepare it (proxy.shards.bound).
DECIDE = "SELECT pgchorus.decide($1, $2, $3, $4, $5, pg_catalog.decode($6, 'hex'))"

_XID = re.compile(r"[0-9]{1,20}", re.ASCII)
_XID_DIGITS = 20


def parse_xid(text: bytes | str | None) -> int:
    """Read an xid8 from a server's text; raises ValueError."""
    if isinstance(text, bytes) and text.isdigit() and len(text) <= _XID_DIGITS:
        return int(text)
    decoded = text.decode("ascii", "replace") if isinstance(text, bytes) else text or ""
    if not _XID.fullmatch(decoded):
        raise ValueError(f"not a transaction id: {decoded!r}")
    return int(decoded)


def _proof(key: bytes, message: str) -> str:
    inner = hashlib.sha256(key + message.encode()).digest()
    return hashlib.sha256(key + inner).hexdigest()


def decide_sql(gid: GlobalId, xid: int, participants: Sequence[tuple[str, int]], epoch: int, key: bytes) -> str:
    """Return the call that records the decision in the transaction ``xid``, to be followed by COMMIT in one message.

    ``participants`` are names and xids. Everything in the text is checked: names by GlobalId, the rest are numbers.
    """
    return _call(_values(gid, xid, participants, epoch, key))


def decision(gid: GlobalId, xid: int, participants: Sequence[tuple[str, int]], epoch: int, key: bytes) -> Decision:
    """Return ``decide_sql`` and its COMMIT as one message, which links may bind."""
    values = _values(gid, xid, participants, epoch, key)
    return Decision(f"{_call(values)}; COMMIT", values)


def _values(
    gid: GlobalId, xid: int, participants: Sequence[tuple[str, int]], epoch: int, key: bytes
) -> tuple[str, str, str, str, str, str]:
    names = ",".join([name for name, _ in participants])
    xids = ",".join([str(participant_xid) for _, participant_xid in participants])
    proof = _proof(key, f"decide|{gid}|{xid}|{names}|{xids}|{epoch}")
    return str(gid), str(xid), f"{{{names}}}", f"{{{xids}}}", str(epoch), proof


def _call(values: tuple[str, str, str, str, str, str]) -> str:
    gid, xid, names, xids, epoch, proof = values
    return (
        f"SELECT pgchorus.decide('{gid}', '{xid}', '{names}', '{xids}', {epoch}, pg_catalog.decode('{proof}', 'hex'))"
    )


def fence_commit_sql(pid: int, epoch: int, key: bytes) -> str:
    """Return the call that makes the COMMIT behind it wait for readers that hold the fence; for the backend ``pid``."""
    proof = _proof(key, f"fence|{pid}|{epoch}")
    return f"SELECT pgchorus.fence_commit({epoch}, pg_catalog.decode('{proof}', 'hex'))"
