"""Questions with their choices, in one form."""

from django.contrib import admin

from polls.models import Choice, Question


class Choices(admin.TabularInline):
    """Choices below their question."""

    model = Choice
    extra = 2


@admin.register(Question)
class Questions(admin.ModelAdmin):
    """The list of questions and the form of one."""

    fieldsets = ((None, {"fields": ["text"]}), ("When", {"fields": ["published"]}))
    inlines = (Choices,)
    list_display = ("text", "published", "is_new")
    list_filter = ("published",)
    search_fields = ("text", "choice__text")
    date_hierarchy = "published"
