-- Questions in the manner of TPC-DS over the star schema.
--! file path ds, public
select d_year, i_brand, sum(ss_ext_sales_price) as sum_agg from date_dim, store_sales, item
where d_date_sk = ss_sold_date_sk and ss_item_sk = i_item_sk and i_manufact_id = 3 and d_moy = 11 group by d_year, i_brand order by d_year, sum_agg desc, i_brand limit 100;
with customer_total_return as (select sr_customer_sk as ctr_customer_sk, sr_store_sk as ctr_store_sk, sum(sr_return_amt) as ctr_total_return
  from store_returns, date_dim where sr_returned_date_sk = d_date_sk and d_year = 2000 group by sr_customer_sk, sr_store_sk)
select c_customer_id from customer_total_return ctr1, store, customer
where ctr1.ctr_total_return > (select avg(ctr_total_return) * 1.2 from customer_total_return ctr2 where ctr1.ctr_store_sk = ctr2.ctr_store_sk)
  and s_store_sk = ctr1.ctr_store_sk and s_state = 'TN' and ctr1.ctr_customer_sk = c_customer_sk order by c_customer_id limit 100;
with wscs as (select ws_sold_date_sk as sold_date_sk, ws_ext_sales_price as sales_price from web_sales)
select d_moy, sum(case when d_day_name = 'Saturday ' then sales_price end) as sat, sum(sales_price) from wscs, date_dim where d_date_sk = sold_date_sk group by d_moy order by d_moy;
select i_item_id, avg(ss_quantity) as agg1, avg(ss_list_price) as agg2, avg(ss_coupon_amt) as agg3, avg(ss_sales_price) as agg4
from store_sales, customer_demographics, date_dim, item, promotion
where ss_sold_date_sk = d_date_sk and ss_item_sk = i_item_sk and ss_cdemo_sk = cd_demo_sk and ss_promo_sk = p_promo_sk and cd_gender = 'M'
  and (p_channel_email = 'N' or p_channel_event = 'N') group by i_item_id order by i_item_id limit 100;
select case when (select count(*) from store_sales where ss_quantity between 1 and 20) > 50
  then (select avg(ss_ext_sales_price) from store_sales where ss_quantity between 1 and 20)
  else (select avg(ss_net_profit) from store_sales where ss_quantity between 1 and 20) end as bucket1;
select cd_gender, cd_marital_status, count(*) as cnt from customer c, customer_address ca, customer_demographics
where c.c_current_addr_sk = ca.ca_address_sk and ca_state in ('CA', 'TX') and cd_demo_sk = c.c_current_cdemo_sk
  and exists (select * from store_sales, date_dim where c.c_customer_sk = ss_customer_sk and ss_sold_date_sk = d_date_sk and d_year = 2000)
group by cd_gender, cd_marital_status order by 1, 2;
with year_total as (
  select c_customer_id as customer_id, d_year as dyear, sum(ss_ext_sales_price) as year_total, 's' as sale_type from customer, store_sales, date_dim
  where c_customer_sk = ss_customer_sk and ss_sold_date_sk = d_date_sk group by c_customer_id, d_year
  union all
  select c_customer_id, d_year, sum(ws_ext_sales_price), 'w' from customer, web_sales, date_dim
  where c_customer_sk = ws_bill_customer_sk and ws_sold_date_sk = d_date_sk group by c_customer_id, d_year)
select s.customer_id, s.dyear, s.year_total, w.year_total from year_total s, year_total w
where s.customer_id = w.customer_id and s.dyear = w.dyear and s.sale_type = 's' and w.sale_type = 'w' order by 1, 2;
select i_item_id, i_category, sum(ws_ext_sales_price) as itemrevenue,
  sum(ws_ext_sales_price) * 100 / sum(sum(ws_ext_sales_price)) over (partition by i_class) as revenueratio
from web_sales, item, date_dim where ws_item_sk = i_item_sk and i_category in ('Books', 'Home') and ws_sold_date_sk = d_date_sk
group by i_item_id, i_category, i_class order by i_category, i_item_id, revenueratio;
select ca_zip, sum(ss_sales_price) from store_sales, customer, customer_address, date_dim
where ss_customer_sk = c_customer_sk and c_current_addr_sk = ca_address_sk and ss_sold_date_sk = d_date_sk and d_qoy = 1 group by ca_zip order by ca_zip;
select i_item_id, s_state, grouping(s_state) as g_state, avg(ss_quantity) as agg1 from store_sales, store, item
where ss_store_sk = s_store_sk and ss_item_sk = i_item_sk group by rollup (i_item_id, s_state) order by i_item_id, s_state, g_state limit 100;
select inv_warehouse_sk, i_item_id, sum(case when inv_date_sk < 50 then inv_quantity_on_hand else 0 end) as before,
  sum(case when inv_date_sk >= 50 then inv_quantity_on_hand else 0 end) as after from inventory, item
where i_item_sk = inv_item_sk group by inv_warehouse_sk, i_item_id order by 1, 2 limit 50;
select i_item_id, avg(inv_quantity_on_hand) as qoh from inventory, item, date_dim where inv_date_sk = d_date_sk and inv_item_sk = i_item_sk
group by rollup (i_item_id) order by qoh nulls first, i_item_id limit 20;
with frequent as (select ss_item_sk as item_sk, count(*) as cnt from store_sales group by ss_item_sk having count(*) > 8)
select count(*), sum(ws_quantity) from web_sales where ws_item_sk in (select item_sk from frequent);
select c_last_name, c_first_name, ss_ticket_number, cnt from (
  select ss_ticket_number, ss_customer_sk, count(*) as cnt from store_sales group by ss_ticket_number, ss_customer_sk) dn, customer
where ss_customer_sk = c_customer_sk and cnt between 1 and 5 order by cnt desc, c_last_name, ss_ticket_number, c_first_name limit 20;
select ss_customer_sk, sum(act_sales) as sumsales from (
  select ss_item_sk, ss_ticket_number, ss_customer_sk, case when sr_return_quantity is not null then (ss_quantity - sr_return_quantity) * ss_sales_price else ss_quantity * ss_sales_price end as act_sales
  from store_sales left outer join store_returns on sr_item_sk = ss_item_sk and sr_ticket_number = ss_ticket_number) t
group by ss_customer_sk order by sumsales, ss_customer_sk limit 20;
select count(distinct ss_ticket_number), sum(ss_net_profit), sum(ss_coupon_amt) from store_sales, store where ss_store_sk = s_store_sk and s_state = 'CA';
select a.ca_state, count(*) as cnt from customer_address a, customer c, store_sales s, item i
where a.ca_address_sk = c.c_current_addr_sk and c.c_customer_sk = s.ss_customer_sk and s.ss_item_sk = i.i_item_sk
  and i.i_current_price > 1.2 * (select avg(j.i_current_price) from item j where j.i_category = i.i_category) group by a.ca_state having count(*) >= 1 order by cnt, a.ca_state;
select ss_store_sk, i_category, sum(ss_net_profit) as profit, rank() over (partition by ss_store_sk order by sum(ss_net_profit) desc, i_category) as r
from store_sales join item on i_item_sk = ss_item_sk group by ss_store_sk, i_category order by 1, 4;
select * from (select count(*) as h8 from store_sales where ss_quantity < 30) s1, (select count(*) as h9 from store_sales where ss_quantity >= 30 and ss_quantity < 60) s2, (select count(*) as h10 from store_sales where ss_quantity >= 60) s3;
select c_customer_sk from customer intersect select ss_customer_sk from store_sales intersect select ws_bill_customer_sk from web_sales order by 1;
select count(*) from ((select distinct c_last_name, c_first_name, d_date from store_sales, date_dim, customer where ss_sold_date_sk = d_date_sk and ss_customer_sk = c_customer_sk)
  except (select distinct c_last_name, c_first_name, d_date from web_sales, date_dim, customer where ws_sold_date_sk = d_date_sk and ws_bill_customer_sk = c_customer_sk)) cool;
select channel, item, return_ratio, rank from (
  select 'store' as channel, ss_item_sk as item, round(sum(coalesce(sr_return_quantity, 0))::numeric / sum(ss_quantity), 4) as return_ratio,
    rank() over (order by sum(coalesce(sr_return_quantity, 0))::numeric / sum(ss_quantity) desc, ss_item_sk) as rank
  from store_sales left join store_returns on ss_ticket_number = sr_ticket_number and ss_item_sk = sr_item_sk group by ss_item_sk) x where rank <= 10 order by rank;
select c_birth_year / 10 * 10 as decade, count(*), avg(n) from (select c_customer_sk, c_birth_year, count(ss_item_sk) as n from customer left join store_sales on ss_customer_sk = c_customer_sk group by c_customer_sk, c_birth_year) x group by 1 order by 1;
select ss_customer_sk, count(*) from store_sales group by ss_customer_sk order by count(*) desc, ss_customer_sk limit 5;
select ss_customer_sk, ws_bill_customer_sk, sum(ss_quantity), sum(ws_quantity) from store_sales full join web_sales on ss_customer_sk = ws_bill_customer_sk and ss_item_sk = ws_item_sk group by 1, 2 order by 1, 2;
select s_store_name, sum(ss_net_profit) from store left join store_sales on ss_store_sk = s_store_sk group by s_store_name order by 1;
select d_day_name, sum(case when d_year = 2000 then ss_sales_price end) y0, sum(case when d_year = 2001 then ss_sales_price end) y1 from date_dim join store_sales on d_date_sk = ss_sold_date_sk group by d_day_name order by 1;
select i_category, count(*) filter (where ss_quantity > 40), count(distinct ss_customer_sk) from store_sales join item on i_item_sk = ss_item_sk group by i_category order by 1;
select i_category, d_qoy, sum(ss_ext_sales_price) from store_sales, item, date_dim where i_item_sk = ss_item_sk and d_date_sk = ss_sold_date_sk group by grouping sets ((i_category), (d_qoy), (i_category, d_qoy), ()) order by 1, 2, 3;
select distinct c_last_name from customer where c_customer_sk in (select sr_customer_sk from store_returns where sr_return_amt > 250) order by 1;
