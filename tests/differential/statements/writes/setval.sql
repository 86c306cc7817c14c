-- setval by what sharded tables hold, as Django, Rails and people write it.
--! begin script
create sequence numbers_of_orders;
alter sequence numbers_of_orders owned by orders.id;
SELECT setval(pg_get_serial_sequence('"orders"','id'), coalesce(max("id"), 1), max("id") IS NOT null) FROM "orders";
select nextval('numbers_of_orders'), nextval('numbers_of_orders');
select setval(pg_get_serial_sequence('orders', 'id'), coalesce(max(id), 1), max(id) is not null) from orders where customer_id < 0;
select nextval('numbers_of_orders');
select setval('numbers_of_orders', max(id)) from orders;
select setval('numbers_of_orders', (select max(id) from orders));
select setval('numbers_of_orders', (select max(id) + 1 from orders), false) as restarted;
select setval('numbers_of_orders', coalesce((select max(id) from orders where customer_id = 5), 1));
select setval('numbers_of_orders', greatest((select max(id) from orders), (select max(id) from customers)));
select setval('numbers_of_orders', greatest(max(o.id), max(c.id), 3)) from orders o join customers c on c.id = o.items;
select setval('numbers_of_orders', max(id)), count(*), sum(total), avg(items), min(placed), bool_or(total > 50) from orders;
select setval('numbers_of_orders', count(distinct customer_id)) from orders;
select setval('numbers_of_orders', max(id)) from orders having count(*) > 3;
select setval('numbers_of_orders', max(id)) from orders having count(*) < 3;
select setval('numbers_of_orders', max(id)) from big_orders;
select setval('numbers_of_orders', max(id)) from countries, employees;
select setval('numbers_of_orders', q.m, q.n > 5) from (select max(id) as m, count(*) as n from orders) q;
with q as (select customer_id, count(*) as n from orders group by customer_id) select setval('numbers_of_orders', max(n)) from q;
with q as (select count(*) as n from orders) select setval('numbers_of_orders', n) from q;
select setval('numbers_of_orders', 77) where exists (select from orders where total > 50);
select case when count(*) > 2 then setval('numbers_of_orders', max(id)) else 0 end from orders;
select setval('numbers_of_orders', max(total)) from orders;
select setval('numbers_of_orders', -max(id)) from orders;
select setval('numbers_of_orders', max(id) / (count(*) - count(*))) from orders;
select setval('no_such_sequence', max(id)) from orders;
select nextval('numbers_of_orders') > 0, max(id) from orders;
select setval('numbers_of_orders', (select coalesce(max(id), 1) from orders), (select max(id) is not null from orders));
select setval('numbers_of_orders', (select coalesce(max(id) + 1, 1) from orders where items > 2), (select count(*) = 0 from orders where items > 2));
select setval('numbers_of_orders', (select coalesce(max(id), 1) from orders), (select max(id) > 5 from customers));
select setval('numbers_of_orders', (select sum(id) / count(*) from orders o where o.customer_id in (1, 2, 3))::int8);
select setval('numbers_of_orders', (select max(id) from orders) - (select min(id) from orders) + 1, (select avg(total) > 0 from orders));
select setval('numbers_of_orders', case when (select count(*) from orders) > 0 then 5 else (select 1 / (count(*) - count(*)) from orders) end);
--! params 'numbers_of_orders', 3::int4
select setval($1, max(id) + $2) from orders;
--! params 'numbers_of_orders', 3::int8
select setval($1::text::regclass, (select max(id) from orders where customer_id = $2), true);
drop sequence numbers_of_orders;
--! end script
