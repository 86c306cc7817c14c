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

# AccessShareLock first (to the end of the transaction, by PREPARE): whoever replaces or drops the view has locked the
# relation before the rule. Nothing here may plan a query over the view: planning computes the constant parts of its
# indexes' expressions, by the view owner's functions, with the rights of whoever installed this. The rule's row then
# has those who refresh it CONCURRENTLY take turns, as Postgres's own lock on the relation, which there is no other
# statement for, would. Constants are printed so that they are read alike under any settings.
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
    EXECUTE format('PREPARE pgchorus_hold AS SELECT FROM %s', v_view);
    DEALLOCATE pgchorus_hold;
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

# What the reading of a view's query may run that one Postgres would run in a security-restricted operation: as the
# owner, and unable to become anybody else. On a link that has logged in as another role, such code could take its
# rights. So followed is all that belongs to what is read (rules, policies, partitions; indexes, statistics and checks,
# whose constant parts are computed when a query is planned) or that it is made of (functions, operators, casts, types).
# Foreign keys, triggers and plain defaults do nothing when rows are read. Built-in functions are in no pg_depend; those
# in the stored trees are known by their numbers. A domain may get a check at any time, no lock keeps it from that.
OTHERS_CODE: Final = """WITH RECURSIVE below(classid, objid) AS (
    SELECT 'pg_class'::regclass::oid, {view}::regclass::oid
    UNION
    SELECT e.* FROM below b CROSS JOIN LATERAL (
        SELECT d.refclassid, d.refobjid FROM pg_depend d WHERE (d.classid, d.objid) = (b.classid, b.objid)
            AND d.refclassid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_operator'::regclass,
                'pg_type'::regclass, 'pg_cast'::regclass, 'pg_constraint'::regclass)
        UNION ALL
        SELECT d.classid, d.objid FROM pg_depend d WHERE (d.refclassid, d.refobjid) = (b.classid, b.objid)
            AND d.deptype IN ('a', 'i') AND CASE d.classid
                WHEN 'pg_trigger'::regclass THEN false
                WHEN 'pg_attrdef'::regclass THEN EXISTS (SELECT FROM pg_attrdef f JOIN pg_attribute a
                    ON (a.attrelid, a.attnum) = (f.adrelid, f.adnum) WHERE f.oid = d.objid AND a.attgenerated <> '')
                WHEN 'pg_constraint'::regclass THEN
                    NOT EXISTS (SELECT FROM pg_constraint o WHERE o.oid = d.objid AND o.contype = 'f')
                WHEN 'pg_rewrite'::regclass THEN b.objid = {view}::regclass
                    OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = b.objid AND c.relkind = 'm')
                ELSE true END
        UNION ALL
        SELECT b.classid, i.inhrelid FROM pg_inherits i
            WHERE b.classid = 'pg_class'::regclass AND i.inhparent = b.objid
        UNION ALL
        SELECT 'pg_cast'::regclass, c.oid FROM pg_cast c
            WHERE b.classid = 'pg_type'::regclass AND b.objid IN (c.castsource, c.casttarget)
    ) e
), trees(tree) AS (
    SELECT ev_action::text FROM pg_rewrite WHERE oid IN (SELECT objid FROM below)
    UNION ALL SELECT polqual::text FROM pg_policy WHERE oid IN (SELECT objid FROM below)
    UNION ALL SELECT adbin::text FROM pg_attrdef WHERE oid IN (SELECT objid FROM below)
    UNION ALL SELECT conbin::text FROM pg_constraint WHERE oid IN (SELECT objid FROM below)
    UNION ALL SELECT concat(indexprs, indpred) FROM pg_index WHERE indexrelid IN (SELECT objid FROM below)
    UNION ALL SELECT stxexprs::text FROM pg_statistic_ext WHERE oid IN (SELECT objid FROM below)
    UNION ALL SELECT partexprs::text FROM pg_partitioned_table WHERE partrelid IN (SELECT objid FROM below)
)
SELECT format('function %s', p.oid::regprocedure) FROM below b JOIN pg_proc p ON p.oid = b.objid
    WHERE b.classid = 'pg_proc'::regclass AND p.oid >= 16384 AND p.pronamespace <> 'pgchorus'::regnamespace
        AND NOT (p.prokind = 'f' AND p.prolang = (SELECT l.oid FROM pg_language l WHERE l.lanname = 'c')
            AND EXISTS (SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
                WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
                    AND d.refclassid = 'pg_extension'::regclass AND x.extname = ANY ({extensions})))
UNION ALL
SELECT format('domain %s', t.oid::regtype) FROM below b JOIN pg_type t ON t.oid = b.objid
    JOIN pg_roles r ON r.oid = t.typowner
    WHERE b.classid = 'pg_type'::regclass AND t.typtype = 'd' AND t.oid >= 16384 AND NOT r.rolsuper
UNION ALL
SELECT format('function %s', p.oid::regprocedure) FROM pg_proc p
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY ({builtins})
        AND EXISTS (SELECT FROM trees WHERE tree LIKE '%:funcid ' || p.oid || ' %')
ORDER BY 1 LIMIT 1"""
"""Run under a search_path that begins with pg_catalog."""
