"""The smallest Django project, in one file: `python django_app.py runserver 127.0.0.1:8000 --noreload`."""

import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    DEBUG=False, ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="for a test only"
)


def health(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def who(request: HttpRequest) -> HttpResponse:
    return HttpResponse("django")


urlpatterns = [path("health", health), path("who", who)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
