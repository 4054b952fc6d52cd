"""What a filesystem's error means, in words that hold no credentials."""

import re

# By the name of an error's class or parent: botocore's classes are loaded for s3:// only.
_S3_WORDS = {
    "GaveUpError": "the endpoint breaks off or does not answer, try after try; see whether it is "
    "up, and check AWS_ENDPOINT_URL",
    "NoCredentialsError": "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a "
    "profile",
    "PartialCredentialsError": "half of the credentials; set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY both",
    "EndpointConnectionError": "the endpoint does not answer; is it up, and is AWS_ENDPOINT_URL "
    "right?",
    "ConnectTimeoutError": "the endpoint does not answer; is it up, and is AWS_ENDPOINT_URL right?",
    "HTTPClientError": "the endpoint cannot be talked to; check AWS_ENDPOINT_URL",
    "PermissionError": "the endpoint refuses these credentials, or they may not do this; check "
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
    "ClientPayloadError": "answers are cut short, try after try; look at what is between here and "
    "the endpoint",
    "FileNotFoundError": "there is no such bucket or object; create the bucket, or check the "
    "root's spelling and AWS_ENDPOINT_URL",
}
_TAKEN = {"PreconditionFailed", "412"}
_BUSY = {"ConditionalRequestConflict", "409"}
# Of codes, not classes: s3fs has one class for all of them.
_AGAIN = "the endpoint is overloaded or failing; run the same command again later, it goes on here"
_ENDPOINT_FAULTS = {"SlowDown", "ServiceUnavailable", "InternalError", "TooManyRequests"}
TOO_MANY = 429
# A URL or bucket may carry "user:secret@"; botocore repeats URLs in its messages.
_USER_INFO = re.compile(r"(?<=://)[^\s\"'@]*:[^\s\"'@]*@|[^\s/\"'@]+@")


class GaveUpError(OSError):
    """A call to a bucket that was repeated in vain; nothing is to repeat it once more."""


def troubles(*, local: bool) -> tuple[type[Exception], ...]:
    """Name the errors that a filesystem raises for reasons outside of this program."""
    if local:
        return (OSError,)
    from aiohttp import ClientError as HttpError
    from botocore.exceptions import BotoCoreError, ClientError

    # ValueError: a malformed endpoint. HttpError: a body that was cut short, try after try.
    return (OSError, BotoCoreError, ClientError, HttpError, ValueError)


def reason(error: Exception, *, local: bool) -> str:
    """Say in one line what went wrong and what to do."""
    text = without_secrets(" ".join(str(error).split()))
    if local:
        return f"{getattr(error, 'strerror', None) or text}; give another root, or make it writable"
    for kind in type(error).__mro__:
        if kind.__name__ in _S3_WORDS:
            return f"{_S3_WORDS[kind.__name__]} ({text})"
    code = _code(error)
    if code in _ENDPOINT_FAULTS or (code.isdecimal() and int(code) >= TOO_MANY):
        return f"{_AGAIN} ({text})"
    return text


def without_secrets(text: str) -> str:
    """A text without the `user:secret@` that a URL in it may carry."""
    return _USER_INFO.sub("", text)


def holds_credentials(address: str) -> bool:
    """Whether `s3://...` seems to begin with a key: its secret may hold slashes itself."""
    head = address.partition("://")[2].partition("/")[0]
    return "@" in head or (":" in head and not head.startswith("arn:"))


def lost(error: OSError) -> bool:
    """Whether S3 refused a conditional put because the object exists."""
    return isinstance(error, FileExistsError) or _code(error) in _TAKEN


def undecided(error: OSError) -> bool:
    """Whether S3 refused a conditional put because another act on the object is under way."""
    return _code(error) in _BUSY


def beyond(error: OSError) -> bool:
    """Whether S3 was asked for bytes after an object's end: the first one of an empty object."""
    return _code(error) in {"InvalidRange", "416"}


def _code(error: Exception) -> str:
    """S3's own word for an error; "" without any."""
    for one in (error, error.__cause__):
        if response := getattr(one, "response", None):
            return str(response.get("Error", {}).get("Code", ""))
    return ""
