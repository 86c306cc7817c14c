"""A Django project whose only purpose is to be migrated: its database is named by the environment."""

import os

SECRET_KEY = "not a secret"  # noqa: S105 - of a project that serves nobody
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.postgres",
    "shop",
]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["SHOP_HOST"],
        "PORT": os.environ["SHOP_PORT"],
        "NAME": os.environ["SHOP_NAME"],
        "USER": os.environ["SHOP_USER"],
    }
}
