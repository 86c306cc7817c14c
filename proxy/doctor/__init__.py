"""``pgchorus doctor``: looks at live shards for what is wrong, or will be, and says what mends it.

``kinds`` lists every finding there is; ``examine`` runs the looks in order; each other file looks at one thing;
``report`` says it. Nothing is changed, but for this: a transaction that is decided may be finished while reference
tables are compared, as any reader would do.
"""
