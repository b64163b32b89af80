"""The package's two views for tokens, and two of ours for whom a token stands for."""

# mypy: disable-error-code="import-untyped, misc"

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework_simplejwt.authentication import (
    JWTAuthentication,
    JWTStatelessUserAuthentication,
)
from rest_framework_simplejwt.views import TokenObtainPairView, TokenRefreshView

from bench.peers.django_me import Me


class Check(APIView):
    """What the token says, without a look into the database."""

    authentication_classes = (JWTStatelessUserAuthentication,)

    def get(self, request: Request) -> Response:
        return Response({"user": request.user.id})


urlpatterns = [
    path("api/token/", TokenObtainPairView.as_view()),
    path("api/token/refresh/", TokenRefreshView.as_view()),
    path("api/me/", Me.as_view(authentication_classes=(JWTAuthentication,))),
    path("api/check/", Check.as_view()),
]
