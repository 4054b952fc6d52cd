"""What every worker of a training run is told: plain data, so that Ray can ship it anywhere."""

from typing import Any

from schemas.artifact import Artifact
from schemas.config import TrainConfig
from schemas.frozen import Frozen
from schemas.hints import Hints
from schemas.taxonomy import Taxonomy

# The loss of every step, and the rows of every step: files of each checkpoint and of the stage's
# artifact.
CURVE, ORDER = "losses.parquet", "order.parquet"
# How a loop may end.
DONE, STOPPED = "done", "stopped"
STOP = "stop"


class Inputs(Frozen):
    """The artifacts that a stage reads.

    `balanced` has rows and order plan, `features` the cached h_o of their images, `labelled` the
    calibration split that sets the guard's threshold; `start` is the earlier stage's model, None
    for stage 1.
    """

    base: Artifact
    balanced: Artifact
    features: Artifact
    labelled: Artifact
    start: Artifact | None = None

    def parents(self) -> dict[str, Artifact]:
        """The artifacts by role, without an absent start."""
        return {role: artifact for role, artifact in self if artifact is not None}


class Job(Frozen):
    """A stage, the artifacts it reads, and where rank 0 writes how far it is.

    Taxonomy and hints travel by content: a worker elsewhere may not have the files.
    """

    config: TrainConfig
    inputs: Inputs
    taxonomy: Taxonomy
    hints: Hints
    root: str
    progress: str

    @property
    def plan(self) -> dict[str, Any]:
        """What decides the result."""
        return {name: getattr(self, name) for name in ("config", "inputs", "taxonomy", "hints")}

    @property
    def run(self) -> str:
        """The name of the run's folder, `{step}-{fingerprint}`."""
        return self.progress.split("/")[-2]

    @property
    def stop(self) -> str:
        """A file whose being there asks the run to end with a checkpoint."""
        return f"{self.progress.rpartition('/')[0]}/{STOP}"
