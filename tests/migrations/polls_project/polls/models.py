"""Questions and what can be chosen. Over several shards choices are sharded, and every shard has the questions."""

import datetime as dt

from django.db import models
from django.utils import timezone


class Question(models.Model):
    """A question."""

    text = models.CharField(max_length=200)
    published = models.DateTimeField("date published")

    def __str__(self) -> str:
        return self.text

    def is_new(self) -> bool:
        """Whether it was published within a day."""
        now = timezone.now()
        return now - dt.timedelta(days=1) <= self.published <= now


class Choice(models.Model):
    """One of its answers."""

    question = models.ForeignKey(Question, on_delete=models.CASCADE)
    text = models.CharField(max_length=200)
    votes = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.text
