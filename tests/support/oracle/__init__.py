"""The differential oracle: the same statements on one Postgres and on the proxy, and what a client can see of both."""
