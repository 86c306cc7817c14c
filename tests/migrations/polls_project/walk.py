"""Go through the tutorial, once, and print what was seen: one fact a line."""
# ruff: noqa: T201, E402 - its output is what it is for; Django has to be set up before its models are there

import datetime as dt
import re
import tempfile

import django

django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.db.models import Count, Sum
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from polls.models import Choice, Question

LIST = re.compile(r"<(?:li|h1|p)>(.*?)</(?:li|h1|p)>")


def seen(what: str, fact: object) -> None:
    print(f"{what}: {fact}")


def shell() -> None:
    """The part that is typed into a shell."""
    seen("at first", list(Question.objects.all()))
    question = Question(text="What is new?", published=timezone.now())
    question.save()
    seen("saved", (question.id, question.published == Question.objects.get(pk=question.id).published))
    question.text = "What is up?"
    question.save()
    seen("all", list(Question.objects.all()))
    seen("by id", list(Question.objects.filter(id=1)))
    seen("by its beginning", list(Question.objects.filter(text__startswith="What")))
    seen("of this year", Question.objects.get(published__year=timezone.now().year))
    try:
        Question.objects.get(id=2)
    except Question.DoesNotExist as error:
        seen("not there", error)
    seen("new", Question.objects.get(pk=1).is_new())
    seen("no choices", list(question.choice_set.all()))
    for text in ("Not much", "The sky", "Just hacking again"):
        choice = question.choice_set.create(text=text, votes=0)
    seen("its question", choice.question)
    seen("choices", sorted(map(str, question.choice_set.all())))
    seen("how many", question.choice_set.count())
    seen("through the question", Choice.objects.filter(question__published__year=timezone.now().year).count())
    seen("deleted", question.choice_set.filter(text__startswith="Just hacking").delete())
    seen("left", [str(choice) for choice in question.choice_set.order_by("text")])


def pages() -> None:
    """The pages that everybody sees."""
    client = Client()
    now = timezone.now()
    for days, text in ((-30, "Past"), (30, "Future"), (-5, "Older"), (-1, "Nobody can answer")):
        question = Question.objects.create(text=text, published=now + dt.timedelta(days=days))
        if text != "Nobody can answer":
            Choice.objects.bulk_create([Choice(question=question, text=f"{text} {n}", votes=n) for n in range(4)])
    seen("index", LIST.findall(client.get(reverse("index")).content.decode()))
    for question in Question.objects.order_by("id"):
        answer = client.get(reverse("detail", args=(question.id,)))
        seen(f"detail of {question}", (answer.status_code, sorted(LIST.findall(answer.content.decode()))))
    question = Question.objects.get(text="What is up?")
    sky = question.choice_set.get(text="The sky")
    for _ in range(3):
        answer = client.post(reverse("vote", args=(question.id,)), {"choice": sky.id})
    seen("voted", (answer.status_code, answer.headers["Location"]))
    seen("results", sorted(LIST.findall(client.get(answer.headers["Location"]).content.decode())))
    for posted in ({}, {"choice": 999_999}):
        answer = client.post(reverse("vote", args=(question.id,)), posted)
        seen("no vote", (answer.status_code, "did not choose" in answer.content.decode()))
    seen("no question", client.post(reverse("vote", args=(4711,))).status_code)
    counted = Question.objects.annotate(choices=Count("choice"), votes=Sum("choice__votes")).order_by("text")
    seen("votes", [(str(one), one.choices, one.votes) for one in counted])
    fetched = Question.objects.prefetch_related("choice_set").order_by("id")
    seen("prefetched", [len(one.choice_set.all()) for one in fetched])
    joined = Choice.objects.select_related("question").filter(votes__gt=1).order_by("text")
    seen("joined", [(str(one), str(one.question)) for one in joined])


def admin() -> None:
    """The admin's pages."""
    call_command("createsuperuser", interactive=False, username="admin", email="admin@example.org", verbosity=0)
    user = User.objects.get(username="admin")
    user.set_password("secret")
    user.save()
    client = Client()
    seen("stranger", client.get("/admin/").headers["Location"])
    seen("wrong password", client.login(username="admin", password="no"))
    answer = client.post("/admin/login/?next=/admin/", {"username": "admin", "password": "secret"})
    seen("login", (answer.status_code, answer.headers["Location"]))
    seen("front page", "Questions" in client.get("/admin/").content.decode())
    form = {
        "text": "Asked by the admin",
        "published_0": "2025-03-01",
        "published_1": "12:00:00",
        "choice_set-TOTAL_FORMS": "2",
        "choice_set-INITIAL_FORMS": "0",
        "choice_set-0-text": "yes",
        "choice_set-0-votes": "1",
        "choice_set-1-text": "no",
        "choice_set-1-votes": "2",
    }
    seen("added", client.post("/admin/polls/question/add/", form).status_code)
    made = Question.objects.get(text="Asked by the admin")
    yes, no = made.choice_set.order_by("-text")
    wrong = client.post("/admin/polls/question/add/", {**form, "text": ""})
    seen("without a text", (wrong.status_code, "This field is required" in wrong.content.decode()))
    change = f"/admin/polls/question/{made.id}/change/"
    seen("form", sorted(re.findall(r'value="(yes|no)"', client.get(change).content.decode())))
    edited = {
        **form,
        "text": "Asked and edited",
        "choice_set-INITIAL_FORMS": "2",
        "choice_set-0-id": yes.id,
        "choice_set-0-question": made.id,
        "choice_set-0-text": "perhaps",
        "choice_set-1-id": no.id,
        "choice_set-1-question": made.id,
        "choice_set-1-DELETE": "on",
    }
    seen("changed", client.post(change, edited).status_code)
    seen("choices now", [(str(one), one.votes) for one in made.choice_set.all()])
    for query in ("", "?q=Asked", "?q=perhaps", "?published__year=2025", "?o=1", "?o=-2.1", "?q=nothing+like+it"):
        page = client.get("/admin/polls/question/" + query).content.decode()
        rows = re.findall(r'class="field-text"><a[^>]*>([^<]*)', page)
        # The newest come first, which is by id.
        seen(f"list{query}", rows)
    seen("history", "Changed Text" in client.get(f"/admin/polls/question/{made.id}/history/").content.decode())
    action = {"action": "delete_selected", "_selected_action": [made.id], "post": "yes"}
    seen("deleted", client.post("/admin/polls/question/", action).status_code)
    seen("gone", (Question.objects.filter(pk=made.id).exists(), Choice.objects.filter(question_id=made.id).count()))
    seen("logout", client.post("/admin/logout/").status_code)
    seen("and out", client.get("/admin/").status_code)


def transactions() -> None:
    """What ATOMIC_REQUESTS and atomic() promise."""
    count = Choice.objects.count()
    try:
        with transaction.atomic():
            Choice.objects.create(question_id=1, text="never")
            with transaction.atomic():
                Choice.objects.create(question_id=4711, text="of no question")
            connection.check_constraints()
    except IntegrityError as error:
        seen("refused", type(error).__name__)
    seen("nothing of it", Choice.objects.count() == count)
    with transaction.atomic():
        for choice in Choice.objects.select_for_update().filter(question_id=1).order_by("id"):
            choice.votes += 1
            choice.save()
    seen("locked", sorted(Choice.objects.filter(question_id=1).values_list("text", "votes")))
    seen("iterated", [one.text for one in Choice.objects.order_by("text").iterator(chunk_size=2)])
    seen("the whole question", Question.objects.get(pk=1).delete())


def commands() -> None:
    """What manage.py is asked for."""
    call_command("check", databases=["default"])
    call_command("makemigrations", check_changes=True, dry_run=True, verbosity=0)
    call_command("clearsessions")
    with tempfile.TemporaryDirectory() as directory:
        file = f"{directory}/polls.json"
        call_command("dumpdata", "polls", output=file, verbosity=0)
        before = sorted(Choice.objects.values_list("id", "question_id", "text", "votes"))
        Question.objects.all().delete()
        call_command("loaddata", file, verbosity=0)
        assert before == sorted(Choice.objects.values_list("id", "question_id", "text", "votes"))
    seen("the next", Question.objects.create(text="One more", published=timezone.now()).id)
    call_command("flush", interactive=False, verbosity=0)
    seen("flushed", (Question.objects.count(), User.objects.count()))


if __name__ == "__main__":
    shell()
    pages()
    admin()
    transactions()
    commands()
