"""The models after the last migration."""

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower, Now


class Country(models.Model):
    """Every shard has a copy."""

    code = models.CharField(max_length=2, primary_key=True)
    name = models.CharField(max_length=80, unique=True)
    population = models.PositiveBigIntegerField(default=0)

    class Meta:
        """Options."""

        db_table_comment = "Where customers live"


class Customer(models.Model):
    """Sharded by id, which is an identity column."""

    full_name = models.CharField(max_length=200)
    email = models.EmailField(db_index=True)
    country = models.ForeignKey(Country, on_delete=models.PROTECT, related_name="customers")
    born = models.DateField(null=True)
    wakes_at = models.TimeField(null=True)
    joined = models.DateTimeField(db_default=Now())
    score = models.FloatField(default=0.5)
    balance = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    visits = models.BigIntegerField(default=0)
    level = models.SmallIntegerField(db_default=1, db_comment="From 1 to 9")
    active = models.BooleanField(default=True)
    notes = models.TextField(blank=True, default="")
    token = models.UUIDField(null=True)
    photo = models.BinaryField(null=True)
    extra = models.JSONField(default=dict)
    tags = ArrayField(models.CharField(max_length=20), default=list)
    address = models.GenericIPAddressField(null=True)
    rests = models.DurationField(null=True)
    page = models.URLField(blank=True, default="")
    handle = models.SlugField(default="x")
    shout = models.GeneratedField(expression=Lower("email"), output_field=models.TextField(), db_persist=True)

    class Meta:
        """Options."""

        indexes = (
            models.Index(fields=["full_name", "-joined"], name="customer_name_joined"),
            models.Index(Lower("email").desc(), name="customer_lower_email"),
            models.Index(fields=["score"], name="customer_active", condition=Q(active=True), include=["visits"]),
            GinIndex(fields=["extra"], name="customer_extra"),
        )
        constraints = (
            models.CheckConstraint(condition=Q(score__gte=0), name="customer_score"),
            models.CheckConstraint(condition=Q(visits__gte=F("level")) | Q(visits=0), name="customer_visits"),
            models.UniqueConstraint(fields=["id", "email"], name="customer_id_email"),
        )


class Purchase(models.Model):
    """Sharded by customer."""

    pk = models.CompositePrimaryKey("customer_id", "number")
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
    number = models.IntegerField()
    total = models.DecimalField(max_digits=14, decimal_places=4, default=0)
    currency = models.CharField(max_length=3, default="EUR")

    class Meta:
        """Options."""

        db_table = "purchases"


class Setting(models.Model):
    """On the home shard, as nobody places it."""

    name = models.CharField(max_length=50, unique=True)
    value = models.TextField()
    parent = models.ForeignKey("self", null=True, on_delete=models.SET_NULL)
    related = models.ManyToManyField("self")

    class Meta:
        """Options."""

        unique_together = (("name", "parent"),)
