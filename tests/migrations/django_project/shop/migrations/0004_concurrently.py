"""Indexes that are built while others write: outside of transactions."""

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models
from django.db.models import Q
from django.db.models.functions import Lower


class Migration(migrations.Migration):
    """CREATE INDEX CONCURRENTLY and its opposite."""

    atomic = False
    dependencies = (("shop", "0003_data"),)
    operations = (
        AddIndexConcurrently("customer", models.Index(Lower("email").desc(), name="customer_lower_email")),
        AddIndexConcurrently(
            "customer",
            models.Index(fields=["score"], name="customer_active", condition=Q(active=True), include=["visits"]),
        ),
        AddIndexConcurrently("customer", GinIndex(fields=["extra"], name="customer_extra")),
        AddIndexConcurrently("customer", models.Index(fields=["born"], name="customer_born")),
        RemoveIndexConcurrently("customer", "customer_born"),
    )
