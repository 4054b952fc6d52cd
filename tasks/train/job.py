"""What every worker of a training run is told: plain data, so that Ray can ship it anywhere."""

from schemas.artifact import Artifact
from schemas.config import TrainConfig
from schemas.frozen import Frozen


class Job(Frozen):
    """The config of a stage and the addresses of all that it reads.

    `calibration` is the labelled artifact whose calibration split sets the guard's threshold;
    `start` is the earlier stage's model, None for stage 1; `progress` is where rank 0 writes how
    far it is.
    """

    config: TrainConfig
    root: str
    base: Artifact
    balanced: Artifact
    features: Artifact
    calibration: Artifact
    start: Artifact | None = None
    progress: str
