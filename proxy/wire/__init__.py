"""The v3 protocol of Postgres (3.0 and 3.2) without IO: framing, messages, start-up, state table, SCRAM."""
