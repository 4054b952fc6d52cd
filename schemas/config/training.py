"""Config of the two training stages."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.config.bounds import Count, Fraction, unsaid
from schemas.config.data import NOTHING, Held
from schemas.config.method import MethodConfig
from schemas.frozen import Frozen


class Stage(StrEnum):
    """The two training stages (METHOD.md section 3)."""

    CONCEPTS = "stage1"
    ALIGNMENT = "stage2"


# What a stage may train, in this order (model/stages.py says which parameters each part has). Stage
# 1 has the first two or the third, stage 2 has one of its parts.
PARTS: dict[Stage, tuple[str, ...]] = {
    Stage.CONCEPTS: ("concept", "tokens", "joint"),
    Stage.ALIGNMENT: ("lora", "full"),
}


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
