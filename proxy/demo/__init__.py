"""Embedded Postgres servers and the demo before them. Nothing in the server proper imports this package."""
