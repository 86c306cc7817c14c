-- The tables of TPC-H with the benchmark's columns, at a very small scale.
create schema tpch;
create table tpch.region (r_regionkey int4 primary key, r_name char(25), r_comment varchar(152));
create table tpch.nation (n_nationkey int4 primary key, n_name char(25), n_regionkey int4, n_comment varchar(152));
create table tpch.supplier (s_suppkey int4 primary key, s_name char(25), s_address varchar(40), s_nationkey int4, s_phone char(15),
  s_acctbal numeric(15,2), s_comment varchar(101));
create table tpch.part (p_partkey int4 primary key, p_name varchar(55), p_mfgr char(25), p_brand char(10), p_type varchar(25),
  p_size int4, p_container char(10), p_retailprice numeric(15,2), p_comment varchar(23));
create table tpch.partsupp (ps_partkey int4, ps_suppkey int4, ps_availqty int4, ps_supplycost numeric(15,2), ps_comment varchar(199),
  primary key (ps_partkey, ps_suppkey));
create table tpch.customer (c_custkey int4 primary key, c_name varchar(25), c_address varchar(40), c_nationkey int4, c_phone char(15),
  c_acctbal numeric(15,2), c_mktsegment char(10), c_comment varchar(117));
create table tpch.orders (o_orderkey int4 primary key, o_custkey int4, o_orderstatus char(1), o_totalprice numeric(15,2), o_orderdate date,
  o_orderpriority char(15), o_clerk char(15), o_shippriority int4, o_comment varchar(79));
create table tpch.lineitem (l_orderkey int4, l_partkey int4, l_suppkey int4, l_linenumber int4, l_quantity numeric(15,2),
  l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1), l_linestatus char(1),
  l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44),
  primary key (l_orderkey, l_linenumber));
