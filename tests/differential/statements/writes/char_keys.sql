-- Writes of tables that are sharded by a char(n).
--! file writes
insert into kc values ('x', 1);
insert into kc values ('x  ', 1), ('y', 2), ('zz ', 3), (null, 4), ('', 5);
insert into kc values ('abcde   ', 1), ('fghij', 2);
insert into kc values ('abcdef', 1);
insert into kc values ('abcdef', 1), ('b', 2);
insert into kc values ('x'::text, 1), ('y '::varchar, 2), ('z'::char(2), 3);
insert into kc values (upper('x '), 1), (lower('Y'), 2);
insert into kc (v) values (1), (2);
insert into kc select k, 7 from kc;
insert into kc select k, 7 from kt where length(k) <= 5;
insert into kc select k, 7 from kv;
insert into kt select k, 7 from kc;
insert into kt select k || ' ', 7 from kc;
insert into kv select k, 7 from kc;
insert into kc select k, 7 from kt;
update kc set v = 9 where k = 'a';
update kc set v = 9 where k = 'a  ' returning *;
update kc set v = 9 where k = 'a  '::text;
update kc set k = 'q' where k = 'a';
update kc set v = s.v from (select k, max(v) as v from kt group by k) s where s.k = kc.k;
update kc set v = b.v + 1 from kc b where b.k = kc.k and b.v > 100;
delete from kc where k = 'b   ';
delete from kc where k in ('a', 'b ', '10');
delete from kc using kc b where b.k = kc.k and b.v = 100;
merge into kc using kc s on kc.k = s.k and s.v < 100 when matched then delete when not matched then insert values (s.k, s.v);
merge into kc using (values ('a', 1), ('new', 2)) s (k, v) on kc.k = s.k when matched then update set v = s.v;
--! params 'x ', 5
insert into kc values ($1, $2), ('y', 6);
--! params 'x '::text, 'y '::varchar
insert into kc values ($1, 5), ($2, 6);
