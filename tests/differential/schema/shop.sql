-- A shop: customers and what is theirs by the customer's key; products, countries and categories everywhere.
create table countries (code text primary key, name text, region text, population int8);
create table categories (id int4 primary key, parent int4, name text);
create table products (id int4 primary key, name text, category int4, price numeric(10,2), weight float8, tags text[], attrs jsonb);
create table customers (id int8 primary key, name text, email text, city text, country text, born date, vip bool,
  balance numeric(12,2), created timestamptz);
create table orders (customer_id int8, id int4, placed timestamptz, status text, total numeric(12,2), weight float8,
  note text, items int4, primary key (customer_id, id));
create table order_lines (customer_id int8, order_id int4, line int4, product_id int4, qty int4, price numeric(10,2),
  discount numeric(4,3), primary key (customer_id, order_id, line));
create table visits (customer_id int8, at timestamp, page text, seconds int4);
create table employees (id int4 primary key, name text, boss int4, dept text, salary numeric(10,2), hired date);
create table departments (name text primary key, floor int4, budget numeric(12,2));
create table events (id uuid primary key, kind varchar(20), at timestamptz, customer_id int8, body jsonb);
create table settings (name text primary key, value text);
create table audit (id int4 primary key, at timestamptz, what text);
create view big_orders as select customer_id, id, total from orders where total > 200;
create view customer_totals as select customer_id, count(*) as orders, sum(total) as total from orders group by customer_id;
create view european as select code, name from countries where region = 'Europe';
create index orders_status on orders (status);
