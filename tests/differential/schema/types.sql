-- One column of each type, a reference table of the same values, and what arithmetic trips over.
create table ty (id int4 primary key, b bool, i2 int2, i4 int4, i8 int8, n numeric, n3 numeric(10,3), f4 float4, f8 float8,
  t text, vc varchar(10), c char(6), d date, ts timestamp, tz timestamptz, tm time, iv interval, u uuid, by bytea,
  j json, jb jsonb, ia int4[], ta text[], r int4range, ip inet, bi bit(4), vb varbit, mo money, g int4);
create table tr (id int4 primary key, t text, n numeric, f8 float8, d date, iv interval);
create table words (word text primary key, lang text, n int4);
create domain positive as int4 check (value > 0);
create type mood as enum ('sad', 'ok', 'happy');
create table people (id int4 primary key, feels mood, age positive, name text collate "C");
