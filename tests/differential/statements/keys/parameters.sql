-- Keys as parameters, with and without a declared type.
--! params 1
select * from k8 where k = $1 order by v;
--! params 1::int8
select * from k8 where k = $1 order by v;
--! params 1::int4
select * from k8 where k = $1 order by v;
--! params 1::int2
select * from k8 where k = $1 order by v;
--! params 1::numeric
select * from k8 where k = $1 order by v;
--! params 1.5::numeric
select * from k8 where k = $1 order by v;
--! params 9007199254740992::float8
select * from k8 where k = $1 order by k, v;
--! params '1'::text
select * from k8 where k = $1 order by v;
--! params '1'::text
select * from k8 where k = $1::int8 order by v;
--! params '1'
select * from k8 where k = $1::text::int8 order by v;
--! params null
select * from k8 where k = $1 order by v;
--! params null::int8
select * from k8 where k = $1 or ($1 is null and k is null) order by v;
--! params null
select * from k8 where k is not distinct from $1 order by v;
--! params 1
select * from k8 where k is not distinct from $1 order by v;
--! params 1, 2
select * from k8 where k in ($1, $2) order by k, v;
--! params 1, null
select * from k8 where k in ($1, $2) order by k, v;
--! params '{1,2,3}'
select * from k8 where k = any ($1) order by k, v;
--! params '{1,2,3}'::int8[]
select * from k8 where k = any ($1) order by k, v;
--! params '{1,2,3}'::int4[]
select * from k8 where k = any ($1) order by k, v;
--! params '{}'
select * from k8 where k = any ($1) order by k, v;
--! params null
select * from k8 where k = any ($1) order by k, v;
--! params '{1,NULL}'
select * from k8 where k = any ($1) order by k, v;
--! params 1
select * from k8 where k = $1 + 1 order by v;
--! params 1
select * from k8 where k = coalesce($1, 0) order by v;
--! params 1, 3
select * from k8 where k = $1 and v = $2;
--! params 1
select * from k8 where v = $1 and k = $1 order by v;
--! params 1, 2
select * from k8 where k = $1 or k = $2 order by k, v;
--! params 1, 4
select * from k8 where (k, v) = ($1, $2);
--! params 1, 3
select * from k8 where k between $1 and $2 order by k, v;
--! params ' 1 '
select * from k8 where k = $1 order by v;
--! params '0x1'
select * from k8 where k = $1 order by v;
--! params '1_0'
select * from k8 where k = $1 order by v;
--! params 'x'
select * from k8 where k = $1 order by v;
--! params '9223372036854775808'
select * from k8 where k = $1 order by v;
--! params '2147483648'
select * from k4 where k = $1 order by v;
--! params 2147483648::int8
select * from k4 where k = $1 order by v;
--! params 1::int8
select * from k4 where k = $1 order by v;
--! params 65537::int4
select * from k2 where k = $1 order by v;
--! params 1
select * from k2 where k = $1 order by v;
--! params 1::int2
select * from k2 where k = $1 order by v;
--! params 'a'
select * from kt where k = $1 order by v;
--! params 'a'::text
select * from kt where k = $1 order by v;
--! params 'a'::varchar
select * from kt where k = $1 order by v;
--! params 'a '::text
select * from kt where k = $1 order by v;
--! params 'a'
select * from kt where k = $1::char(3) order by v;
--! params 'é'
select * from kt where k = $1 order by v;
--! params ''
select * from kt where k = $1 order by v;
--! params '{a,b}'
select * from kt where k = any ($1) order by k, v;
--! params '{a,b}'::text[]
select * from kt where k = any ($1) order by k, v;
--! params 'a', 'b'
select * from kt where k in ($1, $2) order by k, v;
--! params 'abcde'
select * from kv where k = $1 order by v;
--! params 'abcde'::varchar
select * from kv where k = $1 order by v;
--! params 'abcdef'
select * from kv where k = $1::varchar(5) order by v;
--! params 'a'
select * from kc where k = $1 order by v;
--! params 'a  '
select * from kc where k = $1 order by v;
--! params 'a '::text
select * from kc where k = $1 order by v;
--! params 'a'::text
select * from kc where k = $1 order by v;
--! params 'a '::varchar
select * from kc where k = $1 order by v;
--! params 'a ', 'b'::varchar
select * from kc where k in ($1, $2) order by k, v;
--! params '{a,"b "}'::text[]
select * from kc where k = any ($1) order by k, v;
--! params 'a '
select * from kc, kt where kt.k = $1 and kc.k = $1 order by kc.k, kc.v, kt.v;
--! params '00000001-0000-4000-8000-000000000007'
select * from ku where k = $1 order by v;
--! params '00000001-0000-4000-8000-000000000007'::uuid
select * from ku where k = $1 order by v;
--! params '00000001-0000-4000-8000-000000000007'::text
select * from ku where k = $1::uuid order by v;
--! params 'nonsense'
select * from ku where k = $1 order by v;
--! params 5::int8
select c.id, o.id from customers c join orders o on o.customer_id = c.id where c.id = $1 order by 2;
--! params 5::int8, 'paid'
select id, total from orders where customer_id = $1 and status = $2 order by id;
--! params 'paid'
select customer_id, id from orders where status = $1 order by 1, 2;
--! params 'paid', 3
select customer_id, id from orders where status = $1 order by 1, 2 limit $2;
--! params 3, 2
select id from customers order by id limit $1 offset $2;
--! params null, null
select id from customers order by id limit $1 offset $2;
--! params 0
select id from customers order by id limit $1;
--! params -1
select id from customers order by id limit $1;
--! params 3::int8
select id from customers order by id offset $1;
--! params 100
select status, count(*), sum(total) from orders where total > $1 group by status order by status;
--! params 10
select status, count(*) from orders group by status having count(*) > $1 order by status;
--! params 2
select id + $1 from customers order by id;
--! params 'x'
select id, $1 from customers order by id limit 3;
--! params 'x'::text
select $1 || name from customers order by id;
--! params 2::int4
select customer_id % $1, count(*) from orders group by 1 order by 1;
--! params 5
select count(*) from customers where id = $1 and id = 7;
--! params 5::int8, 7::int8
select count(*) from customers c, orders o where c.id = $1 and o.customer_id = $2;
--! params 5::int8
select (select count(*) from orders where customer_id = $1) from customers where id = $1;
--! params 5::int8
select count(*) from orders where customer_id in (select id from customers where id = $1);
--! params true
select id from customers where vip = $1 order by id;
--! params '2024-06-01'
select customer_id, id from orders where placed > $1 order by 1, 2;
--! params '2024-06-01'::timestamptz
select count(*) from orders where placed > $1;
--! params 1
select $1::int4;
--! params 1, 2
select $1::int4 + $2::int4 as three;
--! params 'x', 'y'
select $2::text, $1::text;
--! params 1
select * from countries where population > $1 order by code;
--! params 'a  '
select * from kt where $1::char(3) = 'a' and k = $1 order by v;
--! params 'a  '
select * from kt where k = 'a' and $1::char(3) = k order by v;
--! params 'PE'
select name from countries where code = $1;
--! params 'dark'
select name from settings where value = $1;
--! params 1
select * from k8 where k = $2 order by v;
--! params 1, 2, 3
select * from k8 where k = $1 order by v;
--! params 5
select count(*) from (select customer_id from orders limit $1) x;
--! params 1
select distinct status, $1::int4 from orders order by 1;
--! params 5::int8
select * from customers where id = $1 for update;
--! params 5::int8
select sum(total) over (order by id) from orders where customer_id = $1;
--! params 5::int8
with x as (select * from orders where customer_id = $1) select count(*), sum(total) from x;
--! params 5::int8
select id from customers where id = $1 union all select id from customers where id = $1;
--! params 5::int8, 7::int8
select id from customers where id = $1 union all select id from customers where id = $2 order by 1;
