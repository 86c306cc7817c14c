"""The pages of the tutorial: newest questions, one of them, its results, a vote."""

from django.db.models import F, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.views import generic

from polls.models import Choice, Question


class Index(generic.ListView):
    """The five newest that are published and can be answered."""

    template_name = "polls/page.html"

    def get_queryset(self) -> QuerySet:
        """Return them."""
        now = timezone.now()
        found = Question.objects.filter(published__lte=now, choice__isnull=False)
        return found.distinct().order_by("-published")[:5]


class Detail(generic.DetailView):
    """One question."""

    template_name = "polls/page.html"

    def get_queryset(self) -> QuerySet:
        """Leave out what is not published yet."""
        return Question.objects.filter(published__lte=timezone.now())


class Results(generic.DetailView):
    """One question's votes."""

    model = Question
    template_name = "polls/page.html"


def vote(request: HttpRequest, question_id: int) -> HttpResponse:
    """Count a vote, in the database."""
    question = get_object_or_404(Question, pk=question_id)
    try:
        chosen = question.choice_set.get(pk=request.POST["choice"])
    except (KeyError, Choice.DoesNotExist):
        return render(request, "polls/page.html", {"question": question, "error": "You did not choose."})
    chosen.votes = F("votes") + 1
    chosen.save()
    return HttpResponseRedirect(reverse("results", args=(question.id,)))
