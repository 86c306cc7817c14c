SELECT count(*), sum(tbalance) FROM pgbench_tellers;
