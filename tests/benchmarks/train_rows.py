"""What is measured on a GPU: encoding and both stages, beside what the device could do."""

from functools import partial

import torch

from infra.library import Library
from infra.store import Store
from model.precision import base_type
from schemas.config import Stage
from tasks.encode.shards import SHARD_VERSION, SHARDS
from tasks.encode.work import encode_all
from tasks.train.meter import peak_rate
from tests.benchmarks.rates import by_turns, copy_rate, counted, moved, seconds_of
from tests.benchmarks.train_loops import Bench, Joint, learn, ours, trainer

ROUNDS = 3


def rows(bench: Bench, *, steps: int) -> dict[str, float]:
    """Encoding, stage 1 in both ways and stage 2 in both ways, beside what the device could do.

    `..._of_peak` is the share of the rate of a large matrix product on the same device that the
    counted operations of the timed steps come to: the limit by arithmetic. `..._of_bandwidth` is
    that of the rate of a large copy, by the bytes that all operations of a step touch: the limit by
    memory, where nothing is fused. `encode_...` is the encoder alone, its pixels ready;
    `encode_files_...` is the step's own way from JPEGs to shards.
    """
    device = torch.device(bench.shape.device)
    kind = base_type(bench.config(Stage.CONCEPTS, {}))
    peak, bandwidth = peak_rate(device, kind), copy_rate(device)
    found = {"peak": peak, "bandwidth": bandwidth, **_encode_rows(bench, peak)}
    found |= _concept_rows(bench, peak, bandwidth, steps=steps)
    found |= _joint_rows(bench, peak, steps=steps)
    return {**found, **_stage2_rows(bench, peak, steps=steps)}


def _encode_rows(bench: Bench, peak: float) -> dict[str, float]:
    config, backbone, files = bench.encode, bench.backbone(), list(bench.files())
    ready = torch.arange(config.batch) % bench.shape.items
    library = Library(Store(str(bench.folder / "encoded")), SHARDS, SHARD_VERSION, encoder="hand")

    def whole_way() -> None:
        encode_all(config, iter(files), backbone, library, tick=lambda done: None)

    encode = partial(bench.encoded, backbone, ready)
    flops = counted(encode)
    alone = min(seconds_of(encode, backbone.device) for _ in range(ROUNDS))
    whole = seconds_of(whole_way, backbone.device)
    return {
        "encode_images_per_s": config.batch / alone,
        "encode_of_peak": flops / alone / peak,
        "encode_files_images_per_s": len(files) / whole,
    }


def _concept_rows(bench: Bench, peak: float, bandwidth: float, *, steps: int) -> dict[str, float]:
    part = bench.part(steps=steps + 1, micro=None)
    worker = bench.worker(Stage.CONCEPTS, "concept", part)

    def all_steps() -> None:
        learn(worker, "concept", part)

    flops, touched = counted(all_steps) / steps, moved(all_steps) / steps
    learning = by_turns({"ours": ours(worker, "concept", part).seconds}, rounds=ROUNDS)["ours"]
    return {
        "concept_items_per_s": bench.shape.batch / learning,
        "concept_of_peak": flops / learning / peak,
        "concept_of_bandwidth": touched / learning / bandwidth,
    }


def _joint_rows(bench: Bench, peak: float, *, steps: int) -> dict[str, float]:
    both = Joint(bench, steps=steps)
    flops = counted(lambda: [both.backward(step) for step in range(1, steps + 1)]) / steps
    seconds = by_turns({"joint": both.loop().seconds}, rounds=ROUNDS)["joint"]
    return {
        "joint_items_per_s": bench.shape.batch / seconds,
        "joint_of_peak": flops / seconds / peak,
    }


def _stage2_rows(bench: Bench, peak: float, *, steps: int) -> dict[str, float]:
    part = bench.part(steps=steps + 1, micro=bench.shape.micro)
    worker, positions = bench.worker(Stage.ALIGNMENT, "lora", part), 0.0

    def all_steps() -> None:
        nonlocal positions
        positions = learn(worker, "lora", part)

    flops = counted(all_steps) / steps
    ways = {"ours": ours(worker, "lora", part).seconds, "trainer": trainer(bench, steps=steps)}
    seconds = by_turns(ways, rounds=ROUNDS)
    return {
        "lora_tokens_per_s": positions / steps / seconds["ours"],
        "lora_of_peak": flops / seconds["ours"] / peak,
        "trainer_over_lora": seconds["trainer"] / seconds["ours"],
    }
