"""One logical database as the server runs it: its pools and control links, catalog and planner, commits and recovery.

Decides when the catalog is read again and what a session may share of what a shard said (descriptions of statements).
Left to others: what any of these do. Made once for each configured database, by the server.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import TYPE_CHECKING

import structlog

from proxy.admin.counts import Counts, Totals
from proxy.config import Log
from proxy.descriptions import DESCRIPTIONS, Descriptions
from proxy.encodings import by_name
from proxy.errors import READ_ONLY_SQL_TRANSACTION, ProxyError
from proxy.executor.request import Limits as MergeLimits
from proxy.fields import DatabaseFields
from proxy.growing import grow
from proxy.session import clocks, keepers
from proxy.session.changing import Definitions, misplaced
from proxy.session.starts import BEGINNING, DEFAULTS, LOGINS, LOGINS_DIGEST, WITHOUT_TIMEOUT, RoleStart
from proxy.settings import READING, check_reading
from proxy.shards.catalog import load_catalog, load_catalog_inside
from proxy.shards.catalog_known import Known
from proxy.shards.schema import stored_otherwise
from proxy.shards.types import load_types, load_types_inside
from proxy.shards.versions import NO_VERSION, ProxyVersions
from proxy.transaction import ClientTransaction
from proxy.twophase.deadlock import DeadlockDetector
from proxy.twophase.record import READ_KEY
from proxy.twophase.settling import Settler
from router.catalog import Catalog
from router.plan_control import Control, TransactionControl
from router.planned import PlannedStatements
from router.planner import Planner
from router.shortcut import Shortcuts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from proxy.admin.metrics import Metrics
    from proxy.limits import Limits
    from proxy.session.session import Session
    from proxy.settings import Applied, SessionSettings
    from proxy.shards.control import ControlLinks
    from proxy.shards.endpoint import ShardEndpoint
    from proxy.shards.health import ShardHealth
    from proxy.shards.link import ShardLink
    from proxy.shards.pool import LinkPool, PoolLimits
    from proxy.shards.pool_set import PoolSet
    from proxy.shards.replicas import Replicas
    from proxy.shards.timelines import Timelines
    from proxy.tracing import Tracing
    from proxy.twophase.coordinator import Coordinator, Draft, Outcome
    from proxy.twophase.deadlock import Identity, Waiter
    from proxy.twophase.fence import Fence, Held
    from proxy.twophase.gid import GlobalId
    from proxy.twophase.participant import Participant
    from proxy.twophase.recovery import Recovery
    from proxy.wire.oids import TypeMap
    from router.cluster import Database
    from router.plan import Statement
    from router.statement import Parsed

log = structlog.get_logger("pgchorus.database")

SEARCH_PATHS = 1_000  # for which shortcuts are kept
#: What needs no placements: a block ends by it (PREPARE: one that has failed), or goes back.
_ENDS = frozenset({Control.COMMIT, Control.ROLLBACK, Control.ROLLBACK_TO, Control.PREPARE})


class LogicalDatabase(DatabaseFields):
    """What the sessions of one database share."""

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        logical: Database,
        *,
        control: ControlLinks,
        pools: PoolSet,
        scratch_pools: PoolSet,
        replicas: Replicas,
        read_from: str,
        coordinator: Coordinator,
        fence: Fence,
        recovery: Recovery,
        health: ShardHealth,
        passwords: Mapping[str, str],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        super().__init__()
        self.logical = logical
        self.control = control
        self.pools = pools
        pools.on_lost = lambda link, error: keepers.link_ended(self.sessions, link, error)
        self.scratch_pools = scratch_pools
        self.replicas = replicas
        self.read_from = read_from
        self.coordinator = coordinator
        self.fence = fence
        self.recovery = recovery
        self.health = health
        self.deadlocks = DeadlockDetector(
            control,
            names=logical.shards,
            home=logical.home,
            timeout_s=limits.deadlock_timeout_s,
            on_prepared=recovery.wake,
            end_commit=coordinator.give_way,
        )
        self.versions = ProxyVersions(control, logical.home)
        self.settler = Settler(control, coordinator, logical.shards)
        self.limits = limits
        self.metrics = metrics
        self.counts = Counts(limits.statements_tracked)
        self.log = Log()
        self.tracing: Tracing | None = None
        self.timelines: Timelines | None = None  # of shards with several hosts, as all workers have seen them
        self.sessions: set[Session] = set()  # of this process
        self.definitions = Definitions()
        self.merge_limits = MergeLimits(**limits.group("merge"))
        self._passwords = passwords
        self.catalog = Catalog.empty()
        self._planner: Planner | None = None
        self.planned = PlannedStatements(limits.plan_cache_entries)
        self.descriptions = Descriptions(self)
        self._shortcuts: dict[tuple[str, ...], Shortcuts] = {}
        self._reloading = asyncio.Lock()
        self.on_grown: list[Callable[[ShardEndpoint], None]] = []  # who else has to know of another shard
        self.on_adopted: list[Callable[[Database, int], None]] = []  # who else goes by the placements and their epoch
        self._misplaced = ""  # in what home's placements differ from ours
        self.on_misplaced: Callable[[], None] | None = None  # what may mend that
        self._known_catalog = Known()  # texts that cannot be printed while somebody holds their table
        self.proven_settings: set[tuple[int, str, Applied]] = set()
        self.roles_that_ask: set[str] = set()  # for sequence values (proxy.session.sequences)
        self._role_starts: dict[tuple[str, object], RoleStart] = {}
        self._defaults: str | None = None  # of roles and the database, as last seen
        self._logins: dict[str, str] = {}  # what each role that may log in is, as last seen
        self._logins_digest = ""

    def plan_cache_counts(self) -> dict[str, tuple[int, int]]:
        """Return (hits, misses) of the plan caches by name."""
        texts, templates = self.planned.texts, self.planned.templates
        return {"text": (texts.hits, texts.misses), "template": (templates.hits, templates.misses)}

    def shortcuts(self, search_path: tuple[str, ...]) -> Shortcuts:
        """Return the shortcuts over the current catalog for sessions with this search_path."""
        found = self._shortcuts.get(search_path)
        if found is None:
            if len(self._shortcuts) >= SEARCH_PATHS:
                self._shortcuts.clear()
            found = self._shortcuts[search_path] = Shortcuts(
                self.planned,
                self.logical,
                search_path,
                functions=bool(self.catalog.functions),
                entries=self.limits.plan_cache_entries,
                catalog=self.catalog,
                version=self.catalog_version,
            )
        return found

    # --- links (proxy.transaction.Links) ----------------------------------------------------------------------

    def pool(self, shard: int, role: str) -> LinkPool:
        """Return the pool of ``role``'s links to a shard."""
        return self.pools.pool(shard, None, role, self._passwords.get(role))

    def use_passwords(self, passwords: Mapping[str, str]) -> None:
        """Log in with these from now on; links that are open stay."""
        self._passwords = passwords
        for pools in (self.pools, self.scratch_pools):
            pools.use_passwords(passwords)
        self.replicas.use_passwords(passwords.get)

    def use_pool_limits(self, limits: PoolLimits) -> None:
        """Go by other limits of pools from now on; links for gathers are as many as before."""
        self.pools.use_limits(limits)
        self.replicas.use_limits(limits)

    def take(self, shard: int, role: str, preferred: ShardLink | None = None) -> ShardLink | None:
        """Check out a link of ``role`` to a shard that is free now."""
        return self.pool(shard, role).take(preferred)

    async def acquire(self, shard: int, role: str, *, further: bool = False) -> ShardLink:
        """Check out a link of ``role`` to a shard; ``further``: for a transaction that has one to another."""
        return await self.pool(shard, role).acquire(further=further)

    def is_paused(self, shards: Collection[int]) -> bool:
        """Whether PAUSE holds on one of some shards."""
        return any(map(self.pools.is_paused, shards))

    def release(self, link: ShardLink) -> None:
        """Give a link back."""
        link.watcher = link.on_notification = None
        assert link.lender is not None  # noqa: S101 - links of transactions come from pools
        link.lender.release(link)

    # --- replicas (proxy.replica_reads) -------------------------------------------------------------------------

    async def acquire_replica(self, shard: int, role: str, *, after: int, patient: bool, further: bool) -> ShardLink:
        """Check out a link to a replica that has what was written up to ``after`` and the catalog's definitions."""
        return await self.replicas.acquire(
            shard,
            role,
            self._passwords.get(role),
            catalog_version=self.catalog_version,
            after=after,
            patient=patient,
            further=further,
        )

    async def written(self, shard: int) -> tuple[int, int]:
        """Return how often the shard's primary has changed, and up to where it has written."""
        return await self.replicas.written(shard)

    def moves(self, shard: int) -> int:
        """Return how often the shard's primary has changed."""
        return self.replicas.moves(shard)

    def shard_name(self, shard: int) -> str:
        """Return the name of a shard."""
        return self.logical.shards[shard]

    def told(self, sqlstate: str, *, read_only: bool) -> None:
        """A client was told of an error, in a transaction that may write or not: count it.

        One that says that its server takes no writes makes the proxy see whether another one does.
        """
        self.metrics.errors[sqlstate] += 1
        if sqlstate != READ_ONLY_SQL_TRANSACTION or read_only:
            return
        for endpoint in self.control.endpoints:
            if endpoint.has_several:
                self.health.doubted(endpoint.index)

    async def acquire_scratch(self, role: str) -> ShardLink:
        """Check out a link to the home shard that no transaction uses: those wait for it, it waits for nobody."""
        pool = self.scratch_pools.pool(self.logical.home, None, role, self._passwords.get(role))
        return pool.take() or await pool.acquire()

    def release_scratch(self, link: ShardLink) -> None:
        """Give such a link back."""
        self.scratch_pools.pool(link.shard, None, link.role).release(link)

    async def commit(
        self,
        links: Mapping[int, Participant],
        writers: frozenset[int],
        must_commit: frozenset[int],
        identity: Identity | None,
        gid: GlobalId | None,
    ) -> Outcome:
        """Commit a transaction's links."""
        random = None if identity is None else identity.random
        begin = time.monotonic()
        outcome = await self.coordinator.commit(links, writers, must_commit, random=random, gid=gid)
        count = len(writers | must_commit)
        self.counts.commit(outcome.result, count)
        if count > 1:
            self.counts.commit_times.add(time.monotonic() - begin)
        return outcome

    @property
    def pending_sql(self) -> str:
        """What to ask a shard for before a read that must be settled."""
        return self.settler.pending_sql

    def new_gid(self, commit_point: int, identity: Identity) -> GlobalId:
        """Make the id of a transaction, to be told to the client."""
        return self.coordinator.new_gid(commit_point, identity.random)

    def watch(self, waiter: Waiter) -> Identity:
        """A transaction uses several shards: look whether it gets into a deadlock over them."""
        return self.deadlocks.watch(waiter)

    def draft(self, links: Mapping[int, Participant], writers: set[int], identity: Identity) -> Draft | None:
        """Make what a COMMIT of several writers begins with, ahead of it; None: that cannot be done yet."""
        return self.coordinator.draft(links, writers, random=identity.random)

    def forget(self, waiter: Waiter) -> None:
        """It has ended."""
        self.deadlocks.forget(waiter)

    def all_shards_fenced(self) -> AbstractAsyncContextManager[Held]:
        """Hold the fence, with everything that is decided visible on every shard."""
        return self.fence.hold(range(len(self.logical.shards)))

    async def settle(self, shard: int, prepared: Sequence[str]) -> None:
        """Return when what was decided of ``prepared`` is visible on the shard."""
        await self.settler.settle(shard, prepared)

    async def transaction_outcome(self, gid: str) -> str:
        """Return ``committed``, ``aborted`` or ``in doubt`` for an id that a client was told (08007, a WARNING)."""
        try:
            status = await self.recovery.status(gid)
        except ValueError as error:
            raise ProxyError("22023", f"not a transaction id of this cluster: {gid}", detail=str(error)) from error
        return status.value

    # --- planning ---------------------------------------------------------------------------------------------

    def plan(self, text: str, search_path: tuple[str, ...], parameter_oids: tuple[int, ...]) -> tuple[Statement, ...]:
        """Plan a message with the current catalog, from the cache if it has been planned before."""
        planner = self.planner
        return self.planned.plan(
            text, search_path, parameter_oids, lambda one: planner.plan(one, search_path, parameter_oids)
        )

    @property
    def planner(self) -> Planner:
        """The planner over the current catalog."""
        if self._planner is None:
            raise ProxyError("57P03", f"database {self.logical.name} is starting up")
        if self._misplaced:
            raise misplaced(self._misplaced)
        return self._planner

    def plan_ends(self, parsed: Sequence[Parsed], search_path: tuple[str, ...]) -> tuple[Statement, ...]:
        """Plan how a block ends, or goes back: no placement is looked at for that. Raises F0000 for all else."""
        planner = self._planner
        if planner is not None and parsed and all(one.kind == "TransactionStmt" for one in parsed):
            made = tuple(planner.plan_one(one, search_path) for one in parsed)
            if all(isinstance(one.plan, TransactionControl) and one.plan.control in _ENDS for one in made):
                return made
        raise misplaced(self._misplaced)

    @property
    def misplaced(self) -> str:
        """In what the placements that are kept on the shards differ from those that we go by, '' for nothing."""
        return self._misplaced

    @property
    def plans(self) -> bool:
        """Whether statements are planned now."""
        return self.has_catalog and not self._misplaced

    @property
    def has_catalog(self) -> bool:
        """Whether statements can be planned: not yet when home was down at the start."""
        return self._planner is not None

    def use_catalog(self, catalog: Catalog) -> None:
        """Plan with another catalog from now on; what was derived from the old one is forgotten."""
        self.catalog = catalog
        self._planner = Planner(self.logical, catalog)
        self.catalog_version += 1
        self.planned.clear()
        self.descriptions.clear()
        self._shortcuts.clear()

    async def catalog_has_changed(self) -> None:
        """DDL of this proxy is committed: return when it is known here and to all others."""
        await self.reload_catalog()
        await self.others_know()

    async def others_know(self) -> None:
        """Return when all other proxies know the catalog that was read last."""
        if len(self.logical.shards) > 1:
            await self.versions.until_others_know(self.catalog.version)

    async def follow_catalog(self) -> bool:
        """Say by which catalog this proxy plans; True: there was another one, which is read now. Raises ShardError."""
        changed = False
        while True:
            version = self.catalog.version if self.has_catalog else NO_VERSION
            now = await self.versions.write(version)
            if now == version:
                return changed
            async with self._reloading:
                pass  # DDL of this proxy may be at it: what has been learned by the catalog would be forgotten twice
            if self.catalog.version != now or not self.has_catalog:
                await self.reload_catalog()
                changed = True

    async def reload_catalog(self) -> None:
        """Read the catalog again; whoever asks while it is being read gets a reading that began after he asked."""
        async with self._reloading:
            catalog = await load_catalog(self.control, self.logical, self._known_catalog)
            differs = await stored_otherwise(self.control, self.logical)  # as new as the catalog, or newer
            self._use_types(await load_types(self.control, self.logical))
            self.use_catalog(catalog)
            self._misplaced = differs
        await self.notice_defaults()

    async def adopt(self, logical: Database, epoch: int, added: Sequence[ShardEndpoint] = ()) -> None:
        """Go by other placements, and more shards, from now on; no transaction is open (proxy.session.holding)."""
        async with self._reloading:  # who reads the catalog goes by as many shards at its end as at its beginning
            for endpoint in added:
                grow(self, endpoint)
            self.logical = logical
            self._planner = None  # until the catalog is read by it
            self.coordinator.epoch = self.fence.epoch = epoch
            for adopted in self.on_adopted:
                adopted(logical, epoch)
        if added:
            await self.recovery.run_once([endpoint.index for endpoint in added])
        await self.reload_catalog()

    async def know_role(self, role: str) -> None:
        """See to it that the catalog has a role which a server has: it may have been made there."""
        rights = self.catalog.rights
        if rights is not None and role not in rights.roles:
            await self.reload_catalog()

    def _use_types(self, types: Sequence[TypeMap | None]) -> None:
        for holder, current in zip(self.pools.types, types, strict=True):
            holder.use(current)

    async def shard_returned(self, _shard: int) -> None:
        """A shard is back; what it calls its types could not be read, or has changed meanwhile."""
        async with self._reloading:
            if self.has_catalog:
                self._use_types(await load_types(self.control, self.logical))

    async def types_inside(self, links: Mapping[int, ShardLink]) -> None:
        """Let the links of one transaction go by the types that it sees, having changed some."""
        if len(self.logical.shards) > 1 and self.logical.home in links:
            await load_types_inside(links, self.logical.home)

    def types_outside(self, links: Iterable[ShardLink]) -> None:
        """Let the links of such a transaction go by what is committed again."""
        for link in links:
            link.types = self.pools.types[link.shard]

    async def nonce(self) -> bytes:
        """Return what the proxies of the cluster know and nobody else, for salts (32 bytes). Raises ShardError."""
        async with self.control.connection(self.logical.home) as connection:
            key: bytes = await connection.fetchval(READ_KEY)
        return hmac.digest(key, b"pgchorus salts", "sha256")

    async def notice_defaults(self) -> None:
        """See whether ALTER ROLE or DATABASE has changed what sessions begin with, or who may: links do not know."""
        async with self.control.connection(self.logical.home) as connection:
            found: str = await connection.fetchval(DEFAULTS)
            digest: str = await connection.fetchval(LOGINS_DIGEST)
            logins = self._logins
            if digest != self._logins_digest:
                logins = {row["rolname"]: row["known"] for row in await connection.fetch(LOGINS)}
        self._end_links_of_others(logins)
        self._logins, self._logins_digest = logins, digest
        if self._defaults is not None and found != self._defaults:
            self._renew_links(None)
        self._defaults = found

    def _end_links_of_others(self, logins: dict[str, str]) -> None:
        """Links of roles that may not log in, or that are not what they were when last looked at, are lent no more.

        Nor are those of who was not there then: what they were when they came nobody has seen. Who may not is looked at
        each time: he may have come in between, when he might.
        """
        used = self.pools.roles | self.scratch_pools.roles | {pool.role for pool in self.replicas}
        ended = {role for role in used if role not in logins or self._logins.get(role) != logins[role]}
        if ended:
            self._renew_links(ended)

    def _renew_links(self, roles: set[str] | None) -> None:
        """Lend no link any more that was opened before now, of some roles or (None) of all."""
        for key in [key for key in self._role_starts if roles is None or key[0] in roles]:
            del self._role_starts[key]
        for pools in (self.pools, self.scratch_pools, self.replicas):
            pools.renew(roles)

    async def planner_inside(self, link: ShardLink) -> Planner:
        """Return a planner that sees what the transaction of ``link`` (on home) has done to the catalog."""
        return Planner(self.logical, await load_catalog_inside(link, self.logical, self._known_catalog))

    # --- what has been done ----------------------------------------------------------------------------------

    def use_log(self, log: Log) -> None:
        """Log what this says from now on."""
        self.log = log
        self.counts.notable_s = log.slow_s if self.tracing is None else -1.0  # every one

    def session_ended(self, session: Session) -> None:
        """A session is no more; what it has moved stays counted."""
        self.sessions.discard(session)
        self.definitions.altering.discard(session)
        if session.clocks is not None:
            session.clocks.stop()
        self.counts.received += session.connection.received
        self.counts.sent += session.connection.sent

    def totals(self) -> Totals:
        """Return what has been done since the start, for SHOW STATS."""
        counts = self.counts
        counts.book.fold()
        tiers = counts.book.tiers.values()
        pools = [pool.stats for pool_set in (self.pools, self.scratch_pools) for pool in pool_set]
        return Totals(
            server_assignment_count=counts.lent + sum(stats.lent for stats in pools),
            xact_count=counts.alone + counts.blocks,
            query_count=sum(tier.total for tier in tiers) + counts.failures.total(),
            bytes_received=counts.received + sum(one.connection.received for one in self.sessions),
            bytes_sent=counts.sent + sum(one.connection.sent for one in self.sessions),
            xact_time=int((counts.alone_seconds + counts.block_seconds) * 1e6),
            query_time=int(sum(tier.seconds for tier in tiers) * 1e6),
            wait_time=int(sum(stats.waited_s for stats in pools) * 1e6),
            client_parse_count=counts.client_parses,
            server_parse_count=counts.server_parses,
            bind_count=counts.binds,
        )

    # --- sessions ---------------------------------------------------------------------------------------------

    async def start_role(self, role: str, settings: SessionSettings) -> RoleStart:
        """Return with what a session of ``role`` begins; raises what the shard refuses.

        A client_encoding of the role's or the database's own counts as asked for, where the client asks for none.
        """
        key = (role, settings.applied)
        known = self._role_starts.get(key)
        if known is None:
            home, defaults = self.logical.home, self._defaults
            transaction = ClientTransaction(self, role, settings.at_login(), len(self.logical.shards))
            try:
                links = await transaction.join([home], writes=False)
                row = (await links[home].run(WITHOUT_TIMEOUT + BEGINNING)).rows[0]
                encoding, acting, isolation, *rest = ((value or b"").decode() for value in row)
                if len(self.logical.shards) > 1:
                    check_reading(rest[: len(READING)])
                timeouts = clocks.Timeouts(*(shown or "0" for shown in rest[len(READING) :]))
                known = RoleStart(dict(links[home].parameters), isolation, encoding, acting, timeouts)
            finally:
                transaction.finish_statement()
            await self.know_role(acting)
            if len(self._role_starts) < DESCRIPTIONS and self._defaults == defaults:  # else it may be of before
                self._role_starts[key] = known
        if known.encoding and "client_encoding" not in settings.startup:
            own = by_name(known.encoding)
            settings.set_startup("client_encoding", known.encoding if own is None else own.name)
            return await self.start_role(role, settings)
        return known
