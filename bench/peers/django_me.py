"""Who am I, for both of the Django peers: an endpoint of one's own, as REST framework has it."""

# mypy: disable-error-code="import-untyped, misc"

from django.contrib.auth.models import User
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ModelSerializer
from rest_framework.views import APIView


class UserSerializer(ModelSerializer):
    class Meta:
        model = User
        fields = ("id", "email", "is_active", "date_joined")


class Me(APIView):
    """`authentication_classes` is the package's, and loads the user from the database."""

    def get(self, request: Request) -> Response:
        return Response(UserSerializer(request.user).data)
