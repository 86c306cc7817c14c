"""What each shard is asked about its schema: all its objects, each with the SQL that makes another shard's like it.

An object is (kind, owner, name, shape, definition, create, drop, alter). Definitions are compared as text, so they must
be printed alike everywhere: the links have ``search_path = pg_catalog``, and names come out whole. ``create``, ``drop``
and ``alter`` are SQL that gives another shard this shard's object, takes it away, or makes it so where it is there with
the same ``shape``. An object of an ``owner`` (a table, a type) only counts where that is. Objects of extensions are the
extension's.
"""

from __future__ import annotations

from typing import Final

_SCHEMAS: Final = """SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_namespace n
    WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgchorus')"""
# $1: quoted names of the tables that every shard has.
_TABLES: Final = """SELECT c.oid::regclass::text AS name, c.* FROM pg_class c
    WHERE c.oid IN (SELECT to_regclass(x) FROM unnest($1::text[]) AS x) AND c.relkind IN ('r', 'p')"""
_NO_EXTENSION: Final = """NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{0}'::regclass AND e.objid = {1}
    AND e.deptype = 'e')"""

_PARTS: Final = {
    "schema": """SELECT 'schema', '', nspname, '', '', format('CREATE SCHEMA %I AUTHORIZATION %s', nspname,
        nspowner::regrole), format('DROP SCHEMA %I', nspname), NULL FROM schemas""",
    "extension": """SELECT 'extension', '', extname, n.nspname, extversion,
        format('CREATE EXTENSION %I SCHEMA %I VERSION %L', extname, n.nspname, extversion),
        format('DROP EXTENSION %I', extname), format('ALTER EXTENSION %I UPDATE TO %L', extname, extversion)
        FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace""",
    "enum": """SELECT 'type', '', t.oid::regtype::text, 'enum', string_agg(quote_literal(e.enumlabel), ', ' ORDER BY
        e.enumsortorder),
        format('CREATE TYPE %s AS ENUM (%s)', t.oid::regtype, string_agg(quote_literal(e.enumlabel), ', ' ORDER BY
            e.enumsortorder)),
        format('DROP TYPE %s', t.oid::regtype),
        string_agg(format('ALTER TYPE %s ADD VALUE IF NOT EXISTS %L %s', t.oid::regtype, e.enumlabel,
            coalesce('AFTER ' || quote_literal(e.before), 'BEFORE ' || quote_literal(e.after), '')), '; ' ORDER BY
            e.enumsortorder)
        FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace JOIN (SELECT *, lag(enumlabel) OVER w AS before,
            lead(enumlabel) OVER w AS after FROM pg_enum WINDOW w AS (PARTITION BY enumtypid ORDER BY
            enumsortorder)) e
            ON e.enumtypid = t.oid
        WHERE {no_type} GROUP BY t.oid""",
    "composite": """SELECT 'type', '', t.oid::regtype::text, 'composite', '',
        format('CREATE TYPE %s AS (%s)', t.oid::regtype, (SELECT string_agg(format('%I %s', a.attname,
            format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum) FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)),
        format('DROP TYPE %s', t.oid::regtype), NULL
        FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace JOIN pg_class c ON c.oid = t.typrelid AND c.relkind
            = 'c'
        WHERE {no_type}""",
    "attribute": """SELECT 'type', t.oid::regtype::text, a.attname, '', format_type(a.atttypid, a.atttypmod),
        format('ALTER TYPE %s ADD ATTRIBUTE %I %s', t.oid::regtype, a.attname, format_type(a.atttypid, a.atttypmod)),
        format('ALTER TYPE %s DROP ATTRIBUTE %I', t.oid::regtype, a.attname),
        format('ALTER TYPE %s ALTER ATTRIBUTE %I TYPE %s', t.oid::regtype, a.attname, format_type(a.atttypid,
            a.atttypmod))
        FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace JOIN pg_class c ON c.oid = t.typrelid AND c.relkind
            = 'c'
            JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE {no_type}""",
    "domain": """SELECT 'type', '', t.oid::regtype::text, 'domain over ' || format_type(t.typbasetype, t.typtypmod),
        concat_ws(' ', 'DEFAULT ' || t.typdefault, CASE WHEN t.typnotnull THEN 'NOT NULL' END),
        format('CREATE DOMAIN %s AS %s%s%s', t.oid::regtype, format_type(t.typbasetype, t.typtypmod),
            coalesce(' DEFAULT ' || t.typdefault, ''), CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END),
        format('DROP DOMAIN %s', t.oid::regtype),
        format('ALTER DOMAIN %1$s %2$s; ALTER DOMAIN %1$s %3$s NOT NULL', t.oid::regtype,
            coalesce('SET DEFAULT ' || t.typdefault, 'DROP DEFAULT'), CASE WHEN t.typnotnull THEN 'SET' ELSE 'DROP'
            END)
        FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace WHERE t.typtype = 'd' AND {no_type}""",
    "domain_check": """SELECT 'type', t.oid::regtype::text, c.conname, '', pg_get_constraintdef(c.oid),
        format('ALTER DOMAIN %s ADD CONSTRAINT %I %s', t.oid::regtype, c.conname, pg_get_constraintdef(c.oid)),
        format('ALTER DOMAIN %s DROP CONSTRAINT %I', t.oid::regtype, c.conname), NULL
        FROM pg_constraint c JOIN pg_type t ON t.oid = c.contypid JOIN schemas s ON s.oid = t.typnamespace
        WHERE c.contype = 'c' AND {no_type}""",
    "range": """SELECT 'type', '', t.oid::regtype::text, 'range', format_type(r.rngsubtype, NULL),
        format('CREATE TYPE %s AS RANGE (SUBTYPE = %s)', t.oid::regtype, format_type(r.rngsubtype, NULL)),
        format('DROP TYPE %s', t.oid::regtype), NULL
        FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace JOIN pg_range r ON r.rngtypid = t.oid WHERE
            {no_type}""",
    "function": """SELECT 'function', '', p.oid::regprocedure::text, p.prokind::text || ' ' ||
        coalesce(pg_get_function_result(p.oid), ''),
        pg_get_functiondef(p.oid) || CASE WHEN p.prosecdef THEN p.proowner::regrole::text ELSE '' END,
        pg_get_functiondef(p.oid), format('DROP ROUTINE %s', p.oid::regprocedure), pg_get_functiondef(p.oid)
            || CASE WHEN p.prosecdef THEN format('; ALTER ROUTINE %s OWNER TO %s', p.oid::regprocedure,
            p.proowner::regrole) ELSE '' END
        FROM pg_proc p JOIN schemas s ON s.oid = p.pronamespace WHERE p.prokind IN ('f', 'p', 'w') AND
            {no_function}""",
    "view": """SELECT 'view', '', c.oid::regclass::text, (SELECT string_agg(a.attname || ' ' ||
        format_type(a.atttypid,
            a.atttypmod), ', ' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
        pg_get_viewdef(c.oid) || coalesce(array_to_string(c.reloptions, ', '), '') || c.relowner::regrole::text,
        v.made, format('DROP VIEW %s', c.oid::regclass), replace(v.made, 'CREATE VIEW', 'CREATE OR REPLACE VIEW')
        FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace CROSS JOIN LATERAL (SELECT
            format('CREATE VIEW %1$s%2$s AS %3$s'
            || ' ALTER VIEW %1$s OWNER TO %4$s', c.oid::regclass, ' WITH (' || array_to_string(c.reloptions, ', ')
            || ')',
            pg_get_viewdef(c.oid), c.relowner::regrole) AS made) v
        WHERE c.relkind = 'v' AND {no_class}""",
    "sequence": """SELECT 'sequence', '', c.oid::regclass::text, '', q.made,
        format('CREATE SEQUENCE %s %s', c.oid::regclass, q.made), format('DROP SEQUENCE %s', c.oid::regclass),
        format('ALTER SEQUENCE %s %s', c.oid::regclass, q.made)
        FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace JOIN LATERAL (SELECT format(
            'AS %s INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s%s', format_type(p.seqtypid, NULL),
            p.seqincrement,
            p.seqmin, p.seqmax, p.seqstart, CASE WHEN p.seqcycle THEN ' CYCLE' ELSE ' NO CYCLE' END) AS made
            FROM pg_sequence p WHERE p.seqrelid = c.oid) q ON true
        WHERE c.relkind = 'S' AND {no_class} AND NOT EXISTS (SELECT FROM pg_depend o WHERE o.classid =
            'pg_class'::regclass
            AND o.objid = c.oid AND o.deptype IN ('a', 'i') AND o.refobjsubid > 0)""",
    "table": """SELECT 'table', c.name, 'owner and row security', '', concat_ws(' ', c.relowner::regrole,
        c.relrowsecurity,
            c.relforcerowsecurity, c.relreplident::text), NULL, NULL,
        format('ALTER TABLE %s OWNER TO %s, %s ROW LEVEL SECURITY, %s ROW LEVEL SECURITY%s', c.name,
            c.relowner::regrole,
            CASE WHEN c.relrowsecurity THEN 'ENABLE' ELSE 'DISABLE' END,
            CASE WHEN c.relforcerowsecurity THEN 'FORCE' ELSE 'NO FORCE' END,
            CASE c.relreplident::text WHEN 'f' THEN ', REPLICA IDENTITY FULL' WHEN 'd' THEN
            ', REPLICA IDENTITY DEFAULT'
                WHEN 'n' THEN ', REPLICA IDENTITY NOTHING' ELSE '' END)
        FROM tables c""",
    "inheritance": """SELECT 'table', c.name, 'kind and parents', '', concat_ws(' ', c.relkind::text,
        c.relpersistence::text,
            pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid),
            (SELECT string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno) FROM pg_inherits i WHERE
            i.inhrelid = c.oid)),
        NULL, NULL, NULL FROM tables c""",
    "column": """SELECT 'column', c.name, a.attname, '', concat_ws(' ', x.type, nullif(a.attidentity::text, ''),
        nullif(a.attgenerated::text, ''),
            CASE WHEN a.attgenerated <> '' THEN x.value END),
        format('ALTER TABLE %s ADD COLUMN %I %s%s%s', c.name, a.attname, x.type, CASE WHEN a.attgenerated = 's'
            THEN ' GENERATED ALWAYS AS (' || x.value || ') STORED' WHEN a.attgenerated = 'v' THEN
            ' GENERATED ALWAYS AS ('
            || x.value || ')' WHEN a.attidentity = 'a' THEN ' GENERATED ALWAYS AS IDENTITY' WHEN a.attidentity = 'd'
            THEN ' GENERATED BY DEFAULT AS IDENTITY' ELSE coalesce(' DEFAULT ' || x.value, '') END,
            CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END),
        format('ALTER TABLE %s DROP COLUMN %I', c.name, a.attname),
        CASE WHEN a.attgenerated = '' THEN
            format('ALTER TABLE %1$s ALTER COLUMN %2$I DROP DEFAULT; ALTER TABLE %1$s ALTER COLUMN %2$I'
            || ' TYPE %3$s USING %2$I::%4$s', c.name, a.attname, x.type, format_type(a.atttypid, a.atttypmod))
            || CASE WHEN a.attidentity <> '' THEN '' WHEN x.value IS NULL THEN '' ELSE
                format('; ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', c.name, a.attname, x.value) END END
        FROM tables c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND
            a.attinhcount = 0
            JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
            LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace
            LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            CROSS JOIN LATERAL (SELECT format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attcollation <>
            t.typcollation
                THEN format(' COLLATE %I.%I', ln.nspname, l.collname) ELSE '' END AS type,
                pg_get_expr(d.adbin, d.adrelid) AS value) x""",
    "default": """SELECT 'column', c.name, a.attname || ': default', '', pg_get_expr(d.adbin, d.adrelid),
        format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', c.name, a.attname, pg_get_expr(d.adbin, d.adrelid)),
        format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT', c.name, a.attname),
        format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', c.name, a.attname, pg_get_expr(d.adbin, d.adrelid))
        FROM tables c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_attrdef d ON d.adrelid = a.attrelid
            AND d.adnum = a.attnum WHERE a.attgenerated = '' AND a.attinhcount = 0""",
    "not_null": """SELECT 'column', c.name, a.attname || ': NOT NULL', '', '',
        format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL', c.name, a.attname),
        format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', c.name, a.attname), NULL
        FROM tables c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE a.attnotnull AND a.attinhcount = 0""",
    "order": """SELECT 'column-order', c.name, 'columns', '', string_agg(a.attname, ', ' ORDER BY a.attnum), NULL,
        NULL, NULL
        FROM tables c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped GROUP BY
            c.name""",
    "constraint": """SELECT 'constraint', c.name, k.conname, '', pg_get_constraintdef(k.oid),
        format('ALTER TABLE %s ADD CONSTRAINT %I %s', c.name, k.conname, pg_get_constraintdef(k.oid)),
        format('ALTER TABLE %s DROP CONSTRAINT %I', c.name, k.conname), NULL
        FROM tables c JOIN pg_constraint k ON k.conrelid = c.oid
        WHERE k.contype IN ('c', 'u', 'p', 'f', 'x') AND k.conislocal AND k.conparentid = 0 AND k.conname <>
            'pgchorus_slot'""",
    "index": """SELECT 'index', c.name, i.indexrelid::regclass::text, '', pg_get_indexdef(i.indexrelid),
        regexp_replace(pg_get_indexdef(i.indexrelid), '^CREATE (UNIQUE )?INDEX', CASE WHEN c.relkind = 'p' THEN
            'CREATE \\1INDEX' ELSE 'CREATE \\1INDEX CONCURRENTLY' END),
        format('DROP INDEX %s%s', CASE WHEN c.relkind = 'p' THEN '' ELSE 'CONCURRENTLY ' END,
            i.indexrelid::regclass), NULL
        FROM tables c JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class x ON x.oid = i.indexrelid
        WHERE NOT x.relispartition
            AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('u', 'p',
            'x'))""",
    "invalid": """SELECT 'invalid', c.name, i.indexrelid::regclass::text, '', '', NULL, NULL,
        format('REINDEX INDEX CONCURRENTLY %s', i.indexrelid::regclass)
        FROM tables c JOIN pg_index i ON i.indrelid = c.oid WHERE NOT i.indisvalid AND c.relkind = 'r'""",
    "trigger": """SELECT 'trigger', c.name, g.tgname, '', pg_get_triggerdef(g.oid) || ' ' || g.tgenabled::text,
        pg_get_triggerdef(g.oid) || format('; ALTER TABLE %s %s TRIGGER %I', c.name, CASE g.tgenabled WHEN 'D' THEN
            'DISABLE'
            WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END, g.tgname),
        format('DROP TRIGGER %I ON %s', g.tgname, c.name), NULL
        FROM tables c JOIN pg_trigger g ON g.tgrelid = c.oid WHERE NOT g.tgisinternal AND g.tgparentid = 0""",
    "rule": """SELECT 'trigger', c.name, w.rulename, '', pg_get_ruledef(w.oid), pg_get_ruledef(w.oid),
        format('DROP RULE %I ON %s', w.rulename, c.name), NULL
        FROM tables c JOIN pg_rewrite w ON w.ev_class = c.oid AND w.rulename <> '_RETURN'""",
    "policy": """SELECT 'policy', c.name, p.polname, '', x.made, format('CREATE POLICY %I ON %s %s', p.polname,
        c.name, x.made),
        format('DROP POLICY %I ON %s', p.polname, c.name), NULL
        FROM tables c JOIN pg_policy p ON p.polrelid = c.oid CROSS JOIN LATERAL (SELECT
            format('AS %s FOR %s TO %s%s%s',
            CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, CASE p.polcmd WHEN 'r' THEN 'SELECT'
            WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
            (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE r::regrole::text END, ', ' ORDER BY r::regrole::text)
                FROM unnest(p.polroles) AS r),
            ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
            ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')') AS made) x""",
    "rights": """SELECT 'rights', r.owner, format('%s to %s', x.what, x.who), '', x.is_grantable::text,
        format('GRANT %s ON %s TO %s%s', x.what, r.thing, x.who, CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION'
            ELSE '' END),
        format('REVOKE %s ON %s FROM %s', x.what, r.thing, x.who), NULL
        FROM (SELECT c.name AS owner, 'TABLE ' || c.name AS thing, coalesce(c.relacl, acldefault('r', c.relowner))
            AS acl, '' AS part
                FROM tables c
            UNION ALL SELECT c.name, 'TABLE ' || c.name, a.attacl, format(' (%I)', a.attname)
                FROM tables c JOIN pg_attribute a ON a.attrelid = c.oid WHERE a.attacl IS NOT NULL AND NOT
                a.attisdropped
            UNION ALL SELECT c.oid::regclass::text, 'TABLE ' || c.oid::regclass, coalesce(c.relacl, acldefault('r',
            c.relowner)), ''
                FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace WHERE c.relkind = 'v' AND {no_class}
            UNION ALL SELECT p.oid::regprocedure::text, 'ROUTINE ' || p.oid::regprocedure, coalesce(p.proacl,
            acldefault('f', p.proowner)), ''
                FROM pg_proc p JOIN schemas s ON s.oid = p.pronamespace WHERE p.prokind IN ('f', 'p', 'w') AND
                {no_function}
            UNION ALL SELECT s.nspname, 'SCHEMA ' || quote_ident(s.nspname), coalesce(s.nspacl, acldefault('n',
            s.nspowner)), ''
                FROM schemas s) r
            CROSS JOIN LATERAL (SELECT e.privilege_type || r.part AS what, CASE e.grantee WHEN 0 THEN 'PUBLIC'
                ELSE e.grantee::regrole::text END AS who, bool_or(e.is_grantable) AS is_grantable FROM
                aclexplode(r.acl) e GROUP BY 1, 2) x""",
}  # fmt: skip

_FILLED: Final = " UNION ALL ".join(
    "("
    + text.replace("{no_type}", _NO_EXTENSION.format("pg_type", "t.oid"))
    .replace("{no_function}", _NO_EXTENSION.format("pg_proc", "p.oid"))
    .replace("{no_class}", _NO_EXTENSION.format("pg_class", "c.oid"))
    + ")"
    for text in _PARTS.values()
)
OBJECTS: Final = f"""WITH schemas AS MATERIALIZED ({_SCHEMAS}), tables AS MATERIALIZED ({_TABLES}),
    objects (kind, owner, name, shape, definition, made, gone, changed) AS ({_FILLED})
    SELECT json_agg(json_build_array(kind, owner, name, shape, definition, made, gone, changed)
        ORDER BY kind, owner, name)::text FROM objects"""  # noqa: S608 - made of constants
# Tables and what is in them at all, to see those that nobody has placed. $1 as above.
UNPLACED: Final = """SELECT coalesce(json_agg(json_build_array(c.oid::regclass::text,
        pg_total_relation_size(c.oid) - pg_indexes_size(c.oid) > 0) ORDER BY 1::text), '[]')::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgchorus')
        AND c.oid <> ALL (SELECT to_regclass(x) FROM unnest($1::text[]) AS x WHERE to_regclass(x) IS NOT NULL)
        AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND
            e.deptype = 'e')"""
