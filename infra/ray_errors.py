"""What a task of a Ray cluster has failed of, in words of ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from schemas.errors import PsavlmError, ServerError


@contextmanager
def retold(gone: Callable[[str], ServerError]) -> Iterator[None]:
    """Tell an error of ours that a worker met as it is, and one of the cluster in our words.

    Args:
        gone: what is said, by the name of Ray's error, where the cluster is not there any more.
    """
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, PsavlmError):
            raise cause from None
        if isinstance(error, RayTaskError):  # a fault in our code: with all that is known of it
            raise
        raise gone(type(error).__name__) from error
