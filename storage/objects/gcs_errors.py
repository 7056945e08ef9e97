"""Translation of the errors of Cloud Storage and its client into StoreError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3
from google.api_core import exceptions as api
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud.storage.exceptions import DataCorruption

from storage.objects.base import Changed, NotFound, StoreError

_REQUEST_ERRORS = (
    api.GoogleAPICallError,
    api.RetryError,
    GoogleAuthError,
    DataCorruption,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
)
"""All errors with which a request can fail. Any other exception is a bug and is not translated."""


@contextmanager
def translate_errors(failure: str, bucket: str) -> Iterator[None]:
    """Raise errors of the block as StoreError, a 404 as NotFound and a 412 as Changed.

    Args:
        failure: First words of the message, such as "can't read gs://bucket/name".
        bucket: Name of the Cloud Storage bucket, for the remedy.
    """
    try:
        yield
    except api.NotFound as error:
        raise NotFound(f"{failure}: {_message_of(error)}") from error
    except api.PreconditionFailed as error:
        raise Changed(f"{failure}: {_message_of(error)}") from error
    except _REQUEST_ERRORS as error:
        raise StoreError(f"{failure}: {_message_of(error)}. What to do: {_hint(error, bucket)}") from error


def _message_of(error: Exception) -> str:
    if isinstance(error, api.RetryError) and error.cause is not None:
        return f"gave up after retries; the last error: {_message_of(error.cause)}"
    if isinstance(error, api.GoogleAPICallError):
        return f"{error.code} {_server_message(error)}".rstrip(". ")
    if isinstance(error, DataCorruption):
        return "the bytes were damaged in transit"
    return f"{type(error).__name__}: {error}".rstrip(". ")


def _server_message(error: api.GoogleAPICallError) -> str:
    """Return the server's message alone. For an upload the client's message contains the whole response."""
    try:
        return str(error.response.json()["error"]["message"])
    except (AttributeError, ValueError, KeyError, TypeError):
        return str(error.message)


def _hint(error: Exception, bucket: str) -> str:
    if isinstance(error, api.Forbidden):
        return (
            f"give the account the role roles/storage.objectUser on gs://{bucket} (gcloud storage buckets"
            f" add-iam-policy-binding gs://{bucket} --member=serviceAccount:ACCOUNT --role=roles/storage.objectUser);"
            " if it has the role, check whether a retention policy or a service perimeter forbids the call"
        )
    if isinstance(error, DefaultCredentialsError | api.Unauthorized):
        return "run gcloud auth application-default login, or name a key file in GOOGLE_APPLICATION_CREDENTIALS"
    if isinstance(error, api.BadRequest | DataCorruption):
        return "run the command again if bytes were damaged; otherwise correct the value that the message names"
    return "check the network and status.cloud.google.com, then run the command again; repeating it is safe"
