"""The one frozen config tree. A preset is this tree as TOML; flow parameters override its tops."""

from collections.abc import Callable
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from schemas.attack import AttackConfig
from schemas.benchmark import BenchmarkConfig
from schemas.frozen import Frozen
from schemas.policy import REFUSAL_MARKERS
from schemas.report import WILSON, RateInterval

# An upper end is what a JSON schema can say against infinity: it knows no other word for it.
MOST_RATIO = 1_000_000.0
Ratio = Annotated[float, Field(ge=0, le=MOST_RATIO, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Names = TypeVar("Names", list[str], tuple[str, ...])


class Stage(StrEnum):
    """The two training stages (METHOD.md section 3)."""

    CONCEPTS = "stage1"
    ALIGNMENT = "stage2"


# What a stage may train, in this order (model/stages.py says which parameters each part has). Stage
# 2 has one of its parts.
PARTS: dict[Stage, tuple[str, ...]] = {
    Stage.CONCEPTS: ("concept", "tokens"),
    Stage.ALIGNMENT: ("lora", "full"),
}


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


def unsaid(value: object) -> Any:
    """A field that is left out of the dump where it has this value, its default.

    Runs from before there was the field keep their fingerprints.
    """
    return Field(exclude_if=value.__eq__)


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


class EncodeConfig(Frozen):
    """Images -> frozen encoder features (h_o, METHOD.md section 2), once per image.

    `dtype`: as kept; `precision`: in which the encoder computes. `cache`: `always` keeps the
    features, `never` lets each reader encode its batches, with the same numbers; `auto` keeps them
    if they fit into `cache_bytes`, and on a local disk into `cache_share` of what is free there.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    batch: Count = 128
    precision: Literal["fp32", "bf16"] = "fp32"
    cache: Literal["auto", "always", "never"] = "always"
    cache_bytes: Count | None = None
    cache_share: Fraction = 0.5

    @property
    def numbers(self) -> dict[str, Any]:
        """What decides the features; defaults that came later are left out, as in old artifacts."""
        own = {"dtype": self.dtype, "batch": self.batch}
        return own if self.precision == "fp32" else {**own, "precision": self.precision}


class BaseConfig(Frozen):
    """The base VLM: trained here (`train`, the tiny world's), or `pretrained` by path or hub name.

    Sizes and steps hold for `train` only; `name` and `revision` for `pretrained` only.
    """

    kind: Literal["train", "pretrained"] = "train"
    name: str = ""
    revision: str = ""
    width: Count = 128
    layers: Count = 3
    heads: Count = 4
    vision_steps: Count = 800
    vision_batch: Count = 32
    language_steps: Count = 900
    threads: Count = 1
    seed: int = 0


class MethodConfig(Frozen):
    """Which parts make up the model (METHOD.md section 8), and how it is used.

    `tokens`: how many safety tokens. `projector_*` are `c_abstractor`'s: blocks on each side of the
    pool, their width, the pooled grid's side; `head_width` is `pooled_mlp`'s. `concepts`: who says
    what is in an image, the head or (an oracle) the item's own label. `threshold`: flag at most the
    budget's `rate` of clean calibration items, or few enough that its 95 % `bound` holds it.
    `stage2_rows`: what stage 2 learns from.
    """

    projector: Literal["c_abstractor", "mlp", "none"] = "mlp"
    projector_depth: Count = 3
    projector_width: Count = 1088
    projector_grid: Count = 24
    head: Literal["cross_attention", "pooled_mlp", "none"] = "cross_attention"
    head_width: Count = 1024
    query: Literal["text", "first_token", "image_only"] = "text"
    llm_tokens: Literal["static", "concept", "none"] = "static"
    intervention: Literal["hint", "tokens", "both", "off"] = "hint"
    concepts: Literal["head", "labels"] = "head"
    threshold: Literal["rate", "bound"] = "rate"
    stage2: Literal["lora", "full", "none"] = "lora"
    stage2_rows: Literal["all", "clean"] = "all"
    hints: str = "default"
    tokens: Count = 64
    attention_heads: Count = 8
    lora_rank: Count = 256
    lora_alpha: Count = 16
    lora_dropout: Fraction = 0.05

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "MethodConfig":
        for wrong, told in MISFITS:
            if wrong(self):
                raise ValueError(told)
        return self

    def has_part(self, name: str) -> bool:
        """Whether a part of a stage (PARTS) is trained by this method."""
        if name == "concept":
            return self.head != "none"
        return self.llm_tokens != "none" if name == "tokens" else self.stage2 == name

    @property
    def shows_hints(self) -> bool:
        """Whether a hint is put into the prompt where the guard acts."""
        return self.intervention in ("hint", "both")

    @property
    def shows_concepts(self) -> bool:
        """Whether concept tokens are put into the prompt where the guard acts."""
        return self.intervention in ("tokens", "both")


# Combinations that would leave a setting without effect, or a part without what it needs.
MISFITS: tuple[tuple[Callable[[MethodConfig], bool], str], ...] = (
    (
        lambda m: m.head == "none" and m.projector != "none",
        "head 'none' reads no projector: set projector = \"none\" too",
    ),
    (
        lambda m: m.head == "none" and m.concepts == "head" and m.intervention != "off",
        'head \'none\' finds nothing to act on: set intervention = "off", or concepts = "labels"',
    ),
    (
        lambda m: m.head != "none" and m.concepts == "labels",
        "concepts 'labels' leaves the head unused: set head = \"none\"",
    ),
    (
        lambda m: m.shows_concepts and m.llm_tokens != "concept",
        "interventions 'tokens' and 'both' need llm_tokens = \"concept\"",
    ),
    (
        lambda m: m.llm_tokens == "concept" and not m.shows_concepts,
        "llm_tokens 'concept' are shown by the interventions 'tokens' and 'both' alone",
    ),
    (
        lambda m: m.concepts == "labels" and any(map(m.has_part, ("tokens", "lora", "full"))),
        "concepts 'labels' is an oracle for an untrained base: set llm_tokens = \"none\" and "
        'stage2 = "none"',
    ),
    (
        lambda m: m.stage2 == "full" and m.head != "none" and m.projector == "none",
        "stage2 'full' changes the projector that a head with projector 'none' reads: choose "
        'another safety projector, or stage2 = "lora"',
    ),
)


class PartConfig(Frozen):
    """One optimised part of a stage: steps of `global_batch` items, AdamW, linear decay.

    `hint_share` of the risky prompts carry what the guard would show for their true label, the
    hint, the concept's tokens or both, as in inference; the papers train without (METHOD.md
    section 3). With concept tokens, `force_share` of all items are told a random concept instead
    and taught the refusal of an item that has it (section 7.5); types in `never_forced` are left
    out of that. `micro_batch`: at most so many items of a worker's share go through the model at a
    time, sorted by length; left out, the whole share does.
    """

    steps: Count
    global_batch: Count
    micro_batch: Count | None = None
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    hint_share: Fraction = 0.0
    force_share: Fraction = 0.25
    never_forced: tuple[str, ...] = ()


class TrainConfig(Frozen):
    """One stage on Ray Train: its parts in order, and how often a checkpoint is written.

    `parts` is empty for a stage that the method does not have. `class_weights`: all classes alike
    in the concept loss, or `balanced` by how often each occurs in the training order.
    `false_positive_budget` is the share of clean calibration items that the guard may flag;
    `held_out` ones are not among them.
    `precision`: of products; in bf16 a frozen base is kept in bf16 too, what trains never is.
    `recompute`: what the language model's layers compute again in the backward pass to save
    memory: nothing, all that is `cheap` (no matrix product), or `all`.
    `shard`: with `fsdp` each worker keeps its part of every layer's weights, gradients and moments.
    `quantise`: the language model's frozen layers in their own type, or in `4bit` (NF4).
    `attention`: FlashAttention where it is installed and can run, or torch's own alone. `packing`:
    items of a micro-batch in one row instead of padded, where the attention can do that, or never.
    """

    stage: Stage
    parts: dict[str, PartConfig]
    method: MethodConfig
    taxonomy: str = "taxonomy"
    concept_weight: Annotated[float, Field(gt=0)] = 10.0
    class_weights: Literal["equal", "balanced"] = "equal"
    false_positive_budget: Fraction = 0.01
    max_text_tokens: Count = 512
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: Literal["none", "cheap", "all"] = "none"
    shard: Annotated[Literal["none", "fsdp"], unsaid("none")] = "none"
    quantise: Annotated[Literal["none", "4bit"], unsaid("none")] = "none"
    attention: Annotated[Literal["auto", "sdpa"], unsaid("auto")] = "auto"
    packing: Annotated[Literal["auto", "off"], unsaid("auto")] = "auto"
    checkpoint_every: Count = 50
    workers: Count = 2
    max_failures: Annotated[int, Field(ge=0)] = 3
    held_out: Held = NOTHING
    seed: int = 0

    @model_validator(mode="after")
    def _batches_divide_among_workers(self) -> "TrainConfig":
        for name, part in self.parts.items():
            if part.global_batch % self.workers:
                raise ValueError(
                    f"parts.{name}.global_batch {part.global_batch} does not divide among "
                    f"{self.workers} workers"
                )
        return self

    @model_validator(mode="after")
    def _only_what_is_frozen_is_quantised(self) -> "TrainConfig":
        full = self.stage is Stage.ALIGNMENT and self.method.stage2 == "full"
        if self.quantise == "4bit" and full:
            raise ValueError(
                "quantise '4bit' is for a frozen base, and method.stage2 = \"full\" trains it: set "
                'method.stage2 = "lora", or leave quantise out'
            )
        return self

    @model_validator(mode="after")
    def _shards_are_of_what_trains(self) -> "TrainConfig":
        if self.shard == "none":
            return self
        if self.stage is Stage.CONCEPTS or self.method.stage2 == "lora":
            raise ValueError(
                "shard 'fsdp' is for the language model that stage2 trains itself: leave it out "
                'here, or in stage2 set method.stage2 = "full"'
            )
        if self.workers == 1:
            raise ValueError("shard 'fsdp' with one worker has nobody to share with: set workers")
        return self


class EvaluateConfig(Frozen):
    """Held-out items -> answers, rates and intervals for one arm.

    `policy`: which types pass, and what follows from a level (schemas/policies); empty is the
    model's own. `interval`: of rates, Wilson's or the exact one, which is wider. `precision`: the
    type of the base's weights.
    """

    taxonomy: str = "taxonomy"
    policy: str = ""
    precision: Annotated[Literal["fp32", "bf16"], unsaid("fp32")] = "fp32"
    batch: Count = 64
    max_new_tokens: Count = 128
    refusal_markers: tuple[str, ...] = REFUSAL_MARKERS
    bootstrap: Count = 2000
    interval: RateInterval = WILSON
    seed: int = 0


class ReportConfig(Frozen):
    """The report: how many images it shows, and whether they are blurred and risky words hidden.

    `blur` left out: all is blurred but the tiny world's glyphs and shapes, where they are alone.
    """

    blur: bool | None = None
    images: Count = 6
    worst: Count = 12


class AuditConfig(Frozen):
    """A trained head against the labels: which rows it looks at, what it disputes, what is shown.

    `margin`: log-odds, in nats, of the type seen against the type stated, from which a row counts
    as disputed; 2.3 is ten to one. `images` on the contact sheet, blurred as the report's.
    """

    taxonomy: str = "taxonomy"
    splits: Annotated[tuple[Literal["train", "calibration", "test"], ...], Field(min_length=1)] = (
        "train",
        "calibration",
        "test",
    )
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.3
    images: Count = 48
    batch: Count = 256
    blur: bool | None = None


def once_each(benchmarks: tuple[BenchmarkConfig, ...]) -> tuple[BenchmarkConfig, ...]:
    """The benchmarks; ValueError for a name that is there twice."""
    names = [one.name for one in benchmarks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"benchmark {twice[0]!r} is there twice: leave one, and ask the other with "
            "psavlm benchmark"
        )
    return benchmarks


class PipelineConfig(Frozen):
    """A whole run, from sources to the evaluation, and its audit; what a preset file holds.

    With `attack` the last stage is attacked before the report, which then shows it; `benchmarks`
    are asked of the base and of the last stage, and are a block each in it.
    """

    preset: str
    world: WorldConfig | None = None
    ingest: IngestConfig = IngestConfig()
    validation: ValidateConfig = ValidateConfig()
    balance: BalanceConfig = BalanceConfig()
    stage2_balance: BalanceConfig = BalanceConfig(with_answers_only=True)
    base: BaseConfig = BaseConfig()
    encode: EncodeConfig = EncodeConfig()
    stage1: TrainConfig
    stage2: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    benchmarks: Annotated[tuple[BenchmarkConfig, ...], AfterValidator(once_each)] = ()
    report: ReportConfig = ReportConfig()
    audit: AuditConfig = AuditConfig()
    attack: AttackConfig | None = None
    gate: str = "default"

    @property
    def method(self) -> MethodConfig:
        """The method of the run."""
        return self.stage1.method

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that have something to train, in order."""
        return tuple(config.stage for config in (self.stage1, self.stage2) if config.parts)

    @property
    def last_arm(self) -> str:
        """The arm that the run ends with: its last stage, the oracle, or the base by itself."""
        untrained = "oracle" if self.method.concepts == "labels" else "base"
        return self.stages[-1].value if self.stages else untrained
