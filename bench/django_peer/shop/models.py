"""The same tables as the portal's, with the columns that the page shows."""

from django.db import models


class Portal(models.Model):
    slug = models.TextField(unique=True)
    name = models.TextField()
    support_email = models.TextField()

    class Meta:
        managed = False
        db_table = "portal"


class Customer(models.Model):
    portal = models.ForeignKey(Portal, models.PROTECT)
    email = models.TextField()
    name = models.TextField(null=True)

    class Meta:
        managed = False
        db_table = "customer"


class Order(models.Model):
    portal = models.ForeignKey(Portal, models.PROTECT)
    customer = models.ForeignKey(Customer, models.PROTECT)
    status = models.TextField()
    number = models.TextField(null=True)
    title = models.TextField(null=True)
    placed_at = models.DateTimeField()
    amount_minor = models.BigIntegerField(null=True)
    currency = models.TextField(null=True)

    class Meta:
        managed = False
        db_table = "order_"
        ordering = ["-placed_at", "-id"]
