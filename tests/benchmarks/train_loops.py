"""Training in our way and in others', on one model and one set of items, in one process.

The model has a LLaVA's shape with random weights: a tiny one on the CPU, LLaVA-1.5-7B's on a GPU.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from infra.store import Store
from model.backbones.llava import Llava
from model.lora import add_lora
from model.precision import base_type, recompute
from model.psavlm import PsaVlm
from model.stages import freeze_for
from model.steps import apply_gradients, new_optimizer
from model.tiny_llava import IMAGE, new_processor, new_tokenizer
from schemas.config import MethodConfig, PartConfig, Stage, TrainConfig
from schemas.hints import load_hints
from schemas.samples import ROWS
from schemas.taxonomy import load_taxonomy
from tasks.train import Inputs
from tasks.train.data import TrainingData
from tasks.train.job import Job
from tasks.train.loop import backward
from tasks.train.losses import LOSSES
from tasks.train.meter import Meter, peak_rate
from tasks.train.reporter import Reporter
from tasks.train.worker import Worker, choose_kernel
from tests.shelf import keep_features

TAXONOMY = load_taxonomy()
WORDS = [f"{letter}{number}" for letter in "abcdefgh" for number in range(40)]


@dataclass(frozen=True)
class Shape:
    """A LLaVA's sizes, the training's, and where it runs."""

    vision: dict[str, int]
    text: dict[str, int]
    method: MethodConfig
    batch: int
    micro: int
    answer_words: int  # the median; lengths are log-normal, as those of LLaVA's conversations
    items: int
    device: str = "cpu"
    precision: str = "fp32"
    recompute: str = "none"


TINY = Shape(
    vision={"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3,
            "num_attention_heads": 4, "image_size": 64, "patch_size": 8, "projection_dim": 128},
    text={"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3,
          "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 1024},
    method=MethodConfig(tokens=8, attention_heads=4, lora_rank=8, lora_dropout=0.0),
    batch=32, micro=8, answer_words=20, items=128,
)  # fmt: skip
SEVEN_B = Shape(
    vision={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768},
    text={"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
          "vocab_size": 32064},
    method=MethodConfig(projector="c_abstractor", lora_dropout=0.0),
    batch=32, micro=8, answer_words=60, items=256,
    device="cuda", precision="bf16", recompute="cheap",
)  # fmt: skip


@dataclass
class Bench:
    """One model and its items."""

    shape: Shape
    folder: Path

    @cached_property
    def texts(self) -> list[tuple[str, str]]:
        """Questions of five words with answers of many lengths."""
        draw = np.random.default_rng(0)
        counts = np.exp(draw.normal(np.log(self.shape.answer_words), 0.9, self.shape.items))
        counts = np.clip(counts, 2, 8 * self.shape.answer_words).astype(int)
        return [(" ".join(draw.choice(WORDS, 5)), " ".join(draw.choice(WORDS, n))) for n in counts]

    def backbone(self) -> Llava:
        """The base anew: the same weights every time."""
        shape, tokenizer = self.shape, new_tokenizer(" ".join(pair) for pair in self.texts)
        text = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **shape.text}
        side = shape.vision["image_size"] // shape.vision["patch_size"]
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**shape.vision),
            text_config=LlamaConfig(**text, tie_word_embeddings=False),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            image_seq_length=side**2,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            tie_word_embeddings=False,
        )
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(base_type(self.config(Stage.CONCEPTS, {})))
        try:
            with torch.device(shape.device):
                llava = LlavaForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(before)
        return Llava(llava, tokenizer, new_processor(tokenizer).image_processor)

    def config(self, stage: Stage, parts: dict[str, PartConfig]) -> TrainConfig:
        shape = self.shape
        return TrainConfig(
            stage=stage, parts=parts, method=shape.method, precision=shape.precision,
            recompute=shape.recompute, workers=1,
        )  # fmt: skip

    def part(self, *, steps: int, micro: int | None) -> PartConfig:
        return PartConfig(steps=steps, global_batch=self.shape.batch, lr=1e-4, micro_batch=micro)

    @cached_property
    def pixels(self) -> torch.Tensor:
        """[items, 3, height, width]: images as the encoder gets them, decoded beforehand."""
        side = self.shape.vision["image_size"]
        draw = torch.Generator().manual_seed(0)
        return torch.randn(self.shape.items, 3, side, side, generator=draw)

    def worker(self, stage: Stage, name: str, part: PartConfig) -> Worker:
        """What Ray Train would open, with the part's parameters alone to train."""
        backbone = self.backbone()
        model = PsaVlm.new(
            backbone, self.shape.method, types=len(TAXONOMY.types), levels=len(TAXONOMY.levels)
        )
        if name == "lora":
            add_lora(backbone, self.shape.method)
        recompute(backbone, self.shape.recompute)
        freeze_for(model, stage, name)
        model.train()
        config = self.config(stage, {name: part})
        choose_kernel(model, config, backbone.device)
        job = Job(
            config=config,
            inputs=Inputs(**dict.fromkeys(("base", "balanced", "features", "labelled"), self.kept)),
            taxonomy=TAXONOMY,
            hints=load_hints("default", taxonomy=TAXONOMY),
            root=str(self.folder),
            progress=str(self.folder / "progress.json"),
        )
        data = TrainingData(self.folder / "balanced", self.kept, TAXONOMY)
        return Worker(job, model, data, 0, 1, Reporter(job, 1), meter=Meter(backbone.device))

    @cached_property
    def kept(self) -> Any:
        """Items on disk, and their features in the cache."""
        ids = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(self.shape.items)]
        rows = [self._row(n, name) for n, name in enumerate(ids)]
        (self.folder / "balanced" / "rows").mkdir(parents=True)
        table = pa.Table.from_pylist(rows, ROWS)
        pq.write_table(table, self.folder / "balanced" / "rows" / "part-0.parquet")
        plan = pa.table({"row": pa.array(range(len(ids)), pa.int32())})
        pq.write_table(plan, self.folder / "balanced" / "plan.parquet")
        order = np.argsort(ids)
        backbone = self.backbone()
        found = [self.encoded(backbone, order[n : n + 32]) for n in range(0, len(ids), 32)]
        features = torch.cat(found).float().numpy()
        return keep_features(Store(str(self.folder)), [ids[i] for i in order], features)

    def encoded(self, backbone: Llava, places: Any) -> torch.Tensor:
        pixels = self.pixels[torch.as_tensor(places)]
        return backbone.encode_pixels(pixels.to(backbone.device, backbone.dtype)).cpu()

    def _row(self, number: int, image: str) -> dict[str, Any]:
        question, answer = self.texts[number]
        risky = number % 2
        return {
            "sample_id": f"{number:06d}", "image_ids": [image], "source": "s",
            "source_key": str(number), "split": "train",
            "messages": [{"role": "user", "text": question}, {"role": "assistant", "text": answer}],
            "risk_type": TAXONOMY.type_ids[number % 6] if risky else "clean",
            "risk_level": 1 + number % 3 if risky else 0, "supervises": "both", "language": "",
            "licence": "", "group_id": str(number), "slices": [], "extra": "{}",
        }  # fmt: skip


def ours(worker: Worker, name: str, part: PartConfig, *, steps: int) -> tuple[float, float]:
    """The loop's own steps; seconds of a step, the first left out, and the last step's loss."""
    parameters = [p for p in worker.model.parameters() if p.requires_grad]
    optimizer = new_optimizer(parameters, part)

    def one(step: int) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = backward(worker, name, worker.items(step, part), step, part)["loss"]
        apply_gradients(loss, optimizer, step=step, part=part)
        return loss

    return timed(one, steps=steps, device=worker.meter.device)


def joint(bench: Bench, *, steps: int) -> tuple[float, float]:
    """Stage 1 as the papers train it: encoder, both losses and the language model at every step."""
    part = bench.part(steps=steps + 1, micro=bench.shape.micro)
    worker = bench.worker(Stage.CONCEPTS, "concept", part)
    freeze_for(worker.model, Stage.CONCEPTS, "tokens")
    for parameter in worker.model.safety.parameters():
        parameter.requires_grad_(True)
    trained = [p for p in worker.model.parameters() if p.requires_grad]
    optimizer = new_optimizer(trained, part)

    def one(step: int) -> float:
        items = worker.items(step, part)
        _encode_again(bench, worker, items)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for name in ("concept", "tokens"):
            for loss in LOSSES[name](worker, items, step, part):
                loss.backward()
                total += float(loss.detach())
        apply_gradients(total, optimizer, step=step, part=part)
        return total

    return timed(one, steps=steps, device=worker.meter.device)


def uncached(bench: Bench, *, steps: int) -> tuple[float, float]:
    """The concept part with the encoder run anew at every step."""
    part = bench.part(steps=steps + 1, micro=None)
    worker = bench.worker(Stage.CONCEPTS, "concept", part)
    optimizer = new_optimizer([p for p in worker.model.parameters() if p.requires_grad], part)

    def one(step: int) -> float:
        items = worker.items(step, part)
        _encode_again(bench, worker, items)
        optimizer.zero_grad(set_to_none=True)
        loss = backward(worker, "concept", items, step, part)["loss"]
        apply_gradients(loss, optimizer, step=step, part=part)
        return loss

    return timed(one, steps=steps, device=worker.meter.device)


def rows(bench: Bench, *, steps: int) -> dict[str, float]:
    """Encoding, stage 1 in both ways and stage 2 in both ways, beside what the device could do.

    `..._of_peak` is the share of the rate of a large matrix product on the same device that the
    counted operations of a step come to: the limit by arithmetic. The limit by bytes is that of
    reading the base's weights once a micro-batch, and is far below it at these batches.
    """
    kind = base_type(bench.config(Stage.CONCEPTS, {}))
    peak = peak_rate(torch.device(bench.shape.device), kind)
    found = {**_stage1_rows(bench, peak, steps=steps), **_stage2_rows(bench, peak, steps=steps)}
    return {**found, "peak": peak}


def _stage1_rows(bench: Bench, peak: float, *, steps: int) -> dict[str, float]:
    whole = bench.part(steps=steps + 1, micro=None)
    worker = bench.worker(Stage.CONCEPTS, "concept", whole)
    items = worker.items(0, whole)
    encode = partial(_encode_again, bench, worker, items)
    to_encode = counted(encode)
    encoding, _ = timed(lambda _: encode() or 0.0, steps=steps, device=worker.meter.device)
    to_learn = counted(partial(backward, worker, "concept", items, 0, whole))
    worker.model.zero_grad(set_to_none=True)
    learning, _ = ours(worker, "concept", whole, steps=steps)
    both, _ = joint(bench, steps=steps)
    return {
        "encode_images_per_s": len(items) / encoding,
        "encode_of_peak": to_encode / encoding / peak,
        "concept_items_per_s": len(items) / learning,
        "concept_of_peak": to_learn / learning / peak,
        "joint_items_per_s": len(items) / both,
    }


def _stage2_rows(bench: Bench, peak: float, *, steps: int) -> dict[str, float]:
    part = bench.part(steps=steps + 1, micro=bench.shape.micro)
    worker = bench.worker(Stage.ALIGNMENT, "lora", part)
    with FlopCounterMode(display=False) as counter:
        sums = backward(worker, "lora", worker.items(0, part), 0, part)
    worker.model.zero_grad(set_to_none=True)
    seconds, _ = ours(worker, "lora", part, steps=steps)
    return {
        "lora_tokens_per_s": sums["positions"] / seconds,
        "lora_of_peak": counter.get_total_flops() / seconds / peak,
        "trainer_over_lora": trainer(bench, steps=steps) / seconds,
    }


def counted(call: Callable[[], Any]) -> float:
    """Floating-point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def timed(one: Callable[[int], float], *, steps: int, device: torch.device) -> tuple[float, float]:
    """Seconds of a step over `steps` after a first one, and the last loss."""
    one(0)
    began = _now(device)
    for step in range(1, steps + 1):
        loss = one(step)
    return (_now(device) - began) / steps, loss


def trainer(bench: Bench, *, steps: int) -> float:
    """A straightforward transformers Trainer + peft loop on the same items; seconds of a step.

    Every item goes through the encoder, batches are padded to their longest item, and the loss
    is taken over the logits of all positions.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    shape, backbone = bench.shape, bench.backbone()
    method = shape.method
    kinds = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    lora = LoraConfig(
        r=method.lora_rank, lora_alpha=method.lora_alpha, lora_dropout=0.0,
        target_modules=rf".*language_model\..*\.({kinds})",
    )  # fmt: skip
    model = get_peft_model(backbone.vlm, lora)
    tokenizer, patches = backbone.tokenizer, backbone.patches

    def example(number: int) -> dict[str, Any]:
        question, answer = bench.texts[number]
        asked = f"USER: {IMAGE * patches}\n{question} ASSISTANT: "
        prompt = tokenizer(asked)["input_ids"]
        said = tokenizer(answer + tokenizer.eos_token)["input_ids"]
        ids, labels = prompt + said, [-100] * len(prompt) + said
        return {"input_ids": ids, "labels": labels, "pixel_values": bench.pixels[number]}

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": tokenizer.pad_token_id, "labels": -100}
        batch = {
            name: torch.tensor([row[name] + [pad] * (longest - len(row[name])) for row in rows])
            for name, pad in fill.items()
        }
        ones = [[1] * len(row["input_ids"]) for row in rows]
        batch["attention_mask"] = torch.tensor([o + [0] * (longest - len(o)) for o in ones])
        batch["pixel_values"] = torch.stack([row["pixel_values"] for row in rows])
        return batch

    half = shape.precision == "bf16"
    arguments = TrainingArguments(
        output_dir=str(bench.folder / "trainer"), max_steps=steps + 1, learning_rate=1e-4,
        per_device_train_batch_size=min(shape.batch, 4 * shape.micro),
        gradient_accumulation_steps=max(1, shape.batch // (4 * shape.micro)),
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, bf16=half,
        use_cpu=shape.device == "cpu", dataloader_num_workers=0, remove_unused_columns=False,
        gradient_checkpointing=half,
    )  # fmt: skip
    marks: list[float] = []
    run = Trainer(
        model=model, args=arguments, data_collator=collate,
        train_dataset=[example(n) for n in range(shape.items)],
        callbacks=[_clock(marks, torch.device(shape.device))],
    )  # fmt: skip
    run.train()
    return (marks[-1] - marks[0]) / steps


def _clock(marks: list[float], device: torch.device) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(_now(device))

    return Clock()


def _encode_again(bench: Bench, worker: Worker, items: list[Any]) -> None:
    """Run the encoder on the images of these items, `micro` at a time; what it gives is known."""
    numbers, backbone = [int(item.sample_id) for item in items], worker.model.backbone
    for first in range(0, len(numbers), bench.shape.micro):
        pixels = bench.pixels[numbers[first : first + bench.shape.micro]]
        backbone.encode_pixels(pixels.to(backbone.device, backbone.dtype))


def _now(device: torch.device) -> float:
    """Seconds of a GPU's clock, or of this process's own: others on the machine do not count."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()
