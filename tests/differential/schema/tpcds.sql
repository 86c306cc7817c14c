-- A star schema in the manner of TPC-DS: facts by customer or item, dimensions everywhere.
create schema ds;
create table ds.date_dim (d_date_sk int4 primary key, d_date date, d_year int4, d_moy int4, d_dom int4, d_qoy int4, d_day_name char(9));
create table ds.item (i_item_sk int4 primary key, i_item_id char(16), i_item_desc varchar(200), i_current_price numeric(7,2), i_brand char(50),
  i_class char(50), i_category char(50), i_manufact_id int4);
create table ds.store (s_store_sk int4 primary key, s_store_id char(16), s_store_name varchar(50), s_state char(2), s_county varchar(30));
create table ds.promotion (p_promo_sk int4 primary key, p_channel_email char(1), p_channel_event char(1));
create table ds.customer_demographics (cd_demo_sk int4 primary key, cd_gender char(1), cd_marital_status char(1), cd_education_status char(20));
create table ds.customer (c_customer_sk int4 primary key, c_customer_id char(16), c_current_cdemo_sk int4, c_current_addr_sk int4,
  c_first_name char(20), c_last_name char(30), c_birth_year int4);
create table ds.customer_address (ca_address_sk int4 primary key, ca_state char(2), ca_zip char(10), ca_country varchar(20));
create table ds.store_sales (ss_sold_date_sk int4, ss_item_sk int4, ss_customer_sk int4, ss_cdemo_sk int4, ss_store_sk int4, ss_promo_sk int4,
  ss_ticket_number int4, ss_quantity int4, ss_list_price numeric(7,2), ss_sales_price numeric(7,2), ss_ext_sales_price numeric(7,2),
  ss_coupon_amt numeric(7,2), ss_net_profit numeric(7,2));
create table ds.store_returns (sr_returned_date_sk int4, sr_item_sk int4, sr_customer_sk int4, sr_store_sk int4, sr_ticket_number int4,
  sr_return_quantity int4, sr_return_amt numeric(7,2));
create table ds.web_sales (ws_sold_date_sk int4, ws_item_sk int4, ws_bill_customer_sk int4, ws_quantity int4, ws_sales_price numeric(7,2),
  ws_ext_sales_price numeric(7,2), ws_net_profit numeric(7,2));
create table ds.inventory (inv_date_sk int4, inv_item_sk int4, inv_warehouse_sk int4, inv_quantity_on_hand int4);
