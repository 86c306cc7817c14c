"""The first tables: not yet as the models want them."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Tables, keys, indexes."""

    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Country",
            fields=[
                ("code", models.CharField(max_length=2, primary_key=True, serialize=False)),
                ("title", models.CharField(max_length=40)),
            ],
        ),
        migrations.CreateModel(
            name="Client",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=100)),
                ("email", models.CharField(max_length=100)),
                (
                    "country",
                    models.ForeignKey(
                        "shop.country", on_delete=django.db.models.deletion.PROTECT, related_name="customers"
                    ),
                ),
                ("born", models.DateField(null=True)),
                ("wakes_at", models.TimeField(null=True)),
                ("joined", models.DateTimeField(auto_now_add=True)),
                ("score", models.IntegerField(default=0)),
                ("balance", models.DecimalField(max_digits=10, decimal_places=2, default=0)),
                ("visits", models.IntegerField(default=0)),
                ("active", models.BooleanField(null=True)),
                ("notes", models.CharField(max_length=200, blank=True, default="")),
                ("token", models.UUIDField(null=True)),
                ("photo", models.BinaryField(null=True)),
                ("old", models.CharField(max_length=5, null=True, db_index=True)),
            ],
            options={"db_table": "shop_customer"},
        ),
        migrations.CreateModel(
            name="Purchase",
            fields=[
                ("pk", models.CompositePrimaryKey("customer_id", "number", primary_key=True, serialize=False)),
                ("customer", models.ForeignKey("shop.client", on_delete=django.db.models.deletion.CASCADE)),
                ("number", models.IntegerField()),
                ("total", models.FloatField(default=0)),
            ],
            options={"db_table": "purchases"},
        ),
        migrations.CreateModel(
            name="Setting",
            fields=[
                ("id", models.AutoField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=50, unique=True)),
                ("value", models.TextField()),
            ],
        ),
        migrations.AddIndex("client", models.Index(fields=["name", "-joined"], name="customer_name")),
        migrations.AddConstraint("client", models.CheckConstraint(condition=models.Q(score__gte=0), name="customer_s")),
    )
