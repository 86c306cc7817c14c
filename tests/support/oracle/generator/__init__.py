"""Schemas, rows and statements at random, from a seed.

    chance -> literals -> expressions -> queries -> changes -> groups
                               schema: tables, views, types and rows

Each module's class extends the one before it. Everything that is made has one right answer as far as `oracle.compare`
looks: rows are compared as multisets, LIMIT stands behind an order over all columns or is marked, aggregates whose
value depends on the order of rows have one, floats are sums of quarters, and equal numbers that look different are
compared as numbers. What a statement does is left to chance; that it is valid SQL is seen to by kinds of values.
"""
