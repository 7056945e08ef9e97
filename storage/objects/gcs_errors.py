"""Errors of Cloud Storage and its client, in our words: what happened, where, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3
from google.api_core import exceptions as api
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud.storage.exceptions import DataCorruption

from storage.objects.base import Changed, NotFound, StoreError

_OURS = (
    api.GoogleAPICallError,
    api.RetryError,
    GoogleAuthError,
    DataCorruption,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
)
"""All that a request can fail with. Anything else is a mistake in a program and passes as it is."""


@contextmanager
def translate_errors(what: str, bucket: str) -> Iterator[None]:
    """Turns an error of the block into a StoreError that begins with `what`; NotFound for a 404, Changed for a 412."""
    try:
        yield
    except api.NotFound as error:
        raise NotFound(f"{what}: {_message_of(error)}") from error
    except api.PreconditionFailed as error:
        raise Changed(f"{what}: {_message_of(error)}") from error
    except _OURS as error:
        raise StoreError(f"{what}: {_message_of(error)}. What to do: {_hint(error, bucket)}") from error


def _message_of(error: Exception) -> str:
    if isinstance(error, api.RetryError) and error.cause is not None:
        return f"tried again and again, at last: {_message_of(error.cause)}"
    if isinstance(error, api.GoogleAPICallError):
        return f"{error.code} {_message(error)}".rstrip(". ")
    if isinstance(error, DataCorruption):
        return "the bytes were damaged on the way"
    return f"{type(error).__name__}: {error}".rstrip(". ")


def _message(error: api.GoogleAPICallError) -> str:
    """The server's own words: for an upload the client wraps them in the whole answer."""
    try:
        return str(error.response.json()["error"]["message"])
    except (AttributeError, ValueError, KeyError, TypeError):
        return str(error.message)


def _hint(error: Exception, bucket: str) -> str:
    if isinstance(error, api.Forbidden):
        return (
            f"give the account the role roles/storage.objectUser on gs://{bucket} (gcloud storage buckets"
            f" add-iam-policy-binding gs://{bucket} --member=serviceAccount:ACCOUNT --role=roles/storage.objectUser);"
            " if it has it, see whether a retention policy or a service perimeter forbids the call"
        )
    if isinstance(error, DefaultCredentialsError | api.Unauthorized):
        return "run gcloud auth application-default login, or name a key file in GOOGLE_APPLICATION_CREDENTIALS"
    if isinstance(error, api.BadRequest | DataCorruption):
        return "call again if bytes were damaged on the way; otherwise correct what the message names"
    return "see to the network and to status.cloud.google.com, then call again: a repeat does no harm"
