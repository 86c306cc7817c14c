"""The asynchronous half of pgchorus: a Postgres server in front of many."""
