"""What trains when, that the two losses of stage 1 are separable, and that a resume is exact."""

import json
import math
from functools import partial

import pytest
import torch
from peft import PeftModel

from model.backbones.llava import Llava
from model.checkpoint import BaseReference, load_card, load_model, save_model
from model.lora import add_lora, lora_parameters
from model.prompts import ask, teach
from model.psavlm import PsaVlm
from model.stages import TRAINS, freeze_for
from model.steps import apply_gradients, learning_rate, new_optimizer, seed_step, train_step
from model.tensors import read_tensors, write_tensors
from model.tiny_llava import new_llava, new_processor, new_tokenizer
from model.training_state import (
    PARAMETER,
    TrainingState,
    load_state,
    read_state,
    save_state,
    state_tensors,
)
from schemas.config import BaseConfig, MethodConfig, PartConfig, Stage
from schemas.errors import ConfigError, StorageError, TrainingError
from schemas.hints import load_hints
from schemas.taxonomy import load_taxonomy

torch.set_num_threads(1)
WORDS = ["USER: how many red shapes are there ? ASSISTANT: two red circles and a square"] * 4
METHOD = MethodConfig(tokens=4, attention_heads=4, lora_rank=2, lora_alpha=4, lora_dropout=0.2)
PART = PartConfig(steps=10, global_batch=4, lr=1e-2, warmup_steps=2)
QUESTIONS = ["how many ?", "red ?", "are there circles ?", "a square ?"]
ANSWERS = ["two red circles", "a square", "two", "red"]
TYPES, LEVELS = torch.tensor([0, 6, 2, 5]), torch.tensor([3, 0, 1, 2])
PARTS = [(stage, part) for stage, parts in TRAINS.items() for part in parts]


def new_backbone(*, width=32):
    tokenizer = new_tokenizer(WORDS)
    llava = new_llava(BaseConfig(width=width, layers=3, heads=4), tokenizer)
    return Llava(llava, tokenizer, new_processor(tokenizer).image_processor)


def new_model(method=METHOD, *, lora=False, **sizes):
    backbone = new_backbone()
    model = PsaVlm.new(backbone, method, **{"types": 7, "levels": 4, **sizes})
    if lora:
        add_lora(backbone, method)
        # B starts at 0, and then A has no gradient: a step is needed to tell them apart.
        with torch.no_grad():
            for name, parameter in lora_parameters(backbone).items():
                if ".lora_B." in name:
                    parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="module")
def features():
    return torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(0))


def part_loss(model, part, features):
    concepts = partial(model.concept_batch_loss, features, QUESTIONS, TYPES, LEVELS)
    language = partial(model.language_batch_loss, features, QUESTIONS, ANSWERS)
    if part == "joint":
        return concepts() + language()
    return concepts() if part == "concept" else language()


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def run(model, part, features, *, first, last, optimizer=None):
    stage = next(stage for stage, name in PARTS if name == part)
    names = freeze_for(model, stage, part)
    trained = {name: model.get_parameter(name) for name in names}
    optimizer = optimizer or new_optimizer(list(trained.values()), PART)
    model.train()
    for step in range(first, last):
        seed_step(7, step, 0)
        train_step(part_loss(model, part, features), optimizer, step=step, part=PART)
    return trained, optimizer


@pytest.mark.parametrize(("stage", "part"), PARTS)
def test_a_step_changes_exactly_the_parameters_of_its_part(stage, part, features):
    model = new_model(lora=part == "lora").requires_grad_(True)
    before = snapshot(model)
    trained, _ = run(model, part, features, first=0, last=1)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == list(trained)
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert changed == list(trained)
    expected = {
        "concept": ("safety.projector.", "safety.head.", "safety.tokens.s_head"),
        "tokens": ("safety.tokens.s_llm",),
        "joint": ("safety.",),
        "lora": ("backbone.vlm.model.language_model.",),
        "full": (
            "backbone.vlm.model.language_model.layers.",
            "backbone.vlm.model.language_model.norm.",
            "backbone.vlm.model.multi_modal_projector.",
            "backbone.vlm.lm_head.",
        ),
    }[part]
    assert all(name.startswith(expected) for name in changed)
    assert (".lora_" in changed[0]) == (part == "lora")
    # Encoder and embedding table stay as they are, whatever trains.
    assert not [name for name in changed if "vision_tower" in name or "embed_tokens" in name]


@pytest.mark.parametrize("parts", [("concept", "tokens"), ("joint",)])
def test_the_parts_of_stage_one_cover_the_safety_modules_once(parts):
    model = new_model()
    covered = [name for part in parts for name in freeze_for(model, Stage.CONCEPTS, part)]
    every = [f"safety.{name}" for name, _ in model.safety.named_parameters()]
    assert sorted(covered) == sorted(every)


def test_lora_sits_on_every_linear_layer_of_the_language_model_but_its_head():
    model = new_model(lora=True)
    layers = {name.split(".lora_")[0] for name in lora_parameters(model.backbone)}
    kinds = {name.rsplit(".", 1)[-1] for name in layers}
    mlp = {"gate_proj", "up_proj", "down_proj"}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj"} | mlp
    assert len(layers) == 7 * 3
    assert all("language_model" in name for name in layers)


def test_joint_and_separate_training_of_stage_one_give_the_same_gradients(features):
    model = new_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("safety."))
    concept = gradients(model, part_loss(model, "concept", features))
    language = gradients(model, part_loss(model, "tokens", features))
    both = part_loss(model, "concept", features) + part_loss(model, "tokens", features)
    joint = gradients(model, both)
    # No parameter hears both losses, so that the sum of the losses is the sum of the parts.
    assert set(language) == {"safety.tokens.s_llm"}
    assert set(concept) & set(language) == set()
    assert set(concept) | set(language) == set(joint)
    for name, gradient in {**concept, **language}.items():
        assert float(gradient.abs().sum()) > 0
        torch.testing.assert_close(joint[name], gradient, rtol=0, atol=0)


def test_the_concept_loss_runs_no_layer_of_the_language_model(features):
    model = new_model()
    calls = []
    layers = (model.backbone.vlm.model.language_model.layers[0], model.backbone.vlm.lm_head)
    for layer in layers:
        layer.register_forward_hook(lambda *_: calls.append(1))
    part_loss(model, "concept", features)
    assert calls == []
    part_loss(model, "tokens", features)
    assert len(calls) == 2


def test_training_lowers_the_loss_of_every_part(features):
    model = new_model(lora=True)
    for part in ("concept", "tokens", "lora"):
        model.eval()
        with torch.no_grad():
            start = float(part_loss(model, part, features))
        run(model, part, features, first=0, last=10)
        model.eval()
        with torch.no_grad():
            assert float(part_loss(model, part, features)) < start


def test_the_language_loss_of_a_batch_is_that_of_its_parts_by_token_count(features):
    model = new_model().eval()
    prompts = [teach(q, a) for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    with torch.no_grad():
        whole = model.language_batch_loss(features, QUESTIONS, ANSWERS)
        halves = [
            model.language_batch_sum(features[part], prompts[part])
            for part in (slice(0, 1), slice(1, 4))
        ]
    total = sum(total for total, _ in halves) / sum(count for _, count in halves)
    torch.testing.assert_close(whole, total)


def test_rows_without_an_image_or_an_answer_are_legal(features):
    model = new_model()
    freeze_for(model, Stage.CONCEPTS, "tokens")
    prompts = [teach("red ?", "two"), teach("how many ?", "", supervised=False)]
    total, count = model.language_batch_sum([None, features[0]], prompts)
    assert int(count) == len(model.backbone.tokenizer(" two</s>")["input_ids"])
    total, _ = model.language_batch_sum([None], prompts[:1])
    total.backward()
    assert float(model.safety.tokens.s_llm.grad.abs().sum()) == 0


def test_static_tokens_change_the_answers_loss_and_none_leaves_them_out(features):
    model = new_model()
    with torch.no_grad():
        loss = model.language_batch_loss(features, QUESTIONS, ANSWERS)
        without = model.language_batch_loss(features, QUESTIONS, ANSWERS, use_tokens=False)
        none = new_model(METHOD.model_copy(update={"llm_tokens": "none"}))
        assert float(loss) != float(without)
        assert torch.equal(none.language_batch_loss(features, QUESTIONS, ANSWERS), without)
    with pytest.raises(ConfigError, match="nothing to train"):
        freeze_for(none, Stage.CONCEPTS, "tokens")


def test_unknown_parts_and_a_missing_adapter_are_config_errors():
    model = new_model()
    with pytest.raises(ConfigError, match="no part 'lora'.*concept"):
        freeze_for(model, Stage.CONCEPTS, "lora")
    with pytest.raises(ConfigError, match="call add_lora"):
        freeze_for(model, Stage.ALIGNMENT, "lora")


def test_modules_are_drawn_by_the_seed_and_leave_the_callers_random_state_alone():
    one, other = new_model(lora=True), new_model(lora=True)
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    backbone = new_backbone()
    torch.manual_seed(5)
    third = PsaVlm.new(backbone, METHOD, types=7, levels=4, seed=1)
    add_lora(backbone, METHOD, seed=1)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert not torch.equal(third.safety.tokens.s_head, one.safety.tokens.s_head)


def test_a_half_precision_base_keeps_its_safety_modules_in_full(features):
    model, half = new_model(), new_model()
    half.backbone.to(torch.bfloat16)
    loss = part_loss(half, "tokens", features) + part_loss(half, "concept", features)
    loss.backward()
    full = part_loss(model, "tokens", features) + part_loss(model, "concept", features)
    torch.testing.assert_close(loss, full, rtol=0.02, atol=0)
    assert half.safety.tokens.s_llm.grad.dtype == torch.float32
    assert len(half.write(features, [ask("red ?")] * 4, max_new_tokens=2)) == 4


def test_the_rate_warms_up_to_its_peak_and_decays_to_the_last_step():
    rates = [learning_rate(step, PART) for step in range(PART.steps)]
    assert rates[0] == pytest.approx(PART.lr / 2)
    assert rates[1] == rates[2] == PART.lr
    assert rates[-1] == pytest.approx(PART.lr / 8)
    steps = [a - b for a, b in zip(rates[2:], rates[3:], strict=False)]
    assert max(steps) == pytest.approx(min(steps))
    assert learning_rate(0, PartConfig(steps=1, global_batch=1, lr=1.0, warmup_steps=1)) == 1.0


def test_gradients_are_clipped_to_the_parts_norm():
    weight = torch.nn.Parameter(torch.zeros(4))
    part = PartConfig(steps=1, global_batch=1, lr=1.0, clip_norm=0.5)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    report = train_step((100 * weight).sum(), optimizer, step=0, part=part)
    assert report.gradient_norm == pytest.approx(200)
    assert float(weight.detach().norm()) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_stops_before_anything_changes(bad, features):
    model = new_model()
    trained, optimizer = run(model, "concept", features, first=0, last=1)
    before = snapshot(model)
    loss = part_loss(model, "concept", features) * bad
    with pytest.raises(TrainingError, match="step 3"):
        train_step(loss, optimizer, step=3, part=PART)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    for parameter in trained.values():
        parameter.grad = torch.full_like(parameter, bad)
    with pytest.raises(TrainingError, match="gradient norm"):
        apply_gradients(1.0, optimizer, step=4, part=PART)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_steps_and_workers_draw_different_dropout_and_a_repeated_step_the_same():
    def draw(*key):
        seed_step(*key)
        return torch.rand(8)

    draws = [draw(0, 0, 0), draw(1, 0, 0), draw(0, 1, 0), draw(0, 0, 1)]
    assert len({tuple(row.tolist()) for row in draws}) == 4
    assert torch.equal(draw(0, 1, 0), draws[2])


@pytest.mark.parametrize("parameters", ["with the moments", "elsewhere"])
@pytest.mark.parametrize("part", ["concept", "tokens", "lora"])
def test_a_resumed_run_is_bit_identical_to_one_that_never_stopped(
    part, parameters, features, tmp_path
):
    stage = next(stage for stage, name in PARTS if name == part)
    whole = new_model(lora=True)
    run(whole, part, features, first=0, last=6)
    first = new_model(lora=True)
    trained, optimizer = run(first, part, features, first=0, last=3)
    state = TrainingState(stage=stage, part=part, step=3, note={"seen": 12})
    tensors = state_tensors(trained, optimizer)
    if parameters == "elsewhere":
        tensors = {n: t for n, t in tensors.items() if not n.startswith(PARAMETER)}
    save_state(tmp_path, tensors, state)
    second = new_model(lora=True)
    if parameters == "elsewhere":
        second.load_state_dict(first.state_dict())
    trained, optimizer = run(second, part, features, first=0, last=0)
    assert load_state(read_state(tmp_path), trained, optimizer) == state
    run(second, part, features, first=3, last=6, optimizer=optimizer)
    for (name, a), (_, b) in zip(whole.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_the_dropout_of_the_adapter_is_on_while_training(features):
    model = new_model(lora=True).train()
    seed_step(0, 0, 0)
    one = part_loss(model, "lora", features)
    seed_step(0, 1, 0)
    two = part_loss(model, "lora", features)
    assert float(one.detach()) != float(two.detach())


def test_a_state_before_the_first_step_and_a_foreign_one(features, tmp_path):
    model = new_model()
    trained, optimizer = run(model, "tokens", features, first=0, last=0)
    state = TrainingState(stage=Stage.CONCEPTS, part="tokens", step=0)
    save_state(tmp_path, state_tensors(trained, optimizer), state)
    assert load_state(read_state(tmp_path), trained, optimizer) == state
    others, other_optimizer = run(model, "concept", features, first=0, last=0)
    with pytest.raises(StorageError, match="missing .*head.*surplus .*s_llm"):
        load_state(read_state(tmp_path), others, other_optimizer)
    with pytest.raises(ConfigError, match="other parameters"):
        load_state(read_state(tmp_path), trained, other_optimizer)


def saved(model, folder, *, stage=Stage.ALIGNMENT):
    return save_model(
        folder,
        model,
        stage=stage,
        method=METHOD,
        taxonomy=load_taxonomy(),
        hints=load_hints("default", taxonomy=load_taxonomy()),
        base=BaseReference(name="base/1", revision="r"),
    )


@pytest.mark.parametrize("lora", [False, True])
def test_a_published_model_comes_back_bit_identical(lora, features, tmp_path):
    model = new_model(lora=lora)
    run(model, "concept", features, first=0, last=2)
    card = saved(model.eval(), tmp_path)
    again, read = load_model(tmp_path, new_backbone())
    assert read == card == load_card(tmp_path)
    assert read.adapter is lora
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    prompts = [ask(question) for question in QUESTIONS]
    answers = [m.write(features, prompts, max_new_tokens=6) for m in (model, again)]
    assert answers[0] == answers[1]
    logits = [m.concept_logits(features, QUESTIONS) for m in (model, again)]
    assert torch.equal(logits[0][0], logits[1][0])
    suffixes = {path.suffix for path in tmp_path.iterdir()}
    assert suffixes <= {".json", ".safetensors", ".md"}


def test_peft_itself_reads_the_adapter(features, tmp_path):
    model = new_model(lora=True).eval()
    saved(model, tmp_path)
    other = PsaVlm.new(new_backbone(), METHOD, types=7, levels=4)
    with torch.no_grad():
        loss = model.language_batch_loss(features, QUESTIONS, ANSWERS)
        plain = other.language_batch_loss(features, QUESTIONS, ANSWERS)
        PeftModel.from_pretrained(other.backbone.vlm, str(tmp_path)).eval()
        with_peft = other.language_batch_loss(features, QUESTIONS, ANSWERS)
    assert float(plain) != float(loss)
    assert torch.equal(with_peft, loss)


def test_a_seventh_type_is_published_by_its_taxonomy(features, tmp_path):
    taxonomy = load_taxonomy()
    extra = taxonomy.types[0].model_copy(update={"id": "weather", "meaning": "storms"})
    larger = taxonomy.model_copy(update={"types": (extra, *taxonomy.types)})
    model = new_model(types=len(larger.types))
    base = BaseReference(name="base/1")
    save_model(
        tmp_path,
        model,
        stage=Stage.CONCEPTS,
        method=METHOD,
        taxonomy=larger,
        hints=load_hints("default", taxonomy=larger),
        base=base,
    )
    again, card = load_model(tmp_path, new_backbone())
    assert card.taxonomy.type_ids[0] == "weather"
    assert again.concept_logits(features, QUESTIONS)[0].shape == (4, 8)


def test_a_model_of_another_base_or_damaged_is_refused(tmp_path):
    model = new_model(lora=True)
    saved(model, tmp_path)
    with pytest.raises(ConfigError, match="'base/1'.*load that base afresh"):
        load_model(tmp_path, new_backbone(width=16))
    with pytest.raises(ConfigError, match="load that base afresh"):
        load_model(tmp_path, model.backbone)
    card = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**card, "adapter": False, "x": 1}))
    with pytest.raises(StorageError, match="not a readable ModelCard"):
        load_model(tmp_path, new_backbone())
    card["method"]["lora_rank"] = 3
    (tmp_path / "model.json").write_text(json.dumps(card))
    with pytest.raises(StorageError, match="other shapes .*lora_A"):
        load_model(tmp_path, new_backbone())
    tensors = read_tensors(tmp_path / "safety.safetensors")
    write_tensors(tmp_path / "safety.safetensors", {**tensors, "more": torch.ones(1)})
    with pytest.raises(StorageError, match="surplus .'more'."):
        load_model(tmp_path, new_backbone())
    (tmp_path / "safety.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StorageError, match="not readable as safetensors"):
        load_model(tmp_path, new_backbone())
    (tmp_path / "model.json").unlink()
    with pytest.raises(StorageError, match="model.json"):
        load_card(tmp_path)


def test_an_adapter_is_added_only_once():
    model = new_model(lora=True)
    with pytest.raises(ConfigError, match="carries an adapter already"):
        add_lora(model.backbone, METHOD)
