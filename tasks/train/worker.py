"""One process of a training run: its model, its data, its place among the others."""

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from infra.store import Store
from model.backbone import Backbone
from model.checkpoint import load_model
from model.lora import add_lora
from model.packing import attend_by, attention_of, best_attention, can_pack
from model.precision import base_type, recompute
from model.psavlm import PsaVlm
from model.shards import shard_layers
from model.training_state import Stored, TrainingState
from schemas.config import PartConfig, Stage, TrainConfig
from schemas.errors import ConfigError
from tasks.base_model import FOLDER
from tasks.credentials import use_credentials
from tasks.train.data import Item, TrainingData
from tasks.train.job import Job
from tasks.train.meter import Meter
from tasks.train.repeat import choose_kernels
from tasks.train.reporter import Reporter

if TYPE_CHECKING:
    from concurrent.futures import Future

# What was trained on: `row` is the place among the balanced rows sorted by sample_id, as in
# plan.parquet; a global batch's rows stand in the order of the workers.
ROWS_SEEN = pa.schema([("part", pa.string()), ("step", pa.int32()), ("row", pa.int32())])
log = logging.getLogger(__name__)


@dataclass
class Worker:
    """One process of the run and all that its steps need."""

    job: Job
    model: PsaVlm
    data: TrainingData
    rank: int
    world: int
    reporter: Reporter
    class_weights: tuple[torch.Tensor, torch.Tensor] | None = None
    # Refusals by (type, level), to be taught where that concept is told (tasks/train/showing.py).
    donors: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    # One row a step of rank 0, also of the steps before a resume: what the loss curves show.
    losses: list[dict[str, Any]] = field(default_factory=list)
    # Of all workers, up to the last checkpoint; rank 0 alone needs it.
    order: pa.Table = field(default_factory=ROWS_SEEN.empty_table)
    # This worker's own since then: part, step, rows.
    trained: list[tuple[str, int, "np.ndarray"]] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    # What the checkpoint that this process goes on from tells of the optimizer.
    stored: Stored | None = None
    # The checkpoint that is being written beside the steps.
    writing: "Future[None] | None" = None
    # Whether an operation that does not repeat ends a step (tasks/train/repeat.py).
    strict: bool = False

    def items(self, step: int, part: PartConfig) -> list[Item]:
        """This worker's share of a global batch."""
        return self.data.batch(step, part.global_batch, self.rank, self.world)

    def note(self, point: dict[str, Any], items: list[Item]) -> None:
        """Keep a step's point of the curve, and the rows that it was trained on."""
        self.losses.append(point)
        self.trained.append((point["part"], point["step"], self.data.row_numbers(items)))

    def gather_order(self) -> None:
        """Add all workers' rows since the last checkpoint to `order`; every rank must call this."""
        shares = [self.trained]
        if dist.is_initialized():
            shares = [[] for _ in range(self.world)]
            dist.all_gather_object(shares, self.trained)
        self.trained = []
        steps = [self.order]
        for same in zip(*shares, strict=True):
            part, step, _ = same[0]
            rows = np.concatenate([rows for _, _, rows in same])
            names, numbers = pa.repeat(part, len(rows)), pa.repeat(pa.scalar(step), len(rows))
            steps.append(pa.table([names, numbers.cast("int32"), pa.array(rows)], ROWS_SEEN))
        self.order = pa.concat_tables(steps)

    def is_last(self, state: TrainingState) -> bool:
        """Whether a state is the end of the whole stage."""
        name, part = list(self.job.config.parts.items())[-1]
        return state.part == name and state.step == part.steps


def open_worker(job: Job) -> Worker:
    """All that this process needs, read from the store; called inside a Ray Train worker."""
    import ray.train
    from ray.train.torch import get_device

    use_credentials()
    torch.set_num_threads(1)
    choose_kernels()
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    store = Store(job.root)
    model = _load(job, store, get_device(), workers=world)
    data = TrainingData(
        store.local(job.inputs.balanced),
        job.inputs.features,
        job.taxonomy,
        readers=context.get_local_world_size(),
    )
    if job.config.stage is Stage.ALIGNMENT and job.config.method.stage2_rows == "clean":
        data.keep_clean()
    weights = None
    if job.config.class_weights == "balanced":
        of_types, of_levels = data.class_weights()
        weights = of_types.to(get_device()), of_levels.to(get_device())
    donors = data.donors() if job.config.method.shows_concepts else {}
    meter = Meter(get_device())
    told: dict[str, Any] = {"class_weights": weights, "donors": donors, "meter": meter}
    return Worker(job, model, data, rank, world, Reporter(job, rank), **told)


def choose_kernel(model: PsaVlm, config: TrainConfig, device: torch.device) -> None:
    """Let the language model attend by the best kernel here, and pack where that kernel can."""
    attend_by(model.backbone, best_attention(config, model.backbone, device))
    model.packs = config.packing == "auto" and can_pack(model.backbone)
    kernel, packing = attention_of(model.backbone), "on" if model.packs else "off"
    log.info("%s attends by %s, packing %s", config.stage.value, kernel, packing)


def _load(job: Job, store: Store, device: torch.device, *, workers: int) -> PsaVlm:
    config = job.config
    backbone = Backbone.load(
        str(store.local(job.inputs.base) / FOLDER),
        dtype=base_type(config),
        four_bit_on=device if config.quantise == "4bit" else None,
    )
    if job.inputs.start is not None:
        model, card = load_model(store.local(job.inputs.start) / FOLDER, backbone)
        if card.taxonomy != job.taxonomy:
            raise ConfigError(
                f"{job.inputs.start.uri} was trained with taxonomy {card.taxonomy.name!r} as it "
                f"was then ({', '.join(card.taxonomy.type_ids)}), and {config.stage.value} asks "
                f"for {job.taxonomy.name!r} ({', '.join(job.taxonomy.type_ids)}): train both "
                "stages with one taxonomy"
            )
        backbone.freeze()
    else:
        model = PsaVlm.new(
            backbone,
            config.method,
            types=len(job.taxonomy.types),
            levels=len(job.taxonomy.levels),
            seed=config.seed,
        )
    if "lora" in config.parts:
        add_lora(backbone, config.method, seed=config.seed)
    recompute(backbone, config.recompute)
    choose_kernel(model, config, device)
    if config.shard == "fsdp":
        half = config.precision == "bf16"
        shard_layers(backbone, device, workers=workers, half=half)
    return model.to(device)
