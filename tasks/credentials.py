"""AWS settings from a Prefect block: keys that a team keeps in its Prefect server.

    python -m tasks.credentials BLOCK

prints the keys of the role that the block takes on, for AWS's tools (tasks/role_keys.py).
"""

import json
import os
import sys
from typing import TYPE_CHECKING

from infra.faults import reason, troubles
from schemas.errors import ConfigError, ServerError, StorageError
from tasks.role_keys import profile_stands, role_profile, told_keys

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials

BLOCK = "PSAVLM_AWS_BLOCK"
KEY = "AWS_ACCESS_KEY_ID"


def use_credentials() -> None:
    """Put the AWS Credentials block that PSAVLM_AWS_BLOCK names into this process's environment.

    Only its name travels: every process that reads a bucket asks the Prefect server itself, so
    that the keys are in no parameter, no log and no Ray job. A key that is set already stays. Keys
    of a role that the block takes on are renewed by AWS's own tools (tasks/role_keys.py).

    Raises:
        ConfigError: no such block, nothing in it, or prefect-aws is not installed.
        ServerError: no Prefect server answers.
        StorageError: AWS refuses the role that the block names.
    """
    name = os.environ.get(BLOCK)
    if name and KEY not in os.environ and not profile_stands():
        os.environ.update(_settings(_block(name), name))


def _block(name: str) -> "AwsCredentials":
    if not os.environ.get("PREFECT_API_URL"):
        raise ServerError(
            f"{BLOCK}={name} names a block of a Prefect server, and none is there: psavlm up, or "
            "set PREFECT_API_URL"
        )
    from httpx import HTTPError

    try:
        from prefect_aws import AwsCredentials
    except ImportError:
        raise ConfigError(f"{BLOCK}={name} needs prefect-aws: pip install 'psavlm[aws]'") from None
    try:
        return AwsCredentials.load(name)
    except HTTPError as error:
        raise ServerError(
            f"{BLOCK}={name}: the Prefect server at PREFECT_API_URL does not answer ({error}); "
            "psavlm status"
        ) from None
    except ValueError:  # Prefect's word for an unknown name
        raise ConfigError(
            f"{BLOCK}={name}: the Prefect server has no block of type AWS Credentials with this "
            "name; make it on its page, or correct the setting"
        ) from None


def _settings(block: "AwsCredentials", name: str) -> dict[str, str]:
    try:
        # With the keys of its profile or role, if that is what it names.
        session = block.get_boto3_session()
        found = session.get_credentials()
        keys = found.get_frozen_credentials() if found else None
    except troubles(local=False) as error:
        # From None: the chained cause could hold credentials.
        why = reason(error, local=False)
        raise StorageError(f"{BLOCK}={name} gives no credentials: {why}") from None
    if keys is None:
        raise ConfigError(f"{BLOCK}={name}: the block is empty; give it a key, profile or role")
    there, region = block.aws_client_parameters.endpoint_url, session.region_name
    if block.assume_role_arn:
        # The address is the bucket's alone: roles are taken on elsewhere.
        settings = {**role_profile(name), "AWS_ENDPOINT_URL_S3": there}
    else:
        settings = {
            KEY: keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "AWS_SESSION_TOKEN": keys.token,
            "AWS_ENDPOINT_URL": there,
        }
    settings["AWS_DEFAULT_REGION"] = region
    return {setting: value for setting, value in settings.items() if value}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(told_keys(_block(sys.argv[1]))))
