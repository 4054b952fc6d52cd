"""What a filesystem's error means, in words that hold no credentials."""

import re

# By the name of an error's class or parent: botocore's classes are loaded for s3:// only.
_S3_WORDS = {
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
    "FileNotFoundError": "there is no such bucket or object; create the bucket, or check the "
    "root's spelling and AWS_ENDPOINT_URL",
}
_TAKEN = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
# A URL or bucket may carry "user:secret@"; botocore repeats URLs in its messages.
_USER_INFO = re.compile(r"[^\s/\"'@]+@")


def troubles(*, local: bool) -> tuple[type[Exception], ...]:
    """Name the errors that a filesystem raises for reasons outside of this program."""
    if local:
        return (OSError,)
    from botocore.exceptions import BotoCoreError, ClientError

    return (OSError, BotoCoreError, ClientError, ValueError)  # ValueError: a malformed endpoint


def reason(error: Exception, *, local: bool) -> str:
    """Say in one line what went wrong and what to do."""
    text = _USER_INFO.sub("", " ".join(str(error).split()))
    if local:
        return f"{getattr(error, 'strerror', None) or text}; give another root, or make it writable"
    for kind in type(error).__mro__:
        if kind.__name__ in _S3_WORDS:
            return f"{_S3_WORDS[kind.__name__]} ({text})"
    return text


def lost(error: OSError) -> bool:
    """Whether S3 refused a conditional put because the object exists, or is being made."""
    response = getattr(error.__cause__, "response", None) or {}
    return isinstance(error, FileExistsError) or (response.get("Error", {}).get("Code") in _TAKEN)
