"""Data, by Python and by SQL."""

from django.db import migrations
from django.db.models import F


def fill(apps, _schema_editor):  # noqa: ANN001, ANN201 - Django calls it
    """Make rows of every kind, and change them."""
    country = apps.get_model("shop", "Country")
    customer = apps.get_model("shop", "Customer")
    purchase = apps.get_model("shop", "Purchase")
    setting = apps.get_model("shop", "Setting")
    at, de = country.objects.create(code="at", name="Austria"), country.objects.create(code="de", name="Germany")
    first = customer.objects.create(full_name="First", email="First@x", country=de, extra={"a": [1]}, tags=["x", "y"])
    customer.objects.bulk_create(
        [customer(full_name=f"N{n}", email=f"n{n}@x", country=at if n % 2 else de) for n in range(20)], batch_size=7
    )
    for number, one in enumerate(customer.objects.order_by("id")):
        purchase.objects.create(customer=one, number=number, total="1.5")
    customer.objects.filter(country=at).update(visits=F("id") + 100)
    customer.objects.filter(purchase__number__lt=3).update(notes="early")
    assert customer.objects.filter(notes="early").count() == 3
    one, made = country.objects.get_or_create(code="ch", defaults={"name": "Switzerland"})
    assert made
    country.objects.update_or_create(code="ch", defaults={"population": 9_000_000})
    one.delete()
    parent = setting.objects.create(name="a", value="b")
    child = setting.objects.create(name="c", value="d", parent=parent)
    child.related.add(parent)
    first.refresh_from_db()
    first.delete()


class Migration(migrations.Migration):
    """Rows."""

    dependencies = (("shop", "0002_changes"),)
    operations = (
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.RunSQL(
            ["UPDATE shop_customer SET level = 2 WHERE visits > 0", ("UPDATE shop_country SET population = %s", [7])],
            migrations.RunSQL.noop,
        ),
    )
