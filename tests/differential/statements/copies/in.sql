-- COPY FROM STDIN into sharded tables, reference tables and tables of home.
--! file writes
--! data 1001	one
--! data 1002	two
--! data 1003	\N
copy customers (id, name) from stdin;
--! data 1001,one,t
--! data 1002,"t""w
--! data o",f
--! data 1003,,
copy customers (id, name, vip) from stdin (format csv);
--! data id;name
--! data 1001;$one;$
--! data 1002;nil
copy customers (id, name) from stdin (format csv, header, delimiter ';', quote '$', null 'nil');
--! data name,id
--! data x,1001
copy customers (name, id) from stdin (format csv, header match);
--! data id,name
--! data x,1001
copy customers (name, id) from stdin (format csv, header match);
--! data 1001	1	2024-01-02 03:04:05+00	new	12.50	1.5	no	
--! data 1002	1	\N	\N	\N	\N	\N	3
copy orders from stdin;
--! data 1001	1	2024-01-02 03:04:05+00	new	12.50	1.5	no	7
--! data 1002	1	\N	\N	\N	\N	\N	3
copy orders from stdin;
--! data 1001
--! data 1002
copy customers (id) from stdin;
--! data 1001	a
--! data \.
copy customers (id, name) from stdin;
--! data
copy customers (name) from stdin;
--! data 1001	a	b
copy customers (id, name) from stdin;
--! data 1001
copy customers (id, name) from stdin;
--! data x	a
copy customers (id, name) from stdin;
--! data 1001	a
--! data 1001	b
copy customers (id, name) from stdin;
--! data 1	a
copy customers (id, name) from stdin;
--! data \N	a
copy customers (id, name) from stdin;
--! data 1001	a
--! data 1002	b
--! data 1003	c
copy customers (id, name) from stdin where id <> 1002;
--! data 1001	a
--! data 1002	b
copy customers (id, name) from stdin where name like 'b%';
--! data 1001	1.x
--! data 1002	2.5
--! data y	2.5
copy customers (id, balance) from stdin (on_error ignore);
--! data 1001	here
--! data 1002	D
copy customers (id, name) from stdin (default 'D');
--! data 1001|a\|b
--! data 1002|\x41\102\t
copy customers (id, name) from stdin (delimiter '|');
--! data 1001,"",
--! data 1002,,""
copy customers (id, name, email) from stdin (format csv, force_null (name, email));
--! data 1001,,
copy customers (id, name, email) from stdin (format csv, force_not_null (name));
--! data Q1	Nowhere	Europe	12
--! data Q2	Elsewhere	\N	\N
copy countries from stdin;
--! data Q1,Nowhere
copy countries (code, name) from stdin csv;
--! data Q1	a
--! data Q1	b
copy countries (code, name) from stdin;
--! data XX	a	b
copy countries (code, name) from stdin;
--! data XX	y
copy countries (code, population) from stdin;
--! data XX	1
--! data YY	2
copy countries (code, population) from stdin where population > 1;
--! data 9001	2024-01-02 03:04:05+00	done
--! data 9002	\N	\N
copy audit from stdin;
--! data 1	2024-01-02 03:04:05+00	done
copy audit from stdin;
--! data 1	10
--! data -32768	11
--! data \N	12
--! data +7	13
--! data 0x10	14
--! data 1_0	15
copy k2 from stdin;
--! data 32768	10
copy k2 from stdin;
--! data 1	10
--! data -9223372036854775808	11
--! data 9223372036854775807	12
--! data \N	13
copy k8 from stdin;
--! data a	1
--! data \N	2
--! data 	3
--! data tab\there	4
--! data \\N	5
copy kt from stdin;
--! data "a, b",1
--! data ,2
--! data "",3
--! data " x ",4
copy kt from stdin csv;
--! data ab	1
--! data abcde	2
copy kc from stdin;
--! data abcdef	1
copy kc from stdin;
--! data abcde   	1
copy kv from stdin;
--! data 00000000-0000-0000-0000-000000000001	1
--! data {00000000-0000-0000-0000-000000000002}	2
--! data 00000000000000000000000000000003	3
copy ku from stdin;
--! data 1	2	3
--! data 4	5	6
copy n1 from stdin;
--! data 3	2	1
copy n1 (b, a, k) from stdin;
--! data 1
copy nowhere from stdin;
--! data 1
copy customers (nope) from stdin;
--! data 1001	a
copy customers (id, name, id) from stdin;
--! data 1001	a
copy customers (id, name) from stdin (format nope);
--! data 1001	a
copy customers (id, name) from stdin (on_error nope);
--! data 1001	{}
copy products (id, tags) from stdin;
--! data 9001	{a,"b c",NULL}	{"x": 1}
--! data 9002	{}	null
copy products (id, tags, attrs) from stdin;
--! data 9001	{a
copy products (id, tags) from stdin;
--! data 9001	x	know now
copy products (id, name, tags) from stdin;
--! data 9001	know now
copy products (id, name) from stdin;
