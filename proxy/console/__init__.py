"""The console: the virtual database ``pgchorus``, where psql asks a running proxy what it does and tells it what to do.

``session`` reads commands, ``views`` answers SHOW, ``actions`` does the rest, ``table`` writes answers. The columns are
those of PgBouncer's console where it has the same view, so that what reads one reads the other.

https://www.pgbouncer.org/usage.html#admin-console
"""
