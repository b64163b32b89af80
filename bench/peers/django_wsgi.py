"""What gunicorn serves; DJANGO_SETTINGS_MODULE says which of the Django peers it is."""

# mypy: disable-error-code="import-untyped, misc"

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()
