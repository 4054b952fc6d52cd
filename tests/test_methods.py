"""Named methods: what each is made of, and that the line, training and answers go with each.

`make prove` runs the whole line of every one of them (tests/test_prove_methods.py).
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from flows.line import evidence, pipeline, up_to
from flows.parameters import checked_until
from infra.store import Store
from model.backbone import Backbone
from model.backbones.llava import Llava
from model.checkpoint import BaseReference, load_model, save_model
from model.guard import GuardedVlm, GuardPolicy, forced
from model.heads import HEADS, QUERIES
from model.lora import add_lora
from model.projectors import PROJECTORS
from model.prompts import ask, teach
from model.psavlm import PsaVlm
from model.stages import TRAINS, freeze_for
from model.steps import new_optimizer, train_step
from model.tiny_llava import new_llava, new_processor, new_tokenizer
from schemas.artifact import Artifact
from schemas.config import (
    PARTS,
    BaseConfig,
    EvaluateConfig,
    MethodConfig,
    PipelineConfig,
    ReportConfig,
    Stage,
)
from schemas.errors import ConfigError
from schemas.hints import load_hints
from schemas.presets import Parameters, resolve
from schemas.shipped import shipped
from schemas.sweep import PointsConfig
from schemas.taxonomy import load_taxonomy
from tasks.answer import answer_one, in_words
from tasks.evaluate import evaluate
from tasks.evaluate.arms import open_backbone, open_oracle
from tasks.evaluate.points import evaluate_points, read_points
from tasks.evaluate.step import read_report
from tasks.report import ReportInputs, report
from tests.small_run import picture, small_run, small_stage

torch.set_num_threads(1)
TAXONOMY = load_taxonomy()
HINTS = load_hints("default", taxonomy=TAXONOMY)
WORDS = ["USER: how many red shapes are there ? ASSISTANT: two red circles and a square"] * 4
QUESTIONS = ["how many ?", "red ?", "are there circles ?", "a square ?"]
ANSWERS = ["two red circles", "a square", "two", "red"]
# Method -> the parts it trains, and the arm that a run of it ends with.
MADE_OF = {
    "base": ((), "base"),
    "guard-mlp": (("concept",), "stage1"),
    "head-only": (("concept", "lora"), "stage2"),
    "hint-only": ((), "oracle"),
    "mlp": (("concept", "tokens", "lora"), "stage2"),
    "mlp-first-token": (("concept", "tokens", "lora"), "stage2"),
    "mlp-image-only": (("concept", "tokens", "lora"), "stage2"),
    "mlp-no-hint": (("concept", "tokens", "lora"), "stage2"),
    "no-projector": (("concept", "tokens", "lora"), "stage2"),
    "psa-vlm": (("concept", "tokens", "lora"), "stage2"),
    "psavlm-plus": (("concept", "tokens", "lora"), "stage2"),
    "safevlm": (("concept", "tokens", "full"), "stage2"),
    "safevlm-lora": (("concept", "tokens", "lora"), "stage2"),
    "sft": (("lora",), "stage2"),
    "sft-clean": (("lora",), "stage2"),
    "tokens-only": (("tokens", "lora"), "stage2"),
}


def configured(name: str) -> PipelineConfig:
    return resolve(Parameters(method=name))


# --- what they are ---


def test_every_named_method_trains_what_it_says():
    assert shipped("methods") == sorted(MADE_OF)
    for name, (parts, arm) in MADE_OF.items():
        config = configured(name)
        assert (*config.stage1.parts, *config.stage2.parts) == parts, name
        assert config.last_arm == arm, name
        assert config.stage1.method == config.stage2.method == config.method


def test_a_named_method_names_every_part_so_that_nothing_of_a_preset_shines_through(tmp_path):
    text = 'extends = "tiny"\n[method]\nprojector = "none"\nhead = "pooled_mlp"\nstage2 = "none"\n'
    text += 'llm_tokens = "none"\nthreshold = "bound"\nstage2_rows = "clean"\n'
    (tmp_path / "own.toml").write_text(text)
    fields = {"projector", "head", "llm_tokens", "intervention", "concepts", "stage2"}
    for name in MADE_OF:
        plain = configured(name).method
        over = resolve(Parameters(preset=str(tmp_path / "own.toml"), method=name)).method
        used = fields | ({"threshold"} if plain.head != "none" else set())
        used |= {"stage2_rows"} if plain.stage2 != "none" else set()
        assert {f: getattr(over, f) for f in used} == {f: getattr(plain, f) for f in used}, name


def test_a_new_choice_has_one_place_in_code_and_one_in_the_config():
    choices = MethodConfig.model_json_schema()["properties"]
    for field, known in (("projector", PROJECTORS), ("head", HEADS), ("query", QUERIES)):
        assert set(choices[field]["enum"]) - {"none"} == set(known) - {"none"}
    assert {stage: tuple(parts) for stage, parts in TRAINS.items()} == PARTS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "none"}, "head 'none' reads no projector"),
        ({"head": "none", "projector": "none"}, "finds nothing to act on"),
        ({"concepts": "labels"}, "leaves the head unused"),
        ({"intervention": "tokens"}, "need llm_tokens"),
        ({"intervention": "both", "llm_tokens": "none"}, "need llm_tokens"),
        ({"llm_tokens": "concept"}, "shown by the interventions 'tokens' and 'both' alone"),
        (
            {"head": "none", "projector": "none", "concepts": "labels"},
            "an oracle for an untrained base",
        ),
        ({"projector": "none", "stage2": "full"}, "changes the projector that a head"),
        ({"stage1": "joint", "llm_tokens": "none"}, "needs both"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(tmp_path, changes, message):
    lines = [f'{name} = "{value}"' for name, value in changes.items()]
    (tmp_path / "own.toml").write_text("\n".join(["extends = 'tiny'", "[method]", *lines]))
    with pytest.raises(ConfigError, match=message) as error:
        resolve(Parameters(preset=str(tmp_path / "own.toml")))
    assert str(error.value).count("\n") == 0


def test_stage_1_may_take_both_losses_at_every_step(tmp_path):
    (tmp_path / "own.toml").write_text("extends = 'tiny'\n[method]\nstage1 = 'joint'\n")
    config = resolve(Parameters(preset=str(tmp_path / "own.toml")))
    assert list(config.stage1.parts) == ["joint"] and list(config.stage2.parts) == ["lora"]
    usual = resolve(Parameters()).stage1
    assert list(usual.parts) == ["concept", "tokens"]
    # What is not asked for is in no fingerprint.
    assert "stage1" not in usual.method.model_dump()
    assert config.stage1.method.model_dump()["stage1"] == "joint"


def test_a_preset_that_does_not_say_how_to_train_the_methods_part_is_refused(tmp_path):
    text = "[stage1.parts.concept]\nsteps = 1\nglobal_batch = 2\nlr = 1e-3\n"
    text += text.replace("stage1.parts.concept", "stage2.parts.lora")
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"trains 'full' in stage2.*\[stage2.parts.full\]"):
        resolve(Parameters(preset=str(tmp_path / "own.toml"), method="safevlm"))
    (tmp_path / "own.toml").write_text(text.replace("parts.lora", "parts.lorra"))
    with pytest.raises(ConfigError, match="unknown part 'lorra' of stage2; did you mean 'lora'"):
        resolve(Parameters(preset=str(tmp_path / "own.toml")))


# --- the line ---


def line_of(config: PipelineConfig) -> list[str]:
    def told(name: str, _step: object, *_args: object, **_kwargs: object) -> Artifact:
        return Artifact(uri="", step=name, fingerprint="")

    return list(up_to(pipeline(config, store=None, do=told), None))


@pytest.mark.parametrize("name", MADE_OF)
def test_a_step_that_a_method_does_not_have_is_left_out_of_the_line(name):
    config = configured(name)
    parts, arm = MADE_OF[name]
    stages = [stage.value for stage, own in PARTS.items() if set(own) & set(parts)]
    arms = ["base", *stages, *(["oracle"] if arm == "oracle" else [])]
    data = ["world", "ingest", "validate", "balance", "base", "encode"]
    expected = [*data, *stages, *(f"evaluate/{one}" for one in arms), "report"]
    assert line_of(config) == expected
    assert checked_until("evaluate", config) == f"evaluate/{arm}" == expected[-2]


@pytest.mark.parametrize(
    ("name", "until"),
    [("sft", "stage1"), ("guard-mlp", "stage2"), ("base", "stage1"), ("hint-only", "promote")],
)
def test_a_step_that_the_method_does_not_have_cannot_be_asked_for(name, until):
    with pytest.raises(ConfigError, match=f"no step '{until}' in this run: its method trains"):
        checked_until(until, configured(name))


def test_a_method_that_trains_nothing_has_no_evidence_for_the_gate():
    with pytest.raises(ConfigError, match="trains nothing, so there is no model for the gate"):
        evidence(configured("base"), {})


# --- training, files, answers ---


def new_backbone() -> Backbone:
    tokenizer = new_tokenizer(WORDS)
    llava = new_llava(BaseConfig(width=32, layers=3, heads=4), tokenizer)
    return Llava(llava, tokenizer, new_processor(tokenizer).image_processor)


def new_model(method: MethodConfig) -> PsaVlm:
    return PsaVlm.new(new_backbone(), method, types=7, levels=4)


def loss_of(model: PsaVlm, part: str, features: torch.Tensor) -> torch.Tensor:
    if part == "concept":
        types, levels = torch.tensor([0, 6, 2, 5]), torch.tensor([3, 0, 1, 2])
        return model.concept_batch_loss(features, QUESTIONS, types, levels)
    prompts = [teach(q, a) for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
    if model.safety.tokens.by_type is not None:
        guard = guard_of(model)
        shown = guard.prompt("", forced("privacy", 3, taxonomy=TAXONOMY), intervention="tokens")
        prompts = [type(p)(p.messages, concept=shown.concept) for p in prompts]
    total, count = model.language_batch_sum(features, prompts)
    return total / count


def guard_of(model: PsaVlm, *, threshold: float = 0.0) -> GuardedVlm:
    policy = GuardPolicy(threshold=threshold)
    return GuardedVlm(model, taxonomy=TAXONOMY, hints=HINTS, policy=policy)


def trained(name: str, features: torch.Tensor) -> tuple[PsaVlm, MethodConfig, list[str]]:
    """A model after one step of each of the method's parts, and all that has changed."""
    method = configured(name).method
    model, before = new_model(method), {}
    for part in MADE_OF[name][0]:
        stage = next(stage for stage, own in PARTS.items() if part in own)
        if part == "lora":
            add_lora(model.backbone, method)
        before = {n: p.detach().clone() for n, p in model.named_parameters()} | before
        names = freeze_for(model, stage, part)
        config = next(
            getattr(configured(name), s.value).parts[part]
            for s, own in PARTS.items()
            if part in own
        )
        optimizer = new_optimizer([model.get_parameter(n) for n in names], config)
        train_step(loss_of(model, part, features), optimizer, step=0, part=config)
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, before.get(n, p))]
    return model.eval(), method, changed


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [name for name in MADE_OF if MADE_OF[name][0]])
def test_a_trained_model_of_every_method_comes_back_from_its_files(name, features, tmp_path):
    model, method, changed = trained(name, features)
    assert changed
    stage = Stage(MADE_OF[name][1])
    save_model(
        tmp_path, model, stage=stage, method=method, taxonomy=TAXONOMY, hints=HINTS,
        base=BaseReference(name="base/1"),
    )  # fmt: skip
    again, card = load_model(tmp_path, new_backbone())
    assert card.method == method
    for (one, a), (other, b) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert one == other and torch.equal(a, b), one
    files = {path.name for path in tmp_path.iterdir()} - {"README.md"}
    expected = {"model.json", "safety.safetensors"}
    expected |= {"adapter_config.json", "adapter_model.safetensors"} if card.adapter else set()
    expected |= {"language.safetensors"} if card.full else set()
    assert files == expected
    assert (card.adapter, card.full) == ("lora" in MADE_OF[name][0], "full" in MADE_OF[name][0])


@pytest.mark.parametrize("name", [name for name in MADE_OF if MADE_OF[name][0]])
def test_a_model_of_every_method_answers_and_tells_what_it_saw(name, features):
    model, method, _ = trained(name, features)
    guard = guard_of(model)
    answers = guard.answer_features(
        features, QUESTIONS, intervention=method.intervention, max_new_tokens=4
    )
    assert len(answers) == 4
    has_head = method.head != "none"
    assert all((answer.verdict is not None) == has_head for answer in answers)
    assert all(bool(answer.hint) == (has_head and method.shows_hints) for answer in answers)
    told = in_words(answers[0])
    assert told["answer"] == answers[0].text
    assert (told["verdict"] == "none") == (not has_head)


def test_a_model_without_a_head_says_so_when_asked_for_concepts(features):
    model = new_model(configured("sft").method)
    with pytest.raises(ConfigError, match="no safety head.*psa-vlm"):
        model.concept_logits(features, QUESTIONS)


def test_untrained_without_any_module_the_model_is_the_base(features):
    model = new_model(configured("base").method)
    prompts = [ask(question) for question in QUESTIONS]
    bare = model.backbone.generate(
        *(vars(model.compose(features, prompts, use_tokens=False))[k] for k in
          ("embeds", "mask", "positions")),
        max_new_tokens=5,
    )  # fmt: skip
    assert model.write(features, prompts, max_new_tokens=5) == bare
    assert list(model.safety.parameters()) == []


def test_full_fine_tuning_leaves_what_the_head_reads_as_it_was(features, tmp_path):
    """Encoder and embedding table are frozen: the head's logits stay the same bits."""
    model, _, changed = trained("safevlm", features)
    assert any(".multi_modal_projector." in name for name in changed)
    assert any(".lm_head." in name for name in changed)
    with torch.no_grad():
        before = model.concept_logits(features, QUESTIONS)
        names = freeze_for(model, Stage.ALIGNMENT, "full")
        for name in names:
            model.get_parameter(name).add_(0.1)
        after = model.concept_logits(features, QUESTIONS)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# --- evaluation and report of what has no head, no stage, or no model ---


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Store, ReportInputs]:
    root = tmp_path_factory.mktemp("run") / "store"
    return Store(str(root)), small_run(root)


def small(name: str) -> MethodConfig:
    kept = {"tokens": 4, "attention_heads": 4, "lora_rank": 4, "projector_grid": 8}
    kept |= {"projector_width": 16, "projector_depth": 1, "head_width": 16}
    return MethodConfig.model_validate({**configured(name).method.model_dump(), **kept})


def test_the_oracle_is_given_the_hint_of_each_items_own_label_and_nothing_without_an_image(run):
    store, made = run
    respond = open_oracle(
        open_backbone(store.local(made.base) / "model"),
        small("hint-only"),
        HINTS,
        taxonomy=TAXONOMY,
        max_new_tokens=2,
    )
    h = torch.randn(64, 32)
    labels = [("privacy", 2), ("clean", 0), ("insults", 3), ("privacy", 2)]
    answers = respond([h, h, h, None], ["what ?"] * 4, labels)
    text = HINTS.text_for
    expected = [text(*label, taxonomy=TAXONOMY) for label in (labels[0], labels[2])]
    assert [answer.hint for answer in answers] == [expected[0], "", expected[1], ""]
    assert all(answer.verdict is None for answer in answers)


def evaluated(run, arm: str, model: Artifact | MethodConfig) -> Artifact:
    store, made = run
    config = EvaluateConfig(bootstrap=20, max_new_tokens=2)
    return evaluate(config, arm, made.base, made.labelled, made.features, store=store, model=model)


@pytest.mark.parametrize("name", ["hint-only", "sft", "guard-mlp", "psavlm-plus"])
def test_evaluation_and_report_go_with_what_a_method_has(run, name):
    store, made = run
    method, (parts, arm) = small(name), MADE_OF[name]
    model = small_stage(store, made.base, method, stage=arm) if parts else method
    found = evaluated(run, arm, model)
    metrics = read_report(found, store=store).metrics
    assert ("type_accuracy" in metrics) == (method.head != "none")
    stages = {arm: model} if isinstance(model, Artifact) else {}
    told = {**dict(made), "stage1": None, "stage2": None, **stages}
    told["evaluations"] = {"base": made.evaluations["base"], arm: found}
    page = report(ReportConfig(), ReportInputs(**told), store=store)
    numbers = json.loads((store.local(page) / "numbers.json").read_text())
    assert numbers["arms"] == ["base", arm]
    # Only a cross-attention can show where it looked.
    assert ("attention" in numbers) == (method.head == "cross_attention")


def test_an_evaluation_may_keep_its_base_in_half_precision(run):
    store, made = run
    assert open_backbone(store.local(made.base) / "model", half=True).dtype is torch.bfloat16
    model = small_stage(store, made.base, small("psa-vlm"), stage="stage1")
    config = EvaluateConfig(bootstrap=20, max_new_tokens=2, precision="bf16")
    data = (made.base, made.labelled, made.features)
    half = evaluate(config, "stage1", *data, store=store, model=model)
    whole = evaluated(run, "stage1", model)
    assert half.fingerprint != whole.fingerprint and half.counts == whole.counts
    found, expected = (read_report(one, store=store).metrics for one in (half, whole))
    assert found.keys() == expected.keys()
    assert found["type_accuracy"].value == pytest.approx(expected["type_accuracy"].value, abs=0.1)
    assert "precision" not in EvaluateConfig().model_dump()


@pytest.mark.parametrize("name", ["sft", "guard-mlp", "psavlm-plus"])
def test_a_stage_without_a_head_has_one_answer_at_every_operating_point(run, name):
    store, made = run
    method, (_, arm) = small(name), MADE_OF[name]
    stage = small_stage(store, made.base, method, stage=arm)
    config = PointsConfig(evaluate=EvaluateConfig(bootstrap=20, max_new_tokens=2))
    points = evaluate_points(config, made.base, made.labelled, made.features, stage, store=store)
    table, thresholds = read_points(points, store=store)
    assert set(table["point"].to_pylist()) == set(thresholds) == {"uncalibrated", "matched"}
    rows = table.to_pylist()
    half = len(rows) // 2
    if name == "sft":
        assert all(row["flagged"] is None for row in rows)
        assert [r["answer"] for r in rows[:half]] == [r["answer"] for r in rows[half:]]
    else:
        assert all(row["flagged"] is not None for row in rows)


# --- an operator at the command line ---


def test_answer_takes_an_operators_policy_and_a_forced_concept(run, tmp_path):
    store, made = run
    uri = small_stage(store, made.base, small("psa-vlm"), stage="stage2").uri
    image = tmp_path / "a.png"
    image.write_bytes(picture(1))
    (tmp_path / "own.toml").write_text('version = 1\nname = "own"\n[actions]\n3 = "answer"\n')
    ask_it = partial(answer_one, uri, image, "what ?", max_new_tokens=2)
    told = ask_it(force="privacy:3")
    assert (told["verdict"], told["action"]) == ("privacy, level 3", "refuse")
    assert ask_it(force="privacy:3", policy=str(tmp_path / "own.toml"))["verdict"] == "clean"
    assert ask_it(force="clean")["action"] == "answer"
    for wrong in ("privacy", "privacy:high", ":3"):
        with pytest.raises(ConfigError, match="give type:level, such as privacy:3|not in taxonomy"):
            ask_it(force=wrong)
    with pytest.raises(ConfigError, match="concept 'weather' of level 1"):
        ask_it(force="weather:1")
    with pytest.raises(ConfigError, match="unknown policy 'strict'"):
        ask_it(policy="strict")


def test_shipped_method_files_say_in_words_what_they_are():
    for name in MADE_OF:
        text = (Path(__file__).parents[1] / "schemas" / "methods" / f"{name}.toml").read_text()
        assert text.startswith("# "), name
