"""What a run leaves: the artifact of every step that it came to, and the gate's decision."""

from schemas.artifact import Artifact
from schemas.decision import Decision
from schemas.frozen import Frozen


class Outcome(Frozen):
    """A finished run; `decision` is None where it stopped before the gate, or was not to ask it."""

    artifacts: dict[str, Artifact]
    decision: Decision | None = None
