"""Everything that speaks to shards, and the only importer of asyncpg."""
