-- Small tables of the kind that textbooks use.
create table weather (city varchar(80), temp_lo int4, temp_hi int4, prcp float4, date date);
create table cities (name varchar(80), lat float8, lon float8);
create table empsalary (depname text, empno int8, salary int4, enroll_date date);
create table accounts (name text primary key, balance numeric);
create table tree (id int4, link int4, data text);
create table films (code char(5), title varchar(40), did int4, date_prod date, kind varchar(10), len int4);
create table distributors (did int4 primary key, name varchar(40));
create table measurement (city_id int4, logdate date, peaktemp int4, unitsales int4) partition by range (logdate);
create table measurement_old partition of measurement for values from ('2023-01-01') to ('2024-01-01');
create table measurement_new partition of measurement for values from ('2024-01-01') to ('2025-01-01');
