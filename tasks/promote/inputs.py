"""What a decision needs to know of the run that it decides on."""

from schemas.artifact import Artifact
from schemas.config import EncodeConfig, EvaluateConfig
from schemas.frozen import Frozen


class PromoteInputs(Frozen):
    """The candidate and its evaluation, its base and theirs, and what asks a champion the same.

    Attributes:
        model: the candidate, a trained stage.
        evaluation: of the candidate.
        base: the candidate's base model.
        base_evaluation: of the base by itself.
        samples: where the images of the items are.
        labelled: its test split is the items.
        features: of its images by the candidate's base.
        evaluate: how items are asked.
        encode: how images are encoded for a champion of another base.
        report: of the run, for the registry.
        preset: of the run, for the registry: a shipped name or a file's.
    """

    model: Artifact
    evaluation: Artifact
    base: Artifact
    base_evaluation: Artifact
    samples: Artifact
    labelled: Artifact
    features: Artifact
    evaluate: EvaluateConfig = EvaluateConfig()
    encode: EncodeConfig = EncodeConfig()
    report: Artifact | None = None
    preset: str = ""
