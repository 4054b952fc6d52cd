"""Config of the data's steps: world, ingest, validate, balance; and what is held out of them."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from schemas.config.bounds import Count, Fraction, Names, Ratio, unsaid
from schemas.frozen import Frozen
from schemas.policy import REFUSAL_MARKERS


class WorldConfig(Frozen):
    """The tiny world (tasks/tiny_world): how many images of each kind, and how hard to see.

    `shuffle_labels` gives training pictures each other's labels and answers (a control that must
    fail); `style_follows_type` draws half of the types in the second style (a shortcut to learn).
    """

    difficulty: Literal["easy", "hard"] = "easy"
    risky_train: Count = 1200
    clean_train: Count = 1800
    risky_test: Count = 480
    clean_test: Count = 420
    near_miss_test: Count = 120
    second_style: Count = 120
    shuffle_labels: bool = False
    style_follows_type: bool = False
    seed: int = 0


class SourceConfig(Frozen):
    """One data set on disk or in a bucket. `world:` in a URI means the tiny world's folder.

    `format` and `labels` are names or paths of one's own TOML. In table-like formats `columns`
    maps fields (question, answer, image, type, level, split, id, language, slices.<name>) to
    column names, `constants` to one value for all rows.
    """

    format: str
    uri: str
    name: str = ""
    images: str = ""
    split: Literal["train", "calibration", "test"] | None = None
    labels: str = ""
    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    licence: str = ""
    limit: Count | None = None


class IngestConfig(Frozen):
    """Sources -> samples. Rows without a split get one by the hash of their image group.

    Images whose perceptual hashes differ in at most `near_duplicate_bits` of 256 are one group.
    """

    sources: tuple[SourceConfig, ...] = ()
    taxonomy: str = "taxonomy"
    calibration: Fraction = 0.1
    test: Fraction = 0.1
    max_image_bytes: Count = 20_000_000
    max_image_pixels: Count = 50_000_000
    near_duplicate_bits: Annotated[int, Field(ge=0, le=15)] = 15
    seed: int = 0


class ValidateConfig(Frozen):
    """Samples -> labelled: limits, and policies for rows that are readable and yet in question.

    `contamination`: training rows whose image or whole content is also a test item of another
    source. `label_conflict`: rows of one image group whose labels contradict each other.
    `min_rows_per_type`, `min_rows_per_level`: of the training split; 0 asks for none.
    """

    taxonomy: str = "taxonomy"
    licences: str = "default"
    max_reject_rate: Fraction = 0.05
    min_rows_per_type: Annotated[int, Field(ge=0)] = 0
    min_rows_per_level: Annotated[int, Field(ge=0)] = 0
    type_with_level_zero: Literal["clean_by_level", "reject"] = "clean_by_level"
    unsafe_target: Literal["concept", "reject"] = "concept"
    contamination: Literal["remove", "refuse"] = "remove"
    label_conflict: Literal["report", "reject"] = "report"
    refusal_markers: tuple[str, ...] = REFUSAL_MARKERS


def only_risks(types: Names) -> Names:
    """The types; ValueError if `clean` is among them."""
    if "clean" in types:
        raise ValueError("'clean' is no risk: without it no guard can be calibrated")
    return types


class HeldOut(Frozen):
    """What training and calibration must not see and the test split keeps (METHOD.md 7.6).

    `sources`: names, where * stands for any letters, as the test split of a set is often a source
    of its own (`second-style*`); `types`: risk types.
    """

    sources: tuple[str, ...] = ()
    types: Annotated[tuple[str, ...], AfterValidator(only_risks)] = ()

    @property
    def told(self) -> str:
        """Its names, as tables have them."""
        return ", ".join((*self.sources, *self.types))

    def holds(self, risk_type: str, source: str) -> bool:
        """Whether a row of this type and source is held out."""
        return risk_type in self.types or any(fnmatchcase(source, own) for own in self.sources)


NOTHING = HeldOut()
Held = Annotated[HeldOut, unsaid(NOTHING)]


class BalanceConfig(Frozen):
    """Labelled -> the training order. `clean_per_unsafe` is the ratio of that order.

    `source_caps`: at most so many rows of a source to choose from (0 leaves it out); an item is
    used at most `max_repeat` times.
    """

    clean_per_unsafe: Ratio = 1.0
    size: Literal["keep_unsafe", "fixed_total"] = "keep_unsafe"
    total: Count | None = None
    with_answers_only: bool = False
    epochs: Count = 8
    max_repeat: Count = 1
    source_caps: dict[str, Annotated[int, Field(ge=0)]] = {}
    held_out: Held = NOTHING
    seed: int = 0
