-- ORDER BY, LIMIT, OFFSET, FETCH.
select id from customers order by id limit 5;
select id from customers order by id desc limit 5;
select id from customers order by id limit 5 offset 3;
select id from customers order by id offset 40;
select id from customers order by id offset 1000;
select id from customers order by id limit 0;
select id from customers order by id limit 0 offset 3;
select id from customers order by id limit all;
select id from customers order by id limit null;
select id from customers order by id limit null offset null;
select id from customers order by id limit 1000000;
select id from customers order by id limit 2 + 3;
select id from customers order by id limit '4';
select id from customers order by id limit 4::int8;
select id from customers order by id limit 2.5;
select id from customers order by id limit (select 3);
select id from customers order by id limit (select count(*) from departments);
select id from customers order by id offset 2 limit 3;
select id from customers order by id offset 2 rows;
select id from customers order by id fetch first 3 rows only;
select id from customers order by id fetch next row only;
select id from customers order by id offset 4 rows fetch next 2 rows only;
select id from customers order by id fetch first (1 + 2) rows only;
select salary from employees order by salary fetch first 3 rows with ties;
--! ties
select dept, salary from employees order by salary desc nulls last fetch first 2 rows with ties;
select id from customers order by id limit -1;
select id from customers order by id offset -1;
--! any limit
select id from customers limit 5;
--! any limit
select * from customers limit 1;
--! any limit
select 1 from customers limit 2;
--! any limit
select id from customers offset 3;
--! any limit
select id from customers limit 3 offset 2;
--! any limit
select name from customers where vip limit 3;
--! any limit
select distinct city from customers limit 2;
--! any limit
select city, count(*) from customers group by city limit 2;
--! any limit
select o.id, c.name from orders o join customers c on c.id = o.customer_id limit 4;
select count(*) from (select 1 from customers limit 2) x;
select count(*) from (select id from customers limit 7) x;
select count(*) from (select id from customers limit 7 offset 45) x;
select count(*) from (select customer_id from orders offset 5) x;
select exists (select 1 from customers limit 1);
select exists (select 1 from customers where id = 99999);
select sum(id) from (select id from customers order by id limit 3) x;
select max(id) from (select id from customers order by id desc offset 2) x;
select id, name from customers order by name, id;
select id, name from customers order by name desc, id;
select id, name from customers order by name nulls first, id;
select id, name from customers order by name desc nulls last, id desc;
select id, balance from customers order by balance, id;
select id, balance from customers order by balance desc, id;
select id, balance from customers order by balance nulls first, id limit 9;
select id from customers order by balance, id;
select id from customers order by vip, id;
select id from customers order by vip desc nulls last, id;
select id from customers order by born, id;
select id from customers order by created, id;
select id from customers order by name, city, id limit 11;
select name from customers order by id;
select name from customers order by id limit 4 offset 4;
select city from customers order by balance desc nulls last, id limit 6;
select id as name from customers order by name;
select id as x, -id as id from customers order by id limit 4;
select id from customers order by -id;
select id from customers order by id % 5, id;
select id from customers order by id % 5 desc, id desc limit 7;
select id from customers order by length(name), id;
select id, name from customers order by lower(name), id;
select id, name from customers order by coalesce(name, 'M'), id;
select id from customers order by case when vip then 0 else 1 end, id;
select id, case when vip then 0 else 1 end as rank from customers order by rank, id;
select id from customers order by vip is null, id;
select id, name from customers order by 2, 1;
select id, name from customers order by 2 desc nulls last, 1 desc limit 5;
select name n, id from customers order by n collate "C", id;
select name, id from customers order by name collate "C" desc nulls last, id;
select name, id from customers order by name collate "POSIX", id;
select name, id from customers order by name collate "default", id;
select id from customers order by id using >;
select id from customers order by id using < limit 3;
select id from customers order by name using ~<~, id;
select id from customers order by (balance is null), balance, id;
select id, born from customers order by extract(month from born), id;
select id from customers order by row(city, id);
select id from customers order by 1, 1;
select id from customers order by id, id desc;
select id from customers order by random() limit 0;
select customer_id, id, placed from orders order by placed, customer_id, id;
select customer_id, id from orders order by placed desc, customer_id, id limit 10;
select customer_id, id from orders order by status nulls first, total desc nulls last, customer_id, id;
select customer_id, id, weight from orders order by weight, customer_id, id limit 20;
select weight from orders order by weight desc limit 5;
select note, customer_id, id from orders order by note, customer_id, id;
select kind, id from events order by kind, id limit 13;
select id from events order by id desc limit 4;
select id, at from events order by at, id;
select word from words order by word;
select word from words order by word desc;
select word, n from words order by n nulls first, word;
select word from words order by length(word), word;
select word from words order by lower(word), word;
select k, v from kt order by k, v;
select k, v from kv order by k desc nulls last, v nulls first;
select k, v from k8 order by k nulls first, v;
select k, v from ku order by k, v limit 5;
select id, iv from ty order by iv, id;
select id, n from ty order by n, id;
select id, n from ty order by n desc nulls last, id;
select id, f8 from ty order by f8, id;
select id, f4 from ty order by f4 desc, id;
select id, d from ty order by d, id;
select id, ts from ty order by ts desc, id;
select id, tz from ty order by tz, id;
select id, tm from ty order by tm, id;
select id, u from ty order by u, id;
select id, by from ty order by by, id;
select id, jb from ty order by jb, id;
select id, ia from ty order by ia, id;
select id, ta from ty order by ta, id;
select id, r from ty order by r, id;
select id, ip from ty order by ip, id;
select id, bi from ty order by bi, id;
select id, vb from ty order by vb, id;
select id, mo from ty order by mo, id;
select id, c from ty order by c, id;
select id, vc from ty order by vc, id;
select id, b from ty order by b, id;
select id, i2, i4, i8 from ty order by i8, id;
select id, feels from people order by feels, id;
select id, feels from people order by feels desc nulls last, id limit 4;
select id, age from people order by age desc;
select id, name from people order by name, id;
select id from ty order by j;
--! ties
select city from customers order by city limit 100;
--! ties
select id, city from customers order by city;
--! ties
select customer_id, status from orders order by status desc nulls last;
--! any limit
select id, city from customers order by city limit 7;
--! any limit
select customer_id, id from orders order by items limit 5;
select id from customers order by nothing;
select distinct city from customers order by id;
select id from customers order by 3;
select id from customers order by 0;
select id from customers union select id from customers order by name;
select lower(name) as c2, city as c1 from customers order by 1, 2;
select lower(name) as c3, coalesce(city, '') as c2, id as c1 from customers order by 1 nulls first, 2 desc, 3;
select upper(name) as c2, count(*) as c1 from customers group by 1 order by 1;
select upper(name) as c2, count(*) as c1 from customers group by 1 order by 2 desc, 1 limit 4;
select distinct lower(name) as c2, upper(city) as c1 from customers order by 1, 2;
select c.id as total, o.total as sum from customers c join orders o on o.customer_id = c.id order by o.total, total, o.id;
select name as city, city as name from customers order by city desc, name, id limit 7;
select id as name, count(*) as id from customers group by name, customers.id order by name, id limit 5;
-- length() of a path is a float8.
select id from customers order by length(('((0,0),(' || id || ',1))')::path) desc, id limit 5;
select id, length(('[(0,0),(' || id || ',1)]')::lseg) from customers order by length(('[(0,0),(' || id || ',1)]')::lseg), id limit 5;
select id from customers order by length(name), id limit 5;
select id from customers order by length(lower(name)), id limit 5;
