"""The benchmark: unmodified pgbench against one server, through PgBouncer and through pgchorus, side by side."""
