"""The SQL of the schema ``pgchorus`` that is not the commits': who the shard is, what is placed, what guards it.

Decides what is stored and what the procedures do; when they run is :mod:`proxy.shards.schema`'s.
"""

from __future__ import annotations

from typing import Final

TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS pgchorus.meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), cluster text NOT NULL, shard text NOT NULL,
    shard_index integer NOT NULL, shards text[] NOT NULL, home text NOT NULL, slots integer NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS pgchorus.placement (
    table_schema text, table_name text, kind text NOT NULL CHECK (kind IN ('sharded', 'reference')), key text,
    key_type text, slots integer,
    PRIMARY KEY (table_schema, table_name), CHECK ((kind = 'sharded') = (key IS NOT NULL)))""",
    # Its rows are counted. No sequence: rows are written in clients' sessions, whose lastval() it would be.
    """CREATE TABLE IF NOT EXISTS pgchorus.catalog_change (
    id bigint PRIMARY KEY DEFAULT hashtextextended(gen_random_uuid()::text, 0),
    at timestamptz NOT NULL DEFAULT clock_timestamp())""",
    """DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'pgchorus.catalog_change'::regclass AND attidentity <> '') THEN
        ALTER TABLE pgchorus.catalog_change ALTER id DROP IDENTITY,
            ALTER id SET DEFAULT hashtextextended(gen_random_uuid()::text, 0);
    END IF;
END $$""",
    """CREATE TABLE IF NOT EXISTS pgchorus.proxy_version (
    proxy text PRIMARY KEY, version bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())""",
    "ALTER TABLE pgchorus.meta ADD COLUMN IF NOT EXISTS spread text[]",
    "CREATE SEQUENCE IF NOT EXISTS pgchorus.strays",
    """CREATE TABLE IF NOT EXISTS pgchorus.timeline (
    shard text, system bigint, timeline bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (shard, system))""",
)

# Part of the CHECK of every sharded table. What a sequence has given is not taken back with the row's transaction.
STRAY: Final = """CREATE OR REPLACE FUNCTION pgchorus.stray() RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT nextval('pgchorus.strays') IS NULL
$$"""

NOTE_CHANGE: Final = """CREATE OR REPLACE PROCEDURE pgchorus.note_change()
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO pgchorus.catalog_change DEFAULT VALUES
$$"""

# What changes no plan is left out: temporary objects, rights, comments, and what an installation does itself.
NOTE_DDL: Final = (
    """CREATE OR REPLACE FUNCTION pgchorus.note_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_EVENT = 'sql_drop' THEN
        PERFORM FROM pg_event_trigger_dropped_objects()
            WHERE NOT is_temporary AND schema_name IS DISTINCT FROM 'pgchorus';
    ELSE
        PERFORM FROM pg_event_trigger_ddl_commands()
            WHERE coalesce(schema_name, '') NOT IN ('pg_temp', 'pgchorus') AND object_identity <> 'pgchorus'
                AND command_tag NOT IN ('GRANT', 'REVOKE', 'COMMENT', 'REFRESH MATERIALIZED VIEW');
    END IF;
    IF FOUND THEN
        INSERT INTO pgchorus.catalog_change DEFAULT VALUES;
    END IF;
END $$""",
    """DO $$ BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'pgchorus_ddl') THEN
            CREATE EVENT TRIGGER pgchorus_ddl ON ddl_command_end EXECUTE FUNCTION pgchorus.note_ddl();
        END IF;
        IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'pgchorus_drop') THEN
            CREATE EVENT TRIGGER pgchorus_drop ON sql_drop EXECUTE FUNCTION pgchorus.note_ddl();
        END IF;
    END IF;
END $$""",
)

# Definitions are compared by their numbers (seed, mask, added constant, range): Postgres prints all else its own way.
GUARD: Final = """CREATE OR REPLACE PROCEDURE pgchorus.guard(p_table text, p_key text, p_check text, p_validate boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_table regclass := p_table::regclass;
    v_hash text;
    v_wanted text;
    v_known record;
BEGIN
    SELECT CASE t.oid
            WHEN 'int2'::regtype THEN 'hashint2extended' WHEN 'int4'::regtype THEN 'hashint4extended'
            WHEN 'int8'::regtype THEN 'hashint8extended' WHEN 'uuid'::regtype THEN 'uuid_hash_extended'
            WHEN 'text'::regtype THEN 'hashtextextended' WHEN 'varchar'::regtype THEN 'hashtextextended'
            WHEN 'bpchar'::regtype THEN 'hashbpcharextended' END
        INTO v_hash
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE a.attrelid = v_table AND a.attname = p_key AND NOT a.attisdropped AND a.attgenerated = ''
            AND coalesce(l.collisdeterministic, true);
    IF v_hash IS NULL THEN
        RAISE EXCEPTION 'table % cannot be sharded by "%"', v_table, p_key USING ERRCODE = '0A000', HINT =
            'A sharding key is a plain column of type smallint, integer, bigint, text, varchar, char(n) or uuid, '
            'and its collation is deterministic.';
    END IF;
    v_wanted := format(p_check, v_hash);
    SELECT c.conislocal, c.convalidated,
            regexp_replace(pg_get_expr(c.conbin, c.conrelid), '[^0-9]+', ' ', 'g')
                = regexp_replace(' ' || replace(v_wanted, '::pg_catalog.int8', ' '), '[^0-9]+', ' ', 'g')
            AND (pg_get_expr(c.conbin, c.conrelid) LIKE '%stray%' OR v_wanted NOT LIKE '%stray%') AS same
        INTO v_known
        FROM pg_constraint c WHERE c.conrelid = v_table AND c.conname = 'pgchorus_slot' AND c.contype = 'c';
    IF FOUND AND NOT v_known.same AND v_known.conislocal THEN
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT pgchorus_slot', v_table);
    END IF;
    IF v_known.same IS NULL OR (NOT v_known.same AND v_known.conislocal) THEN
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT pgchorus_slot CHECK (%s) %s', v_table, v_wanted,
            CASE WHEN p_validate THEN '' ELSE 'NOT VALID' END);
    ELSIF p_validate AND NOT v_known.convalidated THEN
        EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT pgchorus_slot', v_table);
    END IF;
END $$"""

GRANTS: Final = (
    "REVOKE ALL ON TABLE pgchorus.meta, pgchorus.placement, pgchorus.catalog_change FROM PUBLIC",
    "REVOKE ALL ON TABLE pgchorus.proxy_version, pgchorus.timeline FROM PUBLIC",
    "GRANT EXECUTE ON PROCEDURE pgchorus.note_change() TO PUBLIC",
    "GRANT EXECUTE ON FUNCTION pgchorus.stray() TO PUBLIC",
    "GRANT SELECT ON SEQUENCE pgchorus.strays TO PUBLIC",
    "GRANT EXECUTE ON PROCEDURE pgchorus.guard(text, text, text, boolean) TO PUBLIC",
)

# One text with everything that is compared. The tables are looked up by name, on a server where they may not be.
FACTS: Final = """SELECT json_build_object(
    'encoding', current_setting('server_encoding'),
    'prepared', current_setting('max_prepared_transactions')::int,
    'identity', (SELECT system_identifier FROM pg_control_system()) || '/' || d.oid,
    'installed', to_regclass('pgchorus.meta') IS NOT NULL AND to_regclass('pgchorus.epoch') IS NOT NULL,
    'tables', (SELECT json_object_agg(w.name, json_build_array(c.relkind, w.type, w.deterministic)) FROM (
        SELECT x.name, x.name::regclass AS oid, t.typname AS type,
            coalesce(l.collisdeterministic, true) AS deterministic
        FROM json_each_text($1::json) AS x(name, key)
            LEFT JOIN pg_attribute a ON a.attrelid = to_regclass(x.name) AND a.attname = x.key AND NOT a.attisdropped
            LEFT JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
        WHERE to_regclass(x.name) IS NOT NULL) w JOIN pg_class c ON c.oid = w.oid))::text
    FROM pg_database d WHERE d.datname = current_database()"""
STORED: Final = """SELECT json_build_object(
    'meta', (SELECT row_to_json(m) FROM pgchorus.meta m),
    'epoch', (SELECT epoch FROM pgchorus.epoch),
    'placements', (SELECT json_agg(json_build_array(table_schema, table_name, kind, key, slots))
        FROM pgchorus.placement))::text"""

NAME_KEY_TYPES: Final = """UPDATE pgchorus.placement p SET key_type = t.typname
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = to_regclass(format('%I.%I', p.table_schema, p.table_name)) AND a.attname = p.key"""
"""For people who look: what decides is the table's own catalog."""
