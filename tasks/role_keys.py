"""Keys of the role that a Prefect block takes on, new ones before the old ones end.

AWS's tools ask a `credential_process` for them, and again a quarter of an hour before their time.
"""

import atexit
import os
import shlex
import shutil
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect_aws import AwsCredentials

# Of a block that does not say, and of AWS.
LASTS_S = 3600
PROFILE, CONFIG = "AWS_PROFILE", "AWS_CONFIG_FILE"
OURS = "psavlm-block"


def role_profile(name: str) -> dict[str, str]:
    """Environment in which AWS's tools ask for the keys of block `name`, again whenever they end.

    The file that it names holds no key, and goes with this process.
    """
    folder = Path(tempfile.mkdtemp(prefix="psavlm-aws-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # The block's own keys may be those of the profile that was chosen before.
    outer = [f"{key}={os.environ[key]}" for key in (PROFILE, CONFIG) if key in os.environ]
    asked = ["env", "-u", PROFILE, "-u", CONFIG, *outer]
    asked += [sys.executable, "-m", "tasks.credentials", name]
    (folder / "config").write_text(f"[profile {OURS}]\ncredential_process = {shlex.join(asked)}\n")
    return {PROFILE: OURS, CONFIG: str(folder / "config")}


def profile_stands() -> bool:
    """Whether this process, or the one that started it, has the profile already."""
    return os.environ.get(PROFILE) == OURS and Path(os.environ.get(CONFIG, "")).is_file()


def told_keys(block: "AwsCredentials") -> dict[str, str | int]:
    """Keys of the block's role and when they end, as a `credential_process` tells them."""
    lasts = timedelta(seconds=block.assume_role_kwargs.DurationSeconds or LASTS_S)
    ends = datetime.now(UTC) + lasts
    keys = block.get_boto3_session().get_credentials().get_frozen_credentials()
    return {
        "Version": 1,
        "AccessKeyId": keys.access_key,
        "SecretAccessKey": keys.secret_key,
        "SessionToken": keys.token,
        "Expiration": ends.isoformat(timespec="seconds"),
    }
