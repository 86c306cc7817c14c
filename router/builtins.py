"""Built-in functions by effect: what volatility alone does not say.

``provolatile`` does not tell which built-ins read tables by name, write, act at commit, describe one server's state or
change settings. These lists do, for PostgreSQL 14 to 18. What is volatile and on no list counts as a writer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


def names(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Builtin:
    """One name in pg_catalog, all overloads together: the worst of their volatilities.

    ``volatile``: i, s or v. ``kinds``: letters of prokind that occur (f a w p). ``arguments``: (least, most) of them.
    """

    volatile: str = "i"
    kinds: str = "f"
    returns_set: bool = False


READERS: Final = names(
    """
    query_to_xml query_to_xmlschema query_to_xml_and_xmlschema table_to_xml table_to_xmlschema
    table_to_xml_and_xmlschema cursor_to_xml cursor_to_xmlschema schema_to_xml schema_to_xmlschema
    schema_to_xml_and_xmlschema database_to_xml database_to_xmlschema database_to_xml_and_xmlschema ts_stat
    pg_get_publication_tables pg_show_replication_origin_status
    """
)
"""They read whatever table or query their argument names: nobody can see which."""

TEXT_QUERY_READERS: Final = frozenset({"ts_rewrite"})
"""Readers in their two-argument form (the second is a query); other forms read nothing."""

SEQUENCES: Final = frozenset(
    {"nextval", "setval", "currval", "lastval", "pg_sequence_last_value", "pg_get_sequence_data"}
)
"""Sequences live on the home shard. ``currval`` and ``lastval`` answer for the link that ran nextval."""

SESSION_SEQUENCES: Final = frozenset({"currval", "lastval"})
"""Only the link that called nextval knows."""

SETS_SEQUENCE: Final = "setval"
ADVANCING_SEQUENCES: Final = frozenset({"nextval", SETS_SEQUENCE})
"""They change what currval and lastval answer on their link."""

WRITERS: Final = names(
    """
    nextval setval
    lo_create lo_creat lo_from_bytea lo_import lo_open lo_put lo_unlink lo_truncate lo_truncate64 lowrite lo_close
    pg_notify pg_logical_emit_message txid_current pg_current_xact_id
    pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared
    pg_restore_relation_stats pg_restore_attribute_stats pg_clear_relation_stats pg_clear_attribute_stats
    brin_summarize_new_values brin_summarize_range brin_desummarize_range gin_clean_pending_list
    pg_nextoid binary_upgrade_create_empty_extension
    """
)
"""They write, or act at commit."""

LARGE_OBJECTS: Final = names(
    """
    lo_create lo_creat lo_from_bytea lo_get lo_import lo_export lo_open lo_put lo_unlink lo_truncate lo_truncate64
    lowrite loread lo_close lo_lseek lo_lseek64 lo_tell lo_tell64
    """
)
"""Large objects live on the home shard."""

SESSION_LOCKS: Final = names(
    """
    pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
    pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all
    """
)
"""They outlive the transaction: the link stays with the session."""

TRANSACTION_LOCKS: Final = names(
    """
    pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared
    """
)

NO_PREPARE: Final = {
    "pg_notify": "NOTIFY",
    "pg_export_snapshot": "an exported snapshot",
}
"""After these Postgres refuses to PREPARE the transaction; the value says why."""

SNAPSHOTS: Final = frozenset({"pg_export_snapshot"})
"""One shard's snapshot is not the database's: refused when a database has several shards."""

SETTINGS: Final = frozenset({"set_config", "setseed"})
"""They change the session, which no message reports."""

HARMLESS_VOLATILE: Final = names(
    """
    random random_normal gen_random_uuid uuidv4 uuidv7 clock_timestamp timeofday pg_sleep pg_sleep_for pg_sleep_until
    currval lastval set_config setseed xmlvalidate
    pg_is_in_recovery pg_stat_clear_snapshot pg_listening_channels
    pg_sequence_last_value pg_get_sequence_data pg_relation_size pg_total_relation_size pg_table_size pg_indexes_size
    pg_database_size pg_tablespace_size pg_stat_get_activity pg_lock_status pg_prepared_xact pg_prepared_statement
    pg_cursor pg_stat_get_snapshot_timestamp pg_blocking_pids pg_safe_snapshot_blocking_pids
    pg_isolation_test_session_is_blocked pg_xact_status txid_status pg_backend_pid pg_conf_load_time
    pg_postmaster_start_time pg_current_wal_lsn pg_current_wal_insert_lsn pg_current_wal_flush_lsn
    pg_last_wal_receive_lsn pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_ls_dir pg_stat_file pg_read_file
    pg_read_binary_file pg_ls_logdir pg_ls_waldir pg_ls_tmpdir pg_show_all_settings pg_show_all_file_settings
    pg_hba_file_rules pg_ident_file_mappings pg_config pg_available_extensions pg_available_extension_versions
    pg_extension_update_paths pg_timezone_names pg_options_to_table pg_cancel_backend pg_terminate_backend
    pg_reload_conf pg_rotate_logfile cursor_to_xml cursor_to_xmlschema query_to_xml query_to_xmlschema
    query_to_xml_and_xmlschema ts_stat ts_rewrite pg_try_advisory_lock pg_try_advisory_lock_shared pg_advisory_lock
    pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_shared pg_advisory_unlock_all lo_get loread lo_lseek
    lo_lseek64 lo_tell lo_tell64 lo_export
    array_sample array_shuffle current_query pg_partition_tree pg_partition_ancestors pg_notification_queue_usage
    pg_collation_actual_version pg_database_collation_actual_version pg_xact_commit_timestamp pg_last_committed_xact
    pg_is_wal_replay_paused pg_current_logfile pg_jit_available pg_stat_have_stats amvalidate
    """
)
"""Volatile, but they change no data and do nothing at commit: a transaction that only calls them is no writer."""

HARMLESS_PREFIXES: Final = ("pg_stat_get_", "pg_get_", "pg_ls_", "pg_control_", "pg_show_")
"""The same, for whole families."""

RUNNING_OTHERS: Final = (
    READERS
    | TEXT_QUERY_READERS
    | SETTINGS
    | names("pg_input_is_valid pg_input_error_info domain_in record_in array_in range_in multirange_in")
)
"""They run code that their arguments name (queries, checks of domains), or change whose rights are used."""

FREE_VOLATILE: Final = names(
    """
    random random_normal gen_random_uuid uuidv4 uuidv7 clock_timestamp timeofday pg_sleep pg_sleep_for pg_sleep_until
    array_sample array_shuffle
    """
)
"""Volatile, but any shard may run them for its own rows: the answer is one that a single Postgres could give."""

TRANSACTION_CLOCK: Final = frozenset(
    {"now", "transaction_timestamp", "statement_timestamp", "localtime", "localtimestamp", "current_timestamp"}
)
"""They read the clock of the transaction or statement: one value on one Postgres, one per shard on several."""

ONE_SERVER: Final = names(
    """
    pg_backend_pid pg_current_xact_id pg_current_xact_id_if_assigned pg_current_snapshot txid_current
    txid_current_if_assigned txid_current_snapshot txid_status pg_xact_status pg_blocking_pids
    pg_safe_snapshot_blocking_pids inet_server_addr inet_server_port inet_client_addr inet_client_port
    pg_postmaster_start_time pg_conf_load_time pg_cancel_backend pg_terminate_backend pg_reload_conf pg_rotate_logfile
    pg_relation_size pg_total_relation_size pg_table_size pg_indexes_size pg_database_size pg_tablespace_size
    pg_relation_filenode pg_relation_filepath pg_ls_dir pg_stat_file pg_read_file pg_read_binary_file pg_ls_logdir
    pg_ls_waldir pg_ls_tmpdir pg_current_wal_lsn pg_current_wal_insert_lsn pg_current_wal_flush_lsn pg_is_in_recovery
    pg_logical_emit_message pg_notify pg_export_snapshot set_config pg_my_temp_schema
    pg_is_other_temp_schema pg_listening_channels pg_notification_queue_usage pg_switch_wal
    pg_create_restore_point pg_promote pg_stat_reset pg_stat_reset_shared pg_stat_clear_snapshot pg_lock_status
    pg_prepared_xact pg_prepared_statement pg_cursor pg_partition_tree pg_partition_root pg_partition_ancestors
    to_regclass to_regtype to_regproc to_regprocedure to_regoper to_regoperator to_regnamespace to_regrole
    to_regcollation pg_get_serial_sequence row_security_active has_table_privilege has_column_privilege
    has_any_column_privilege has_sequence_privilege has_function_privilege has_schema_privilege has_type_privilege
    hashenum hashenumextended hash_array hash_array_extended hash_record hash_record_extended hash_range
    hash_range_extended hash_multirange hash_multirange_extended oidsend
    regclassin regtypein regprocin regprocedurein regoperin regoperatorin regnamespacein regrolein regcollationin
    regclasssend regtypesend regprocsend regproceduresend regopersend regoperatorsend regnamespacesend regrolesend
    regcollationsend regconfigsend regdictionarysend
    """
)
"""They describe one server or one session, name its catalog's objects, or count with their numbers (as hashes of enums
do): the home shard answers."""

ONE_SERVER_PREFIXES: Final = (
    "pg_stat_",
    "pg_get_",
    "pg_replication_",
    "pg_logical_",
    "pg_copy_",
    "pg_create_",
    "pg_drop_",
    "pg_wal_",
)

SERVER_VALUE: Final = "a server's own value"
"""Stands in what a function uses for an expression of :mod:`router.server_values`; nothing can have this name."""

SERVER_PROCESS: Final = names(
    """
    pg_replication_origin_session_setup pg_create_physical_replication_slot pg_create_logical_replication_slot
    pg_copy_physical_replication_slot pg_copy_logical_replication_slot pg_backup_start pg_start_backup
    """
)
"""They leave something in the server's process that lasts as long as it: the link stays with the session."""

CLOSED_EXTENSIONS: Final = names(
    """
    bloom btree_gin btree_gist citext cube dict_int dict_xsyn earthdistance fuzzystrmatch hstore intagg intarray isn
    ltree pg_trgm pgcrypto seg tsm_system_rows tsm_system_time unaccent uuid-ossp vector
    """
)
"""Extensions whose C functions touch no table of the user's (contrib by its documentation, and pgvector)."""

FORGETFUL_EXTENSIONS: Final = CLOSED_EXTENSIONS | names(
    """
    adminpack amcheck autoinc file_fdw insert_username lo moddatetime pageinspect pg_buffercache pg_freespacemap
    pg_logicalinspect pg_overexplain pg_prewarm pg_stat_statements pg_surgery pg_visibility pg_walinspect pgrowlocks
    pgstattuple plpgsql postgres_fdw refint sslinfo tablefunc tcn test_decoding xml2
    """
)
"""Extensions whose C functions leave nothing in the server's process that a later caller would notice.

Left out: the symbols below. What any other volatile function in C leaves (``dblink_connect``) nobody can tell: its link
stays with the session.
"""

REMEMBERING_SYMBOLS: Final = {
    "set_limit": "SET pg_trgm.similarity_threshold is followed",
    "accept_weak_input": "isn_weak() changes what is let in",
}
"""C functions of those extensions (pg_proc.prosrc) that make something like a setting: why one shard must not do it."""

# The names below stand in for pg_proc where a catalog was made without a server (tests): everything else that a server
# would know as a function of pg_catalog counts as immutable then.
AGGREGATES: Final = names(
    """
    any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp cume_dist dense_rank
    every json_agg json_agg_strict json_object_agg json_object_agg_strict json_object_agg_unique
    json_object_agg_unique_strict jsonb_agg jsonb_agg_strict jsonb_object_agg jsonb_object_agg_strict
    jsonb_object_agg_unique jsonb_object_agg_unique_strict max min mode percent_rank percentile_cont percentile_disc
    range_agg range_intersect_agg rank regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx
    regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance xmlagg
    """
)
WINDOWS: Final = names(
    "cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number"
)
RETURNS_SET: Final = names(
    """
    generate_series generate_subscripts json_array_elements json_array_elements_text json_each json_each_text
    json_object_keys json_populate_recordset json_to_recordset jsonb_array_elements jsonb_array_elements_text jsonb_each
    jsonb_each_text jsonb_object_keys jsonb_path_query jsonb_populate_recordset jsonb_to_recordset regexp_matches
    regexp_split_to_table string_to_table ts_debug ts_parse ts_stat ts_token_type unnest
    """
)


def assumed(name: str) -> Builtin:
    """Return what a pg_catalog function of this name is taken for when no server was asked."""
    kinds = "".join(letter for letter, names_ in (("a", AGGREGATES), ("w", WINDOWS)) if name in names_) or "f"
    if name in WRITERS or name in HARMLESS_VOLATILE or name in NO_PREPARE or name in SESSION_LOCKS:
        volatile = "v"
    elif name in TRANSACTION_CLOCK or name in ONE_SERVER:
        volatile = "s"
    else:
        volatile = "i"
    return Builtin(volatile, kinds, name in RETURNS_SET)
