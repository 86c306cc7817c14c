"""The catalog that router tests plan against: a shop over three shards, pgbench's tables, and traps."""

from __future__ import annotations

from router.catalog import Catalog
from router.cluster import Database, Placement, Reference, Sharded, TableName, Vouch
from router.relation import (
    Cast,
    Column,
    ForeignKey,
    Function,
    FunctionName,
    Index,
    IndexColumn,
    Operator,
    Relation,
    RelationKind,
    Trigger,
    UserType,
    Uses,
)

OIDS = {
    "bool": 16, "bytea": 17, "int8": 20, "int2": 21, "int4": 23, "text": 25, "float4": 700, "float8": 701,
    "bpchar": 1042, "varchar": 1043, "date": 1082, "timestamp": 1114, "timestamptz": 1184, "interval": 1186,
    "numeric": 1700, "uuid": 2950, "jsonb": 3802,
}  # fmt: skip


def public(name: str) -> TableName:
    return TableName("public", name)


def column(definition: str) -> Column:
    """`name type [flags]`: notnull, locale (no C collation), ci (nondeterministic), default=..., modifier=..."""
    name, type_name, *flags = definition.split(" ", 2)
    words = flags[0] if flags else ""
    options = dict(part.split("=", 1) for part in words.split(";") if "=" in part)
    plain = {part for part in words.split(";") if "=" not in part}
    sequence = TableName("public", options["sequence"]) if "sequence" in options else None
    functions = frozenset({FunctionName("pg_catalog", "nextval")}) if sequence is not None else frozenset()
    return Column(
        name,
        type_name,
        type_oid=OIDS.get(type_name, 16999),
        type_schema="pg_catalog" if type_name in OIDS else "public",
        type_modifier=int(options.get("modifier", -1)),
        not_null="notnull" in plain,
        default=options.get("default", ""),
        identity="d" if "identity" in plain else "",
        generated="s" if "generated" in plain else "",
        collation="default" if type_name in {"text", "varchar", "bpchar"} else "",
        collates_as_c="locale" not in plain and "ci" not in plain,
        deterministic="ci" not in plain,
        uses=Uses(functions=functions),
        sequence=sequence,
    )


def table(
    name: str,
    columns: str,
    *,
    schema: str = "public",
    unique: tuple[str, ...] = (),
    plain: tuple[str, ...] = (),
    **facts: object,
) -> Relation:
    """`columns`: definitions separated by commas. `unique`: column lists of unique indexes, the first the primary key.

    `plain`: names of other indexes.
    """
    made = tuple(column(part.strip()) for part in columns.split(","))
    indexes = tuple(
        Index(f"{name}_{'pkey' if number == 0 else f'key{number}'}",
              tuple(IndexColumn(part) for part in entry.split()), primary=number == 0)
        for number, entry in enumerate(unique)
    )  # fmt: skip
    primary = tuple(unique[0].split()) if unique else ()
    names = frozenset({*(index.name for index in indexes), *plain})
    return Relation(TableName(schema, name), columns=made, primary_key=primary, unique=indexes, indexes=names, **facts)  # type: ignore[arg-type]


def view(name: str, columns: str, reads: str, query: str = "") -> Relation:
    uses = Uses(reads=frozenset(map(public, reads.split())))
    return table(name, columns, kind=RelationKind.VIEW, read_uses=uses, query=query)


RELATIONS = (
    table("customers", "id int8 notnull, name text, email text locale, country int4, born date, vip bool, "
          "balance numeric", unique=("id",)),
    table("orders", "customer_id int8 notnull, id int8 notnull, total numeric, placed timestamptz, status text, "
          "note text locale, items int4, weight float8", unique=("customer_id id",),
          foreign_keys=(ForeignKey("orders_customer", ("customer_id",), public("customers"), ("id",)),)),
    table("order_items", "customer_id int8 notnull, order_id int8, sku text, qty int4, price numeric",
          unique=("customer_id order_id sku",)),
    table("events", "id uuid notnull, kind varchar, at timestamptz default=now(), body jsonb", unique=("id",)),
    table("docs", "slug text notnull, title text, words int4, lang bpchar modifier=6", unique=("slug",)),
    table("labels", "code varchar modifier=7, text text"),
    table("tickets", "customer_id int8, number int8 default=nextval('tickets_number_seq');sequence=tickets_number_seq, "
          "opened timestamptz default=now(), state text default='new'::text", unique=("customer_id number",)),
    table("defaults", "k int4 default=7, v text"),
    table("late", "k int8 default=(random() * 10)::int8, v text"),
    table("countries", "id int4 notnull, name text, rate numeric", unique=("id",), plain=("countries_name",)),
    table("currencies", "code text, seen timestamptz default=now(), "
          "id int4 default=nextval('currencies_id_seq');sequence=currencies_id_seq"),
    table("settings", "name text, value text, changed timestamptz default=now()", unique=("name",),
          plain=("settings_value",)),
    table("log", "id int4 default=nextval('log_id_seq');sequence=log_id_seq, line text"),
    table("audited", "k int8, v text",
          triggers=(Trigger("audit", frozenset({"insert", "update"}),
                            uses=Uses(writes=frozenset({public("orders")}))),)),
    table("loose", "k int8, v text", unique=("k", "v")),
    table("odd", "k int8, v mood", schema="public"),
    table("measures", "k int8, f float8, span interval, j jsonb, m numeric"),
    table("parted", "k int8, day date", kind=RelationKind.PARTITIONED,
          children=(public("parted_0"), public("parted_1"))),
    table("parted_0", "k int8, day date", partition=True, parents=(public("parted"),)),
    table("parted_1", "k int8, day date", partition=True, parents=(public("parted"),)),
    table("ci", "k text ci, v text"),
    table("other", "id int8, v text", schema="s2"),
    table("pgbench_accounts", "aid int4 notnull, bid int4, abalance int4, filler bpchar modifier=88"),
    table("pgbench_branches", "bid int4 notnull, bbalance int4, filler bpchar modifier=92"),
    table("pgbench_tellers", "tid int4 notnull, bid int4, tbalance int4, filler bpchar modifier=88"),
    table("pgbench_history", "tid int4, bid int4, aid int4, delta int4, mtime timestamp, filler bpchar modifier=26"),
    view("big_orders", "customer_id int8, total numeric", "orders"),
    view("paid_orders", "customer_id int8, id int8, total numeric", "orders",
         " SELECT customer_id, id, total FROM public.orders WHERE (status = 'paid'::text);"),
    view("paid_totals", "customer_id int8, total numeric", "paid_orders orders",
         " SELECT customer_id, sum(total) AS total FROM public.paid_orders GROUP BY customer_id;"),
    view("open_tickets", "tenant int8, number int8, state text", "tickets",
         " SELECT customer_id AS tenant, number, state FROM public.tickets WHERE (state <> 'closed'::text);"),
    view("nested_tickets", "n int8, t int8", "open_tickets",
         " SELECT number AS n, tenant AS t FROM public.open_tickets o WHERE (o.state IS NOT NULL);"),
    view("ticket_states", "customer_id int8, state text", "tickets", " SELECT customer_id, state FROM public.tickets;"),
    view("swapped", "id int8, customer_id int8, total numeric", "orders",
         " SELECT o.customer_id AS id, o.id AS customer_id, o.total * 2 AS total FROM public.orders o;"),
    view("lands", "label text, iso int4", "countries",
         " SELECT name AS label, id AS iso FROM public.countries WHERE (rate IS NOT NULL);"),
    view("items", "sku text, qty int4", "order_items", " SELECT sku, qty FROM public.order_items;"),
    view("country_names", "id int4, name text", "countries"),
    view("settings_view", "name text, value text", "settings"),
    Relation(public("log_id_seq"), RelationKind.SEQUENCE, owned_by=public("log")),
    Relation(public("numbers"), RelationKind.SEQUENCE),
    Relation(public("tickets_number_seq"), RelationKind.SEQUENCE, owned_by=public("tickets")),
)  # fmt: skip


def function(name: str, *, uses: Uses | None = None, volatile: str = "v", **facts: object) -> Function:
    return Function(FunctionName("public", name), uses or Uses(), volatile=volatile, **facts)  # type: ignore[arg-type]


FUNCTIONS = (
    function("double", volatile="i"),
    function("roll"),
    function("rekey", assigns=frozenset({"customer_id"})),
    function("watch", uses=Uses(reads=frozenset({public("countries")}))),
    function("total_sales", uses=Uses(reads=frozenset({public("orders")})), volatile="s"),
    function("setting", uses=Uses(reads=frozenset({public("settings")})), volatile="s"),
    function("country_name", uses=Uses(reads=frozenset({public("countries")})), volatile="s"),
    function("mystery", uses=Uses(unknown="its language is not read")),
    function("vouched", uses=Uses(unknown="its language is not read")),
    function("homely", uses=Uses(unknown="its language is not read")),
    function("local_sum", uses=Uses(unknown="its language is not read"), volatile="s"),
    function("tidy", kind="p", uses=Uses(writes=frozenset({public("log")}))),
    function("choose_zone", sets=True),
    function("purge", kind="p", uses=Uses(writes=frozenset({public("orders")}))),
)

PLACEMENTS: dict[TableName, Placement] = {
    public("customers"): Sharded("id"),
    public("orders"): Sharded("customer_id"),
    public("order_items"): Sharded("customer_id"),
    public("events"): Sharded("id"),
    public("docs"): Sharded("slug"),
    public("labels"): Sharded("code"),
    public("tickets"): Sharded("customer_id"),
    public("defaults"): Sharded("k"),
    public("late"): Sharded("k"),
    public("audited"): Sharded("k"),
    public("odd"): Sharded("k"),
    public("loose"): Sharded("k"),
    public("measures"): Sharded("k"),
    public("parted"): Sharded("k"),
    public("parted_0"): Sharded("k"),
    public("ci"): Sharded("k"),
    public("planned"): Sharded("k"),
    public("countries"): Reference(),
    public("currencies"): Reference(),
    public("planned_ref"): Reference(),
    public("pgbench_accounts"): Sharded("aid"),
    public("pgbench_branches"): Sharded("bid"),
    public("pgbench_tellers"): Sharded("tid"),
    public("pgbench_history"): Sharded("aid"),
}

VOUCHES = {"vouched": Vouch.PURE, "homely": Vouch.HOME, "local_sum": Vouch.LOCAL}


def shop(
    shards: int = 3,
    *,
    operators: tuple[Operator, ...] = (),
    casts: tuple[Cast, ...] = (),
    types: tuple[UserType, ...] = (),
) -> Catalog:
    """Return the shop's catalog; its database is `catalog.database`."""
    names = tuple(f"s{number}" for number in range(shards))
    database = Database("shop", names, 0, PLACEMENTS, VOUCHES)
    return Catalog(
        database,
        RELATIONS,
        FUNCTIONS,
        operators=operators,
        casts=casts,
        types=(UserType("public", "mood", 16999, "e"), *types),
        schemas=frozenset({"public", "s2"}),
    )
