"""Training in our way and in others', on one model and one set of items, in one process.

The model has a LLaVA's shape with random weights: a tiny one on the CPU, LLaVA-1.5-7B's on a GPU.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from infra.store import Store
from model.backbones.llava import Llava
from model.lora import add_lora
from model.precision import base_type, recompute
from model.prompts import Tokens, teach, tokenize
from model.psavlm import PsaVlm
from model.stages import freeze_for
from model.steps import apply_gradients, new_optimizer
from model.tiny_llava import IMAGE, new_tokenizer
from schemas.config import EncodeConfig, MethodConfig, PartConfig, Stage, TrainConfig
from schemas.hints import load_hints
from schemas.samples import ROWS
from schemas.taxonomy import load_taxonomy
from tasks.encode.sight import as_kept
from tasks.train import Inputs
from tasks.train.data import TrainingData
from tasks.train.job import Job
from tasks.train.loop import backward
from tasks.train.losses import LOSSES
from tasks.train.meter import Meter
from tasks.train.reporter import Reporter
from tasks.train.worker import Worker, choose_kernel
from tests.benchmarks.rates import Loop, as_in_training, now
from tests.shelf import keep_features

TAXONOMY = load_taxonomy()
ENCODED = 8  # batches of images that are encoded from their files
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
        places = (shape.vision["image_size"] // shape.vision["patch_size"]) ** 2
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(**shape.vision),
            text_config=LlamaConfig(**text, tie_word_embeddings=False),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
            image_seq_length=places,
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
        side = shape.vision["image_size"]
        crop = {"height": side, "width": side}
        images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=crop)
        return Llava(llava, tokenizer, images)

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
        """[items, 3, height, width]: images as the encoder gets them, prepared beforehand."""
        side = self.shape.vision["image_size"]
        draw = torch.Generator().manual_seed(0)
        return torch.randn(self.shape.items, 3, side, side, generator=draw)

    @property
    def encode(self) -> EncodeConfig:
        """As the presets of this precision encode and keep."""
        half, batch = self.shape.precision == "bf16", 4 * self.shape.batch
        settings = {"dtype": "bfloat16", "precision": "bf16"} if half else {}
        return EncodeConfig(**settings, batch=batch)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Images by id as files: JPEGs of 4 to 3, half as high again as the encoder's square."""
        draw, files = np.random.default_rng(0), []
        high = 3 * self.shape.vision["image_size"] // 2
        for _ in range(self.encode.batch):
            coarse = draw.integers(0, 255, (high // 8, high // 6, 3), dtype=np.uint8)
            files.append(out := io.BytesIO())
            Image.fromarray(coarse).resize((high * 4 // 3, high)).save(out, "JPEG")
        for n in range(ENCODED * self.encode.batch):
            name = hashlib.sha256(f"file {n}".encode()).hexdigest()
            yield name, files[n % len(files)].getvalue()

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
        size = self.shape.batch
        found = [self.encoded(backbone, order[n : n + size]) for n in range(0, len(ids), size)]
        features = as_kept(torch.cat(found), self.encode.dtype)
        return keep_features(Store(str(self.folder)), [ids[i] for i in order], features)

    def encoded(self, backbone: Llava, places: Any) -> torch.Tensor:
        pixels = self.pixels[torch.as_tensor(places)]
        return backbone.encode_pixels(pixels.to(backbone.device, backbone.dtype))

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


class Anew:
    """Features without a cache: those of the step's items, encoded in every step."""

    def __init__(self, bench: Bench, worker: Worker) -> None:
        self.bench, self.backbone = bench, worker.model.backbone
        self.held: dict[str | None, torch.Tensor] = {}

    def encode(self, items: Sequence[Any]) -> None:
        """Run the encoder over the images of these items, from their pixels."""
        size, self.held = self.bench.shape.batch, {}
        for first in range(0, len(items), size):
            some = items[first : first + size]
            rows = self.bench.encoded(self.backbone, [int(item.sample_id) for item in some])
            self.held |= {item.image_id: row for item, row in zip(some, rows, strict=True)}

    def expect(self, upcoming: Any) -> None:
        """Nothing is read."""

    def patches(self, image_ids: Sequence[str]) -> np.ndarray:
        return np.full(len(image_ids), self.backbone.patches)

    def batch(self, image_ids: Sequence[str]) -> torch.Tensor:
        return torch.stack([self.held[name] for name in image_ids])


def ours(worker: Worker, name: str, part: PartConfig) -> Loop:
    """The loop's own steps."""
    optimizer = new_optimizer([p for p in worker.model.parameters() if p.requires_grad], part)

    def one(step: int) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = backward(worker, name, worker.items(step, part), step, part)["loss"]
        apply_gradients(loss, optimizer, step=step, part=part)
        return loss

    return Loop(one, steps=part.steps - 1, device=worker.meter.device)


def uncached(bench: Bench, *, steps: int) -> Loop:
    """The concept part with the encoder run anew at every step."""
    part = bench.part(steps=steps + 1, micro=None)
    worker = bench.worker(Stage.CONCEPTS, "concept", part)
    optimizer = new_optimizer([p for p in worker.model.parameters() if p.requires_grad], part)
    worker.data.features = anew = Anew(bench, worker)

    def one(step: int) -> float:
        items = worker.items(step, part)
        anew.encode(items)
        optimizer.zero_grad(set_to_none=True)
        loss = backward(worker, "concept", items, step, part)["loss"]
        apply_gradients(loss, optimizer, step=step, part=part)
        return loss

    return Loop(one, steps=steps, device=worker.meter.device)


class Joint:
    """Stage 1 as the papers train it: encoder, both losses and the language model at every step."""

    def __init__(self, bench: Bench, *, steps: int) -> None:
        self.part = bench.part(steps=steps + 1, micro=bench.shape.micro)
        self.worker = bench.worker(Stage.CONCEPTS, "concept", self.part)
        freeze_for(self.worker.model, Stage.CONCEPTS, "tokens")
        for parameter in self.worker.model.safety.parameters():
            parameter.requires_grad_(True)
        trained = [p for p in self.worker.model.parameters() if p.requires_grad]
        self.optimizer = new_optimizer(trained, self.part)
        self.worker.data.features = self.anew = Anew(bench, self.worker)

    def backward(self, step: int) -> float:
        """Gradients of both losses; their sum."""
        items, total = self.worker.items(step, self.part), 0.0
        self.anew.encode(items)
        self.optimizer.zero_grad(set_to_none=True)
        for name in ("concept", "tokens"):
            for loss in LOSSES[name](self.worker, items, step, self.part):
                loss.backward()
                total += float(loss.detach())
        return total

    def loop(self) -> Loop:
        """Its steps."""

        def one(step: int) -> float:
            loss = self.backward(step)
            apply_gradients(loss, self.optimizer, step=step, part=self.part)
            return loss

        return Loop(one, steps=self.part.steps - 1, device=self.worker.meter.device)


def learn(worker: Worker, name: str, part: PartConfig) -> float:
    """Forward and backward of the steps that are timed, 1 to the last; the positions that ran."""
    positions = 0.0
    with as_in_training():
        for step in range(1, part.steps):
            positions += backward(worker, name, worker.items(step, part), step, part)["positions"]
            worker.model.zero_grad(set_to_none=True)
    return positions


def trainer(bench: Bench, *, steps: int) -> Callable[[], float]:
    """A straightforward transformers Trainer + peft loop on the same tokens, on one device.

    Every item goes through the encoder, batches are padded to their longest item, and the loss
    is taken over the logits of all positions. What is returned trains and tells a step's seconds,
    its first left out.
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
    tokenizer, image = backbone.tokenizer, backbone.config.image_token_id
    texts = tokenize(
        backbone,
        [teach(question, answer) for question, answer in bench.texts],
        with_image=[True] * shape.items,
        training=True,
        limit=bench.config(Stage.ALIGNMENT, {}).max_text_tokens,
    )

    def example(number: int, text: Tokens) -> dict[str, Any]:
        at, more = text.ids.index(image), backbone.patches - 1
        ids = [*text.ids[:at], *[image] * more, *text.ids[at:]]
        labels = [*text.labels[:at], *[-100] * more, *text.labels[at:]]
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
    if arguments.n_gpu > 1:  # it would take all that it sees
        arguments._n_gpu = 1
    examples = [example(n, text) for n, text in enumerate(texts)]

    def seconds() -> float:
        marks: list[float] = []
        run = Trainer(
            model=model, args=arguments, data_collator=collate, train_dataset=examples,
            callbacks=[_clock(marks, torch.device(shape.device))],
        )  # fmt: skip
        run.train()
        return (marks[-1] - marks[0]) / steps

    return seconds


def _clock(marks: list[float], device: torch.device) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(now(device))

    return Clock()
