-- Views that are written: soft deletion, other names, views of views, conditions, check options, defaults of their own.
create table members (org int8 not null, id int4 not null, name text, state text default 'new', country text default 'PE',
  points numeric(8,2) default 0, deleted date, code varchar(5), twice int4 generated always as (id * 2) stored,
  primary key (org, id), unique (org, name), check (points >= 0));
create table badges (org int8, member int4, title text, primary key (org, member, title),
  foreign key (org, member) references members (org, id) on delete cascade);
create view live_members as select org, id, name, state, points from members where deleted is null;
create view renamed_members as select m.id as org_no, m.org as tenant, m.name as label, m.points as score, m.state,
  m.deleted, m.twice from members m;
create view swapped_members as select id as org, org as id, name as state, state as name from members;
create view nested_members as select tenant as t, label, org_no, score from renamed_members where deleted is null and score < 50;
create view local_members as select t, org_no, label, score from nested_members where label is not null
  with local check option;
create view cascaded_members as select t, org_no, label, score from nested_members where label is not null
  with cascaded check option;
create view checked_members as select * from members where deleted is null and points < 50 with check option;
create view shouted_members as select org, id, upper(name) as shout, name, length(name) as n, points + 1 as more from members;
create view seven_members as select * from members where org = 7;
create view checked_seven as select * from members where org = 7 with check option;
create view european_members as select org, id, name, country, points from members
  where country in (select code from countries where region = 'Europe') with check option;
create view badged_members as select org, id, name, points from members m
  where exists (select from badges b where b.org = m.org and b.member = m.id);
create view strangers_badged as select org, id, name, points from members m where id in (select member from badges);
create view keyless_members as select id, name, points from members;
create view twice_members as select org, org as other, id, name from members;
create view guarded_members with (security_barrier) as select org, id, name, points from members where points < 60;
create view invoked_members with (security_invoker) as select org, id, name, points from members;
create view lucky_members as select org, id, name from members where random() >= 0;
create view new_members as select org, id, name, state, deleted from members where deleted is null or deleted > now() - interval '20 years';
create view defaulted_members as select org, id, name, state, points, country from members;
alter view defaulted_members alter column state set default 'of view';
alter view defaulted_members alter column org set default 3;
create view distinct_members as select distinct org, id from members;
create view joined_members as select m.org, m.id, b.title from members m join badges b on b.org = m.org and b.member = m.id;
create view many_members as select * from members where org < 4 union all select * from members where org > 4;
create view limited_members as select org, id from members limit 5;
create view lands as select name as label, code as iso, region from countries where region is distinct from 'Asia'
  with check option;
create view open_lands as select code as iso, name from countries where region = 'Europe';
create view nested_lands as select iso, label from lands where label is not null;
create view land_names as select name, population from countries;
create view members_of_lands as select m.id, m.org, l.label from members m join lands l on l.iso = m.country;
insert into members (org, id, name, state, country, points, deleted, code) values
  (1, 1, 'ann', 'new', 'PE', 10, null, 'a'), (1, 2, 'bob', 'old', 'DE', 20, null, 'b'), (1, 3, 'cid', 'old', 'FR', 70, '2024-01-01', 'c'),
  (2, 1, 'ann', 'new', 'DE', 5.5, null, null), (2, 2, null, 'new', null, 45, null, 'e'), (3, 1, 'eve', 'old', 'FR', 0, '2024-02-02', 'f'),
  (4, 4, 'fay', 'new', 'XX', 49.99, null, 'g'), (5, 1, 'gus', null, 'CL', 50, null, null), (5, 2, 'hal', 'old', 'DE', 12, null, 'i'),
  (7, 1, 'ida', 'new', 'PE', 33, null, 'j'), (7, 2, 'jim', 'old', 'FR', 66, '2024-03-03', 'k'), (8, 3, 'kim', 'new', 'DE', null, null, 'l'),
  (11, 5, 'leo', 'old', 'JP', 1, null, 'm'), (13, 2, 'mia', 'new', 'DE', 99, null, 'n'), (-4, 1, 'ned', 'new', 'PE', 3, null, 'o'),
  (9007199254740993, 1, 'oda', 'old', 'DE', 4, null, 'p');
insert into badges values (1, 1, 'gold'), (1, 2, 'tin'), (2, 1, 'gold'), (5, 2, 'tin'), (7, 2, 'gold'), (13, 2, 'lead'), (-4, 1, 'gold');
