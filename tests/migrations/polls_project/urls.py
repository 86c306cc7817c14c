"""The pages."""

from django.contrib import admin
from django.urls import path
from polls import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("polls/", views.Index.as_view(), name="index"),
    path("polls/<int:pk>/", views.Detail.as_view(), name="detail"),
    path("polls/<int:pk>/results/", views.Results.as_view(), name="results"),
    path("polls/<int:question_id>/vote/", views.vote, name="vote"),
]
