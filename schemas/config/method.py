"""Config of the model: its base, how images are encoded, and the method's parts."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from schemas.config.bounds import Count, Fraction
from schemas.frozen import Frozen


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
    `stage1`: its two losses, which share no parameter, in parts one after the other, or at every
    step as the papers have it. `stage2_rows`: what stage 2 learns from.
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
    # Left out of the dump where it is the usual one: older runs keep their fingerprints.
    stage1: Annotated[Literal["parts", "joint"], Field(exclude_if="parts".__eq__)] = "parts"
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
        apart = self.stage1 == "parts"
        of_stage1 = {
            "concept": apart and self.head != "none",
            "tokens": apart and self.llm_tokens != "none",
            "joint": not apart,
        }
        return of_stage1.get(name, self.stage2 == name)

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
        lambda m: m.stage1 == "joint" and "none" in (m.head, m.llm_tokens),
        "stage1 'joint' trains head and tokens at every step, and needs both: leave it out, or "
        "choose a head and llm_tokens",
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
