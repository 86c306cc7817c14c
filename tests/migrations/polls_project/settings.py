"""The application of Django's tutorial: questions, choices, votes, and the admin's pages."""

import os

SECRET_KEY = "not a secret"  # noqa: S105 - of a project that serves nobody
ROOT_URLCONF = "urls"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "polls",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # no time is spent on them here
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["POLLS_HOST"],
        "PORT": os.environ["POLLS_PORT"],
        "NAME": os.environ["POLLS_NAME"],
        "USER": os.environ["POLLS_USER"],
        "ATOMIC_REQUESTS": True,
        # Outside of transactions they are WITH HOLD, which is for one shard.
        "DISABLE_SERVER_SIDE_CURSORS": os.environ["POLLS_SHARDS"] != "1",
    }
}
