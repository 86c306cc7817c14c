-- now, today, tomorrow and yesterday: constants of the clock, one for the statement.
select now() = 'now'::timestamptz, count(*) from orders;
select date 'today' = current_date, 'tomorrow'::date - current_date, cast('yesterday' as date) - current_date, count(*) from orders;
select timestamp 'now' = localtimestamp, time 'now' = localtime, count(*) from visits;
select 'now'::timestamp(0) = localtimestamp(0), 'today'::timestamptz = current_date::timestamptz, count(*) from visits;
select timestamp with time zone 'now' = now(), 'Today '::timestamp = current_date::timestamp from customers where id < 5;
select count(*) from orders where placed < 'now'::timestamptz and 'today'::date = current_date;
select 'now'::text, 'today' as word, count(*) from customers where name <> 'now' group by 1, 2;
select 'now'::timestamptz = any (array[now()]), count(*) from orders;
select count(*) from orders o join customers c on c.id = o.id where o.placed < timestamptz 'tomorrow';
select 'now'::timestamptz = now() from customers where id = 7;
