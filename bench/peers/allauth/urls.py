"""The package's own endpoints, and one of ours, as its page on REST framework shows."""

# mypy: disable-error-code="import-untyped, misc"

from allauth.headless.contrib.rest_framework.authentication import JWTTokenAuthentication
from django.urls import include, path

from bench.peers.django_me import Me

urlpatterns = [
    path("_allauth/", include("allauth.headless.urls")),
    path("api/me/", Me.as_view(authentication_classes=(JWTTokenAuthentication,))),
]
