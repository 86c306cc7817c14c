\set a random(1, 100000 * :scale)
\set b random(1, 100000 * :scale)
\set low least(:a, :b)
\set high greatest(:a, :b)
\set delta random(-5000, 5000)
\set back 0 - :delta
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :low;
UPDATE pgbench_accounts SET abalance = abalance + :back WHERE aid = :high;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :low, :delta, CURRENT_TIMESTAMP);
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :high, :back, CURRENT_TIMESTAMP);
END;
