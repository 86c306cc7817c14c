-- Keys of every type, with NULLs, edges and values that look alike.
create table k2 (k int2, v int4);
create table k4 (k int4, v int4);
create table k8 (k int8, v int4);
create table kt (k text, v int4);
create table kv (k varchar(5), v int4);
create table kc (k char(5), v int4);
create table ku (k uuid, v int4);
create table n1 (k int4, a int4, b int4);
create table n2 (k int4, a int4, b int4);
