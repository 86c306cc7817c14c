"""What each shard is asked about itself: one statement, one JSON text.

Settings are told as the configuration files and the command line of the server have them: the session's own values, as
the proxy's links set some, say nothing.
"""

from __future__ import annotations

from typing import Final

# Settings that change what a row's text is, or how a statement's text is read, on the shard that runs it.
SAME_EVERYWHERE: Final = (
    "DateStyle", "IntervalStyle", "TimeZone", "array_nulls", "bytea_output", "default_text_search_config",
    "extra_float_digits", "lc_monetary", "lc_numeric", "lc_time", "quote_all_identifiers", "timezone_abbreviations",
    "xmlbinary", "xmloption", "default_transaction_isolation", "default_transaction_read_only", "search_path",
    "standard_conforming_strings", "transform_null_equals", "session_replication_role", "row_security",
)  # fmt: skip
WATCHED: Final = (*SAME_EVERYWHERE, "idle_session_timeout", "synchronous_standby_names", "fsync", "full_page_writes")

# $1: configured users, $2: settings. Where the session has set something itself, the file's value counts.
FACTS: Final = """SELECT json_build_object(
    'version', current_setting('server_version_num')::int / 10000,
    'role', current_user,
    'database', current_database(),
    'encoding', current_setting('server_encoding'),
    'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
    'max_prepared', current_setting('max_prepared_transactions')::int,
    'max_connections', current_setting('max_connections')::int,
    'identity', (SELECT system_identifier FROM pg_control_system()) || '/' || d.oid,
    'locale', concat_ws(' ', d.datlocprovider, d.datcollate, d.datctype, to_jsonb(d) ->> 'datlocale',
        to_jsonb(d) ->> 'daticulocale'),
    'collation', json_build_array(to_jsonb(d) ->> 'datcollversion', pg_database_collation_actual_version(d.oid)),
    'clock', extract(epoch FROM clock_timestamp()),
    'replicas', (SELECT coalesce(json_agg(json_build_array(application_name, sync_state) ORDER BY pid), '[]')
        FROM pg_stat_replication),
    'settings', (SELECT json_object_agg(s.name, json_build_array(s.source, s.reset_val, s.boot_val))
        FROM pg_settings s WHERE s.name = ANY($2::text[])),
    'overrides', (SELECT coalesce(json_agg(json_build_array(coalesce(r.rolname, ''), o.setdatabase <> 0,
        split_part(c, '=', 1),
            substr(c, strpos(c, '=') + 1)) ORDER BY 1), '[]')
        FROM pg_db_role_setting o CROSS JOIN unnest(o.setconfig) AS c LEFT JOIN pg_roles r ON r.oid = o.setrole
        WHERE o.setdatabase = d.oid OR (o.setdatabase = 0 AND r.rolname = ANY($1::text[]))),
    'users', (SELECT json_object_agg(wanted, CASE WHEN r.oid IS NOT NULL THEN json_build_object(
            'login', r.rolcanlogin,
            'connect', has_database_privilege(r.oid, d.oid, 'CONNECT'),
            'temporary', has_database_privilege(r.oid, d.oid, 'TEMPORARY'),
            'attributes', json_build_object('SUPERUSER', r.rolsuper, 'INHERIT', r.rolinherit, 'BYPASSRLS',
            r.rolbypassrls,
                'CREATEROLE', r.rolcreaterole, 'CREATEDB', r.rolcreatedb),
            'member_of', (SELECT coalesce(json_agg(g.rolname ORDER BY g.rolname), '[]') FROM pg_auth_members m
                JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid)) END)
        FROM unnest($1::text[]) AS wanted LEFT JOIN pg_roles r ON r.rolname = wanted),
    'old', (SELECT coalesce(json_agg(json_build_array(a.pid, a.usename, extract(epoch FROM clock_timestamp() -
        a.xact_start)::int,
            a.state) ORDER BY a.xact_start), '[]')
        FROM pg_stat_activity a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
            AND a.xact_start < clock_timestamp() - make_interval(secs => $3::int)),
    'event_triggers', (SELECT coalesce(json_object_agg(evtname, evtenabled::text), '{}') FROM pg_event_trigger
        WHERE evtname IN ('pgchorus_ddl', 'pgchorus_drop')),
    'own', (SELECT CASE WHEN n.oid IS NOT NULL THEN json_build_object(
        'usage', has_schema_privilege('public', n.oid, 'USAGE'),
        'relations', (SELECT coalesce(json_agg(c.relname), '[]') FROM pg_class c WHERE c.relnamespace = n.oid),
        'routines', (SELECT coalesce(json_object_agg(p.proname, json_build_array(
            has_function_privilege('public', p.oid, 'EXECUTE'), md5(p.prosrc), p.prosecdef)), '{}')
            FROM pg_proc p WHERE p.pronamespace = n.oid)) END
        FROM (VALUES (to_regnamespace('pgchorus')::oid)) AS n (oid))
    )::text
    FROM pg_database d WHERE d.datname = current_database()"""

# For a superuser alone. The last line of the files counts.
FILE_SETTINGS: Final = """SELECT json_object_agg(name, setting ORDER BY seqno)::text FROM pg_file_settings
    WHERE applied AND name = ANY($1::text[])"""
