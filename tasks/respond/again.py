"""What an endpoint declined is asked again by the next run of the same command."""

from collections.abc import Callable, Mapping

from schemas.artifact import Artifact

# The count of an artifact's questions that an endpoint, the model's or a judge's, declined.
DECLINED = "declined"


def asked_again(make: Callable[[Mapping[str, str]], Artifact]) -> Artifact:
    """The artifact of a run: the first one, or the one after the last that had questions declined.

    A finished artifact stays as it is. A run that finds one with declined questions makes another,
    known by the one before; what was answered is in the cache, so that only they are asked.

    Args:
        make: makes an artifact, or finds it, with these inputs beside its own.
    """
    found = make({})
    while found.reused and found.counts.get(DECLINED):
        found = make({"after": found.fingerprint})
    return found
