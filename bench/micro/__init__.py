"""Microbenchmarks: what one operation costs in our own code, without sockets and without Postgres."""
