"""Renames, changes of types, new columns, constraints."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions
from django.db import migrations, models
from django.db.models import F, Q
from django.db.models.functions import Lower, Now


class Migration(migrations.Migration):
    """What comes after a year of use."""

    dependencies = (("shop", "0001_initial"),)
    operations = (
        migrations.RenameModel("Client", "Customer"),
        migrations.AlterModelTable("customer", None),
        migrations.RenameField("country", "title", "name"),
        migrations.RenameField("customer", "name", "full_name"),
        migrations.AlterField("country", "name", models.CharField(max_length=80, unique=True)),
        migrations.AddField("country", "population", models.PositiveBigIntegerField(default=0)),
        migrations.AlterModelTableComment("country", "Where customers live"),
        migrations.AlterField("customer", "full_name", models.CharField(max_length=200)),
        migrations.AlterField("customer", "email", models.EmailField(max_length=254, db_index=True)),
        migrations.AlterField("customer", "score", models.FloatField(default=0.5)),
        migrations.AlterField("customer", "balance", models.DecimalField(max_digits=12, decimal_places=2, default=0)),
        migrations.AlterField("customer", "visits", models.BigIntegerField(default=0)),
        migrations.AlterField("customer", "active", models.BooleanField(default=True)),
        migrations.AlterField("customer", "notes", models.TextField(blank=True, default="")),
        migrations.AlterField("customer", "joined", models.DateTimeField(db_default=Now())),
        migrations.RemoveField("customer", "old"),
        migrations.AddField("customer", "level", models.SmallIntegerField(db_default=1, db_comment="From 1 to 9")),
        migrations.AddField("customer", "extra", models.JSONField(default=dict)),
        migrations.AddField(
            "customer",
            "tags",
            django.contrib.postgres.fields.ArrayField(models.CharField(max_length=20), default=list, size=None),
        ),
        migrations.AddField("customer", "address", models.GenericIPAddressField(null=True)),
        migrations.AddField("customer", "rests", models.DurationField(null=True)),
        migrations.AddField("customer", "page", models.URLField(blank=True, default="")),
        migrations.AddField("customer", "handle", models.SlugField(default="x")),
        migrations.AddField(
            "customer",
            "shout",
            models.GeneratedField(expression=Lower("email"), output_field=models.TextField(), db_persist=True),
        ),
        migrations.RenameIndex("customer", "customer_name_joined", old_name="customer_name"),
        migrations.RemoveConstraint("customer", "customer_s"),
        migrations.AddConstraint("customer", models.CheckConstraint(condition=Q(score__gte=0), name="customer_score")),
        migrations.AddConstraint(
            "customer",
            models.CheckConstraint(condition=Q(visits__gte=F("level")) | Q(visits=0), name="customer_visits"),
        ),
        migrations.AddConstraint("customer", models.UniqueConstraint(fields=["id", "email"], name="customer_id_email")),
        migrations.AlterField("purchase", "total", models.DecimalField(max_digits=14, decimal_places=4, default=0)),
        migrations.AddField("purchase", "currency", models.CharField(max_length=3, default="EUR")),
        migrations.AlterField("setting", "id", models.BigAutoField(primary_key=True, serialize=False)),
        migrations.AddField(
            "setting",
            "parent",
            models.ForeignKey("shop.setting", null=True, on_delete=django.db.models.deletion.SET_NULL),
        ),
        migrations.AddField("setting", "related", models.ManyToManyField("shop.setting")),
        migrations.AlterUniqueTogether("setting", {("name", "parent")}),
    )
