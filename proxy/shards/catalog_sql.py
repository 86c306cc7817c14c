"""The SQL that reads a database's catalog: one statement, one JSON text, so one round trip and any kind of link.

Decides what is read, not what it means. ``search_path`` must be ``pg_catalog`` while it runs: names in the definitions
that Postgres prints are then whole. Written for PostgreSQL 14 to 18; what an older one lacks is read by ``to_jsonb``.
"""

from __future__ import annotations

from typing import Final

_USER_SCHEMAS: Final = """
  SELECT n.oid, CASE WHEN n.oid = pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END AS name
  FROM pg_namespace n
  WHERE (n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgchorus')) OR n.oid = pg_my_temp_schema()
"""

_RELATIONS: Final = """
  SELECT c.oid, s.name AS schema, c.relname AS name, c.relkind, c.relrowsecurity, c.relispartition, c.relhasrules,
         c.relhastriggers, c.relreplident, c.oid IN (SELECT oid FROM hidden) AS hidden
  FROM pg_class c JOIN schemas s ON s.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
"""

_RELATION_LIST: Final = """
  SELECT json_agg(json_build_array(r.oid::bigint, r.schema, r.name, r.relkind, r.relrowsecurity, r.relispartition,
      CASE WHEN r.relkind IN ('v', 'm') AND NOT r.hidden THEN pg_get_viewdef(r.oid) END,
      (SELECT CASE WHEN NOT r.hidden THEN pg_get_expr(p.partexprs, p.partrelid) END
       FROM pg_partitioned_table p WHERE p.partrelid = r.oid),
      coalesce((SELECT w.xmin FROM pg_rewrite w WHERE w.ev_class = r.oid AND w.rulename = '_RETURN'),
        (SELECT p.xmin FROM pg_partitioned_table p WHERE p.partrelid = r.oid AND p.partexprs IS NOT NULL))::text))
  FROM relations r
"""

# C and ucs_basic order by bytes, and so do all collations of the provider "builtin"; the database's default by its own.
_COLUMN_LIST: Final = """
  SELECT json_agg(json_build_array(a.attrelid::bigint, a.attname, a.attnum, a.atttypid::bigint, t.typname, tn.nspname,
      CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END::bigint, a.atttypmod, a.attnotnull, a.attidentity,
      a.attgenerated, CASE WHEN NOT r.hidden THEN coalesce(pg_get_expr(d.adbin, d.adrelid), of_type.value) END,
      coalesce(l.collname, ''),
      CASE WHEN a.attcollation = 0 THEN true
           WHEN l.collprovider = 'd' THEN (SELECT c_order FROM here)
           WHEN l.collprovider = 'b' THEN true
           WHEN l.collprovider = 'c' THEN l.collcollate IN ('C', 'POSIX') ELSE false END,
      coalesce(l.collisdeterministic, true),
      format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attcollation <> t.typcollation AND l.oid IS NOT NULL
        THEN ' COLLATE ' || quote_ident(ln.nspname) || '.' || quote_ident(l.collname) ELSE '' END,
      format_type(CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END, NULL),
      coalesce(d.xmin, CASE WHEN of_type.value IS NOT NULL THEN t.xmin END)::text)
      ORDER BY a.attrelid, a.attnum)
  FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    -- A column without a default of its own has its domain's.
    CROSS JOIN LATERAL (SELECT CASE WHEN t.typtype = 'd' AND d.oid IS NULL AND a.attidentity = ''
      AND a.attgenerated = '' THEN pg_get_expr(t.typdefaultbin, 0) END AS value) AS of_type
    LEFT JOIN pg_collation l ON l.oid = a.attcollation LEFT JOIN pg_namespace ln ON ln.oid = l.collnamespace
  WHERE r.relkind <> 'S'
"""

_INDEX_LIST: Final = """
  SELECT json_agg(json_build_array(i.indrelid::bigint, x.relname, i.indisunique, i.indisprimary, i.indisexclusion,
      i.indpred IS NOT NULL, NOT i.indimmediate, i.indisreplident,
      CASE WHEN NOT r.hidden THEN pg_get_expr(i.indexprs, i.indrelid) END,
      CASE WHEN NOT r.hidden THEN pg_get_expr(i.indpred, i.indrelid) END,
      CASE WHEN i.indisunique OR i.indisexclusion THEN
        (SELECT json_agg(json_build_array(a.attname, o.opcdefault,
                i.indcollation[k.n - 1] = coalesce(a.attcollation, 0),
                f.conexclop IS NULL OR EXISTS (SELECT FROM pg_operator e WHERE e.oid = f.conexclop[k.n]
                  AND e.oprname = '=' AND e.oprnamespace = 'pg_catalog'::regnamespace)) ORDER BY k.n)
         FROM generate_series(1, i.indnkeyatts) AS k(n)
           JOIN pg_opclass o ON o.oid = i.indclass[k.n - 1]
           LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1] AND a.attnum <> 0
           LEFT JOIN pg_constraint f ON f.conindid = i.indexrelid AND f.conexclop IS NOT NULL AND f.contype = 'x') END,
      CASE WHEN i.indexprs IS NOT NULL OR i.indpred IS NOT NULL THEN i.xmin::text END))
  FROM relations r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class x ON x.oid = i.indexrelid
  WHERE i.indisunique OR i.indisexclusion OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
"""

_FOREIGN_KEY_LIST: Final = """
  SELECT json_agg(json_build_array(c.conrelid::bigint, c.conname, c.confrelid::bigint,
      (SELECT json_agg(a.attname ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY AS k(attnum, n)
         JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum),
      (SELECT json_agg(a.attname ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY AS k(attnum, n)
         JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum),
      c.confupdtype, c.confdeltype, c.condeferrable))
  FROM relations r JOIN pg_constraint c ON c.conrelid = r.oid AND c.contype = 'f'
"""

_LISTS: Final = {
    "relations": _RELATION_LIST,
    "columns": _COLUMN_LIST,
    "indexes": _INDEX_LIST,
    "foreign_keys": _FOREIGN_KEY_LIST,
    "index_names": """
  SELECT json_agg(json_build_array(i.indrelid::bigint, x.relname))
  FROM relations r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class x ON x.oid = i.indexrelid
""",
    "inherits": """
  SELECT json_agg(json_build_array(i.inhrelid::bigint, i.inhparent::bigint) ORDER BY i.inhrelid, i.inhseqno)
  FROM relations r JOIN pg_inherits i ON i.inhrelid = r.oid
""",
    "checks": """
  SELECT json_agg(json_build_array(c.conrelid::bigint, c.conname,
      CASE WHEN NOT r.hidden THEN pg_get_expr(c.conbin, c.conrelid) END, c.xmin::text))
  FROM relations r JOIN pg_constraint c ON c.conrelid = r.oid AND c.contype = 'c'
""",
    "triggers": """
  SELECT json_agg(json_build_array(g.tgrelid::bigint, g.tgname, g.tgtype, g.tgfoid::bigint,
      CASE WHEN g.tgqual IS NOT NULL AND NOT r.hidden THEN pg_get_triggerdef(g.oid) END, g.tgdeferrable,
      CASE WHEN g.tgqual IS NOT NULL THEN g.xmin::text END))
  FROM relations r JOIN pg_trigger g ON g.tgrelid = r.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D'
  WHERE r.relhastriggers
""",
    "rules": """
  SELECT json_agg(json_build_array(w.ev_class::bigint, w.rulename, w.ev_type, w.is_instead,
      CASE WHEN NOT r.hidden THEN pg_get_ruledef(w.oid) END, w.xmin::text))
  FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid AND w.rulename <> '_RETURN' AND w.ev_enabled <> 'D'
  WHERE r.relhasrules
""",
    "policies": """
  SELECT json_agg(json_build_array(p.polrelid::bigint,
      CASE WHEN NOT r.hidden THEN pg_get_expr(p.polqual, p.polrelid) END,
      CASE WHEN NOT r.hidden THEN pg_get_expr(p.polwithcheck, p.polrelid) END, p.oid || ' ' || p.xmin))
  FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
""",
    "sequences": """
  SELECT json_agg(json_build_array(d.objid::bigint, d.refobjid::bigint, d.refobjsubid, d.deptype))
  FROM relations r JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = r.oid
    AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
  WHERE r.relkind = 'S'
""",
    "functions": """
  SELECT json_agg(json_build_array(p.oid::bigint, s.name, p.proname, p.prokind, p.provolatile, l.lanname, p.pronargs,
      p.pronargdefaults, p.provariadic <> 0, p.proretset, p.prosrc,
      CASE WHEN (l.lanname = 'plpgsql' OR to_jsonb(p) ->> 'prosqlbody' IS NOT NULL) AND p.prokind IN ('f', 'p', 'w')
          AND (to_jsonb(p) ->> 'prosqlbody' IS NULL OR p.oid NOT IN (SELECT oid FROM hidden))
        THEN pg_get_functiondef(p.oid) END,
      to_jsonb(p) ->> 'prosqlbody' IS NOT NULL, pg_get_expr(p.proargdefaults, 0), e.extname,
      coalesce(a0.typtype = 'c' OR a0.typname IN ('record', 'anyelement', 'any', 'anycompatible'), false),
      p.probin, CASE WHEN to_jsonb(p) ->> 'prosqlbody' IS NOT NULL THEN p.xmin::text END))
  FROM pg_proc p JOIN function_schemas s ON s.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    LEFT JOIN pg_type a0 ON p.pronargs = 1 AND a0.oid = p.proargtypes[0]
    LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    LEFT JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
  WHERE p.oid >= 16384
""",
    "aggregates": """
  SELECT json_agg(json_build_array(p.oid::bigint,
      ARRAY[g.aggtransfn::oid, g.aggfinalfn::oid, g.aggcombinefn::oid, g.aggserialfn::oid, g.aggdeserialfn::oid,
        g.aggmtransfn::oid, g.aggminvtransfn::oid, g.aggmfinalfn::oid]::bigint[]))
  FROM pg_aggregate g JOIN pg_proc p ON p.oid = g.aggfnoid
  WHERE p.oid >= 16384
""",
    "operators": """
  SELECT json_agg(json_build_array(n.nspname, o.oprname, o.oprleft <> 0 AND o.oprright <> 0, o.oprcode::oid::bigint,
      (SELECT json_agg(t.typname) FROM unnest(ARRAY[o.oprleft, o.oprright]) AS operand JOIN pg_type t ON t.oid = operand
       WHERE t.typtype <> 'd' AND t.typnamespace <> 'pg_catalog'::regnamespace)))
  FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace
  WHERE o.oid >= 16384
""",
    "casts": """
  SELECT json_agg(json_build_array(a.typname, b.typname, c.castcontext, c.castfunc::bigint))
  FROM pg_cast c JOIN pg_type a ON a.oid = c.castsource JOIN pg_type b ON b.oid = c.casttarget
  WHERE c.oid >= 16384
""",
    "types": """
  SELECT json_agg(json_build_array(t.oid::bigint, s.name, t.typname, t.typtype, t.typbasetype::bigint, t.typdefault,
      (SELECT json_agg(pg_get_expr(c.conbin, 0)) FROM pg_constraint c WHERE c.contypid = t.oid AND c.contype = 'c')))
  FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace
  WHERE t.typtype IN ('b', 'd', 'e', 'r', 'm') AND t.typelem = 0 OR t.typtype = 'd'
""",
    # Composite types that are not a relation's.
    "composites": """
  SELECT json_agg(json_build_array(t.oid::bigint, s.name, t.typname))
  FROM pg_type t JOIN schemas s ON s.oid = t.typnamespace JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
""",
    "row_types": """
  SELECT json_agg(json_build_array(c.reltype::bigint, c.oid::bigint))
  FROM relations r JOIN pg_class c ON c.oid = r.oid WHERE c.reltype <> 0
""",
    "type_parts": """
  SELECT json_agg(json_build_array(p.whole::bigint, p.part::bigint))
  FROM (SELECT t.oid, t.typelem FROM pg_type t WHERE t.typelem >= 16384
        UNION SELECT t.oid, t.typbasetype FROM pg_type t WHERE t.typbasetype >= 16384
        UNION SELECT g.rngtypid, g.rngsubtype FROM pg_range g WHERE g.rngsubtype >= 16384
        UNION SELECT g.rngmultitypid, g.rngtypid FROM pg_range g WHERE g.rngtypid >= 16384
        UNION SELECT c.reltype, a.atttypid FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
              WHERE c.reltype <> 0 AND a.atttypid >= 16384 AND a.attnum > 0) AS p(whole, part)
""",
    "signatures": """
  SELECT json_agg(json_build_array(p.oid::bigint,
      (SELECT json_agg(t::bigint) FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype) t
       WHERE t >= 16384)))
  FROM pg_proc p JOIN function_schemas s ON s.oid = p.pronamespace
  WHERE p.oid >= 16384
    AND 16383 < ANY (coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype)
""",
    "schemas": "SELECT json_agg(name) FROM schemas",
    "hidden": "SELECT json_agg(oid::bigint) FROM hidden",
    "roles": "SELECT json_agg(json_build_array(rolname, rolsuper)) FROM pg_roles",
    # Before 16 the member says whether it inherits. The owner of the database is a member without an entry.
    "members": """
  SELECT json_agg(json_build_array(m.rolname, g.rolname))
  FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
  WHERE coalesce((to_jsonb(a) ->> 'inherit_option')::boolean, m.rolinherit)
""",
    "database_owner": "SELECT json_build_array(r.rolname) FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba "
    "WHERE d.datname = current_database()",
    "usage": """
  SELECT json_agg(json_build_array(n.nspname,
      (SELECT json_agg(CASE WHEN x.grantee = 0 THEN '' ELSE r.rolname END)
       FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x LEFT JOIN pg_roles r ON r.oid = x.grantee
       WHERE x.privilege_type = 'USAGE')))
  FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'pgchorus'
""",
    "server": "SELECT json_build_array(current_setting('server_version_num')::int, current_database())",
}

_BODY: Final = ",\n".join(f"'{name}', ({text})" for name, text in _LISTS.items())

# What cannot be printed without waiting: relations that somebody holds, or wants, in ACCESS EXCLUSIVE mode, and the
# views, rules, policies and functions whose queries name them (Postgres locks these tables as well).
_BUSY: Final = """
  SELECT DISTINCT relation AS oid FROM pg_locks
  WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND pid IS DISTINCT FROM pg_backend_pid()
    AND database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
"""
_HIDDEN: Final = """
  SELECT oid FROM busy
  UNION SELECT w.ev_class FROM naming n JOIN pg_rewrite w ON n.classid = 'pg_rewrite'::regclass AND w.oid = n.objid
  UNION SELECT p.polrelid FROM naming n JOIN pg_policy p ON n.classid = 'pg_policy'::regclass AND p.oid = n.objid
  UNION SELECT n.objid FROM naming n WHERE n.classid = 'pg_proc'::regclass
"""
_NAMING: Final = """
  SELECT d.classid, d.objid FROM busy b
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = b.oid
"""

_CATALOG: Final = f"""
WITH busy AS MATERIALIZED ({{busy}}),
 naming AS MATERIALIZED ({_NAMING}),
 hidden AS MATERIALIZED ({_HIDDEN}),
 schemas AS MATERIALIZED ({_USER_SCHEMAS}),
 function_schemas AS (SELECT * FROM schemas UNION ALL SELECT 'pg_catalog'::regnamespace, 'pg_catalog'),
 relations AS MATERIALIZED ({_RELATIONS}),
 here AS (SELECT d.datcollate IN ('C', 'POSIX') AND coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c'
            OR coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'b' AS c_order
          FROM pg_database d WHERE d.datname = current_database())
SELECT json_build_object({_BODY})::text
"""  # noqa: S608 - made of constants
READ_CATALOG: Final = _CATALOG.replace("{busy}", _BUSY)
READ_CATALOG_WHOLE: Final = _CATALOG.replace("{busy}", "SELECT NULL::oid AS oid WHERE false")
"""Returns one text: a JSON object of lists, each item a list in the order of the SELECT above.

``READ_CATALOG`` prints nothing that it would have to wait for (see :mod:`proxy.shards.catalog_known`),
``READ_CATALOG_WHOLE`` all there is.
"""

READ_BUILTINS: Final = """
SELECT json_build_object(
  'functions', (SELECT json_agg(json_build_array(f.proname, f.volatile, f.kinds, f.proretset)) FROM (
    SELECT p.proname, max(p.provolatile) AS volatile, string_agg(DISTINCT p.prokind::text, '') AS kinds,
      bool_or(p.proretset) AS proretset
    FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.oid < 16384 GROUP BY p.proname) f),
  'relations', (SELECT json_agg(json_build_array(n.nspname, c.relname))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'v') AND n.nspname IN ('pg_catalog', 'information_schema')))::text
"""
"""Names in pg_catalog: i, s, v happen to be in the order from harmless to volatile, so ``max`` takes the worst."""

HAS_VERSION: Final = "SELECT to_regclass('pgchorus.catalog_change') IS NOT NULL"
READ_VERSION: Final = "SELECT count(*) FROM pgchorus.catalog_change"
