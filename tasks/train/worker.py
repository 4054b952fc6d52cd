"""One process of a training run: its model, its data, its place among the others."""

from dataclasses import dataclass, field
from typing import Any

import torch

from infra.store import Store
from model.backbone import Backbone
from model.checkpoint import TrainingState, load_model
from model.lora import add_lora
from model.psavlm import PsaVlm
from schemas.config import Stage
from tasks.base_model import FOLDER
from tasks.credentials import use_credentials
from tasks.train.data import TrainingData
from tasks.train.job import Job
from tasks.train.watch import Reporter


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
    torch.use_deterministic_algorithms(True, warn_only=True)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    store = Store(job.root)
    model = _load(job, store).to(get_device())
    data = TrainingData(store.local(job.inputs.balanced), job.inputs.features, job.taxonomy)
    if job.config.stage is Stage.ALIGNMENT and job.config.method.stage2_rows == "clean":
        data.keep_clean()
    weights = None
    if job.config.class_weights == "balanced":
        of_types, of_levels = data.class_weights()
        weights = of_types.to(get_device()), of_levels.to(get_device())
    donors = data.donors() if job.config.method.shows_concepts else {}
    reporter = Reporter(job, rank)
    return Worker(job, model, data, rank, world, reporter, class_weights=weights, donors=donors)


def _load(job: Job, store: Store) -> PsaVlm:
    config = job.config
    backbone = Backbone.load(str(store.local(job.inputs.base) / FOLDER))
    if job.inputs.start is not None:
        model, _ = load_model(store.local(job.inputs.start) / FOLDER, backbone)
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
    return model
