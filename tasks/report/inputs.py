"""What a report is made of: the artifacts of a run as far as it went."""

from schemas.artifact import Artifact
from schemas.frozen import Frozen


class ReportInputs(Frozen):
    """The artifacts of a run; what a run has not made yet is None, and its section is left out.

    `concepts` and `aligned` are the balance artifacts of stage 1 and stage 2, `evaluations` the
    arms in the order of the tables, the one that others are compared with first; `benchmarks` by
    `name/arm`. `attack` is one on the last of them.
    """

    samples: Artifact | None = None
    labelled: Artifact | None = None
    concepts: Artifact | None = None
    aligned: Artifact | None = None
    base: Artifact | None = None
    features: Artifact | None = None
    stage1: Artifact | None = None
    stage2: Artifact | None = None
    evaluations: dict[str, Artifact] = {}
    benchmarks: dict[str, Artifact] = {}
    attack: Artifact | None = None

    def parents(self) -> dict[str, Artifact]:
        """The artifacts by role, without absent ones."""
        single = {role: part for role, part in self if isinstance(part, Artifact)}
        several = {"evaluate": self.evaluations, "benchmark": self.benchmarks}
        named = {f"{k}/{name}": part for k, own in several.items() for name, part in own.items()}
        return {**single, **named}

    @property
    def trained(self) -> Artifact | None:
        """The last stage that was trained."""
        return self.stage2 or self.stage1

    def model_of(self, arm: str) -> Artifact | None:
        """The trained stage that answered as an arm; None for the base."""
        return {"stage1": self.stage1, "stage2": self.stage2}.get(arm)
