"""djangorestframework-simplejwt with rotation and the blacklist of what was rotated away."""

from bench.peers.django_base import *  # noqa: F403  (how settings of Django are shared)

ROOT_URLCONF = "bench.peers.simplejwt.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "rest_framework",
    "rest_framework_simplejwt",
    "rest_framework_simplejwt.token_blacklist",
]
# An API with tokens needs no more: neither sessions nor the defence of cookies.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
]
SIMPLE_JWT = {"ROTATE_REFRESH_TOKENS": True, "BLACKLIST_AFTER_ROTATION": True}
