"""The SQL that fills a materialized view of the home shard with rows that were read over several shards.

REFRESH runs the query that a view was defined by, which would see home's rows alone. So for the one statement that
refreshes, inside one function, the view's rule is that of a temporary view over the table with the new rows; then it is
what it was. Nobody else ever sees the other one, and any error takes it back with its transaction. All the rest
(storage, indexes, CONCURRENTLY, statistics) is Postgres's own work, and the view's definition stays the client's: so do
dumps, dependencies, and what psql shows.

Decides what the functions do, and who may call them: the view's owner, as whom Postgres runs its query too (anybody
could call them directly, so they check the rows' types as well: storage trusts a rule). When they run is
:mod:`proxy.session.refreshing`'s.
"""

from __future__ import annotations

from typing import Final

# AccessShareLock first (EXPLAIN keeps it to the end of the transaction): whoever replaces or drops the view has locked
# the relation before the rule. The rule's row then has those who refresh it CONCURRENTLY take turns, as Postgres's own
# lock on the relation, which there is no other statement for, would. Constants are printed so that they are read alike
# under any settings.
HOLD_VIEW: Final = """CREATE OR REPLACE FUNCTION pgchorus.hold_view(p_view text, OUT owner text, OUT definition text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1
    SET datestyle = 'ISO' SET intervalstyle = 'postgres' AS $$
DECLARE
    v_view regclass := p_view::regclass;
    v_caller name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
BEGIN
    SELECT pg_get_userbyid(c.relowner) INTO owner
        FROM pg_class c WHERE c.oid = v_view AND c.relkind = 'm' AND pg_has_role(v_caller, c.relowner, 'MEMBER');
    IF owner IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('EXPLAIN SELECT FROM %s', v_view);
    PERFORM FROM pg_rewrite r WHERE r.ev_class = v_view FOR UPDATE;
    EXECUTE format('CREATE TEMPORARY TABLE pgchorus_rows (LIKE %s)', v_view);
    EXECUTE format('ALTER TABLE pg_temp.pgchorus_rows OWNER TO %I', owner);
    definition := pg_get_viewdef(v_view);
END $$"""

# The updates of pg_class change nothing: they are what makes Postgres read the rule again.
FILL_VIEW: Final = """CREATE OR REPLACE FUNCTION pgchorus.fill_view(p_view text, p_concurrently boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_view regclass := p_view::regclass;
    v_caller name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    v_rule pg_rewrite;
BEGIN
    PERFORM FROM pg_class c WHERE c.oid = v_view AND c.relkind = 'm' AND pg_get_userbyid(c.relowner) = v_caller;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'must be owner of materialized view %', v_view USING ERRCODE = '42501';
    END IF;
    CREATE TEMPORARY VIEW pgchorus_read AS SELECT * FROM pg_temp.pgchorus_rows;
    PERFORM FROM (SELECT * FROM pg_attribute WHERE attrelid = v_view AND attnum > 0) a
        FULL JOIN (SELECT * FROM pg_attribute WHERE attrelid = 'pg_temp.pgchorus_read'::regclass AND attnum > 0) b
            ON (a.attnum, a.atttypid, a.atttypmod, a.attcollation) = (b.attnum, b.atttypid, b.atttypmod, b.attcollation)
        WHERE a.attnum IS NULL OR b.attnum IS NULL OR a.attisdropped;
    IF FOUND THEN
        RAISE EXCEPTION 'the rows are not of the types of materialized view %', v_view USING ERRCODE = '42804';
    END IF;
    SELECT * INTO STRICT v_rule FROM pg_rewrite r WHERE r.ev_class = v_view;
    UPDATE pg_rewrite SET ev_action =
            (SELECT r.ev_action FROM pg_rewrite r WHERE r.ev_class = 'pg_temp.pgchorus_read'::regclass)
        WHERE oid = v_rule.oid;
    UPDATE pg_class SET relhasrules = relhasrules WHERE oid = v_view;
    EXECUTE format('REFRESH MATERIALIZED VIEW %s %s', CASE WHEN p_concurrently THEN 'CONCURRENTLY' ELSE '' END, v_view);
    UPDATE pg_rewrite SET ev_action = v_rule.ev_action WHERE oid = v_rule.oid;
    UPDATE pg_class SET relhasrules = relhasrules WHERE oid = v_view;
    DROP VIEW pg_temp.pgchorus_read;
    DROP TABLE pg_temp.pgchorus_rows;
END $$"""

GRANTS: Final = (
    "GRANT EXECUTE ON FUNCTION pgchorus.hold_view(text) TO PUBLIC",
    "GRANT EXECUTE ON FUNCTION pgchorus.fill_view(text, boolean) TO PUBLIC",
)
