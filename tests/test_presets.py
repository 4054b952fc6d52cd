"""Presets: what a name, a file of one's own and the flow's parameters make of the config."""

from pathlib import Path

import pytest

from schemas.config import PipelineConfig, SourceConfig, TrainConfig
from schemas.errors import ConfigError
from schemas.presets import Parameters, resolve
from schemas.shipped import shipped
from tasks.train.publish import calibration_batch

MINE = SourceConfig(format="table", uri="mine.csv", images="pictures")
# A whole preset that builds on no other.
WHOLE = """
taxonomy = "mine"
[method]
tokens = 4
[ingest]
sources = [{format = "table", uri = "a.csv"}]
[balance]
clean_per_unsafe = 0.5
epochs = 3
[stage1.parts.concept]
steps = 5
global_batch = 8
lr = 1e-3
[stage2.parts.lora]
steps = 6
global_batch = 8
lr = 1e-3
"""


def made(**values) -> PipelineConfig:
    return resolve(Parameters(**values))


def own(folder: Path, text: str, *, name: str = "own.toml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def differences(one: PipelineConfig, two: PipelineConfig) -> dict[str, object]:
    """Dotted place -> the second's value, wherever the two differ."""
    first, second = flat(one.model_dump()), flat(two.model_dump())
    keys = {**first, **second}
    return {key: second.get(key) for key in keys if first.get(key) != second.get(key)}


def flat(tree: dict, *, place: str = "") -> dict[str, object]:
    found = {}
    for key, value in tree.items():
        inside = flat(value, place=f"{place}{key}.") if isinstance(value, dict) else None
        found |= inside or {f"{place}{key}": value}
    return found


CARDS = {
    "llava-1.5-7b-24gb": 24e9,
    "llava-1.5-7b-48gb": 48e9,
    "llava-1.5-7b-80gb": 80e9,
    "llava-1.5-7b-8x80gb": 80e9,
}


@pytest.mark.parametrize("name", shipped("presets"))
def test_every_shipped_preset_makes_a_whole_config(name):
    config = made(preset=name)
    assert config.preset == name
    assert set(config.stage1.parts) == {"concept", "tokens"}
    assert set(config.stage2.parts) == {config.method.stage2}
    if name not in CARDS:  # those are for one's own data
        assert config.world is not None
        assert {source.split for source in config.ingest.sources} == {"train", "test"}


def test_what_a_7b_must_keep_in_memory_leaves_room_on_its_card():
    """Weights, gradients (twice: summed in one piece), moments, and what a micro-batch takes."""
    for stage in ("stage1", "stage2"):
        sizes = {name: held(getattr(made(preset=name), stage)) for name in CARDS}
        for name, card in CARDS.items():
            assert sizes[name] < 0.85 * card, (name, stage, sizes[name])
        ordered = [sizes[f"llava-1.5-7b-{card}gb"] for card in (24, 48, 80)]
        assert ordered == sorted(ordered)
    # What is left out makes the difference: without it the same run would not fit.
    small, eight = (made(preset=f"llava-1.5-7b-{card}").stage2 for card in ("24gb", "8x80gb"))
    assert held(small.model_copy(update={"quantise": "none"})) > 24e9
    assert held(eight.model_copy(update={"shard": "none"})) > 80e9


# LLaVA-1.5-7B: widths, layers, attention heads, words, patches of an image.
WIDTH, WIDE, LAYERS, HEADS, VOCABULARY, PATCHES = 4096, 11008, 32, 32, 32064, 576
LAYER = 4 * WIDTH * WIDTH + 3 * WIDTH * WIDE
ENCODER, PROJECTOR, TABLE, SAFETY = 303e6, 21e6, VOCABULARY * WIDTH, 108e6
# Bytes of a position while its layer's backward pass runs, and of an image that the head learns
# from or judges: no less than test_preset_memory.py finds.
AT_HAND, LEARNT, JUDGED = 400e3, 150e6, 70e6


def held(config: TrainConfig) -> float:
    """Bytes of a worker's largest step of a stage, with the longest text that it allows."""
    assert config.precision == "bf16"
    full = "full" in config.parts
    weights = (trained(config) if full else frozen(config)) + 4 * SAFETY
    found = [of_language(config)]
    if concept := config.parts.get("concept"):
        images = concept.micro_batch or concept.global_batch // config.workers
        found += [4 * 4 * SAFETY + images * LEARNT, calibration_batch(config) * JUDGED]
    return weights + max(found)


def of_language(config: TrainConfig) -> float:
    """What the language model's layers and its head keep of a micro-batch."""
    part = list(config.parts.values())[-1]
    items = part.micro_batch or part.global_batch // config.workers
    logits = 4 * 1024 * VOCABULARY * 3
    return items * positions(config) * (LAYERS * kept(config) + AT_HAND) + logits


def positions(config: TrainConfig) -> int:
    """Of one item: an image's patches, its safety tokens, the longest text."""
    return PATCHES + config.method.tokens + config.max_text_tokens


def kept(config: TrainConfig) -> int:
    """Bytes that a layer keeps of a position for its backward pass.

    That is what it begins with, and under "cheap" attention's output and all products: the base's,
    and those of LoRA's two factors.
    """
    # What flows between layers has the type of the weights.
    begin = (4 if "full" in config.parts else 2) * WIDTH
    if config.recompute == "all":
        return begin
    products = 5 * WIDTH + 2 * WIDE
    adapters = products + 7 * config.method.lora_rank if "lora" in config.parts else 0
    return begin + 2 * (products + adapters + WIDTH) + 4 * HEADS


def frozen(config: TrainConfig) -> float:
    """The base, and adapters with gradients and moments."""
    # NF4: half a byte, and for each 64 weights a scale of 8 bits that has one of 32 for each 256.
    of_weight = 0.5 + 1 / 64 + 4 / (64 * 256) if config.quantise == "4bit" else 2
    adapters = LAYERS * config.method.lora_rank * (4 * 2 * WIDTH + 3 * (WIDTH + WIDE))
    # In float32 five times, and once in the type of products.
    learning = (5 * 4 + 2) * adapters if "lora" in config.parts else 0
    return of_weight * LAYERS * LAYER + 2 * (ENCODER + PROJECTOR + 2 * TABLE) + learning


def trained(config: TrainConfig) -> float:
    """The same of a base that trains itself; of its layers each worker may keep a share."""
    rest = 4 * (ENCODER + TABLE) + 5 * 4 * (PROJECTOR + TABLE)
    if config.shard == "none":
        return rest + 5 * 4 * LAYERS * LAYER
    # Two layers gathered in half, and the gradients of one on their way: in half, summed in full.
    return rest + 4 * 4 * LAYERS * LAYER / config.workers + (2 * 2 + 2 + 4) * LAYER


def test_the_hard_preset_is_the_easy_one_in_a_harder_world():
    changed = differences(made(preset="tiny"), made(preset="tiny-hard"))
    assert changed == {"preset": "tiny-hard", "world.difficulty": "hard"}


# --- parameters over a preset ---


def test_the_ratio_lands_in_both_training_orders_and_nowhere_else():
    assert differences(made(), made(clean_per_unsafe=2)) == {
        "balance.clean_per_unsafe": 2.0,
        "stage2_balance.clean_per_unsafe": 2.0,
    }


def test_the_second_ratio_is_that_of_stage_two_alone():
    config = made(clean_per_unsafe=0.27, stage2_clean_per_unsafe=7.3)
    assert config.balance.clean_per_unsafe == 0.27
    assert config.stage2_balance.clean_per_unsafe == 7.3
    assert set(differences(made(), made(stage2_clean_per_unsafe=7.3))) == {
        "stage2_balance.clean_per_unsafe"
    }


def test_a_ratio_of_nought_is_a_ratio():
    assert made(clean_per_unsafe=0).balance.clean_per_unsafe == 0


def test_a_seed_moves_the_training_order_and_both_stages_and_no_data():
    before, after = made(), made(seed=7)
    assert set(differences(before, after)) == {
        "balance.seed",
        "stage2_balance.seed",
        "stage1.seed",
        "stage2.seed",
    }
    assert {after.balance.seed, after.stage2_balance.seed, after.stage1.seed} == {7}


def test_own_sources_replace_the_presets_and_drop_the_world():
    config = made(sources=(MINE,))
    assert config.ingest.sources == (MINE,)
    assert config.world is None
    changed = {place.partition(".")[0] for place in differences(config, made())}
    assert changed == {"ingest", "world", "report", "audit"}


@pytest.mark.parametrize("place", ["uri", "images"])
def test_a_source_in_the_tiny_world_keeps_the_world(place):
    source = SourceConfig.model_validate({**MINE.model_dump(), place: "world:vlguard/images"})
    assert made(sources=(MINE, source)).world == made().world


def test_a_base_by_name_is_a_pretrained_one():
    config = made(base="my/llava")
    assert (config.base.kind, config.base.name) == ("pretrained", "my/llava")
    assert {place.partition(".")[0] for place in differences(made(), config)} == {"base"}


# --- presets of one's own ---


def test_a_file_of_ones_own_is_as_good_as_a_name(tmp_path):
    config = made(preset=own(tmp_path, WHOLE))
    assert config.preset == str(tmp_path / "own.toml")
    assert (config.balance.epochs, config.stage2_balance.epochs) == (3, 3)
    assert (config.stage1.method.tokens, config.stage2.method.tokens) == (4, 4)
    assert (config.balance.with_answers_only, config.stage2_balance.with_answers_only) == (0, 1)
    sections = (config.ingest, config.validation, config.stage1, config.stage2, config.evaluate)
    assert {section.taxonomy for section in sections} == {"mine"}


def test_an_extension_changes_what_it_names_and_nothing_else(tmp_path):
    text = 'extends = "tiny"\n[stage1.parts.concept]\nsteps = 9\n[stage2_balance]\nepochs = 2\n'
    path = own(tmp_path, text)
    assert differences(made(), made(preset=path)) == {
        "preset": path,
        "stage1.parts.concept.steps": 9,
        "stage2_balance.epochs": 2,
    }


def test_extensions_chain_from_where_the_files_lie(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    own(tmp_path, 'extends = "tiny-hard"\n[balance]\nepochs = 2\n', name="base.toml")
    top = own(tmp_path / "far", 'extends = "../base.toml"\n[balance]\nmax_repeat = 4\n')
    monkeypatch.chdir("/")
    config = made(preset=top)
    assert (config.balance.epochs, config.balance.max_repeat) == (2, 4)
    assert config.world.difficulty == "hard"


def test_a_parameter_wins_over_a_preset_of_ones_own(tmp_path):
    path = own(tmp_path, 'extends = "tiny"\n[stage2_balance]\nclean_per_unsafe = 5\n')
    assert made(preset=path).stage2_balance.clean_per_unsafe == 5
    # The first ratio leaves alone what the preset says of the second stage by name.
    assert made(preset=path, clean_per_unsafe=2).stage2_balance.clean_per_unsafe == 5
    assert made(preset=path, stage2_clean_per_unsafe=3).stage2_balance.clean_per_unsafe == 3


def test_sources_of_ones_own_in_a_preset_drop_the_world_too(tmp_path):
    text = 'extends = "tiny"\n[ingest]\nsources = [{format = "table", uri = "a.csv"}]\n'
    config = made(preset=own(tmp_path, text))
    assert (config.world, len(config.ingest.sources)) == (None, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[balance]\nepoch = 2", "unknown key 'balance.epoch'; did you mean 'epochs'"),
        ("[stage2_balance]\nepoch = 2", "unknown key 'stage2_balance.epoch'"),
        ("[stage1.parts.concept]\nstep = 2", "unknown key 'stage1.parts.concept.step'; did you"),
        ("[stage1.parts.concpt]\nlr = 2.0", "'stage1.parts.concpt.steps' is missing"),
        ("[[ingest.sources]]\nformat = 'table'", "'ingest.sources.0.uri' is missing"),
        ("[evalute]\nbatch = 2", "unknown key 'evalute'; did you mean 'evaluate'"),
        ("[world]\ndifficulty = 'harder'", "world.difficulty = 'harder': must be 'easy' or 'hard'"),
        ("[method]\nquery = 'image'", "stage1.method.query = 'image': must be 'text'"),
        ("method = 3", "stage1.method = 3: must be a valid dictionary"),
        ("base = 3", "base = 3: must be a valid dictionary"),
        ("[balance]\nclean_per_unsafe = inf", "balance.clean_per_unsafe = inf: must be a finite"),
    ],
)
def test_unknown_keys_and_wrong_values_are_refused_once(tmp_path, text, words):
    with pytest.raises(ConfigError) as error:
        made(preset=own(tmp_path, f'extends = "tiny"\n{text}\n'))
    assert words in str(error.value)
    assert str(error.value).count(words) == 1


def test_the_same_fault_in_two_stages_own_tables_is_told_for_both(tmp_path):
    text = "[stage1.parts.concept]\nsteps = 0\n[stage2.parts.lora]\nsteps = 0\n"
    with pytest.raises(ConfigError) as error:
        made(preset=own(tmp_path, f'extends = "tiny"\n{text}'))
    assert "stage1.parts.concept.steps = 0" in str(error.value)
    assert "stage2.parts.lora.steps = 0" in str(error.value)


def test_a_preset_without_its_stages_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"'stage1.parts' is missing; 'stage2.parts' is missing"):
        made(preset=own(tmp_path, "[balance]\nepochs = 2\n"))


def test_parameters_from_outside_are_checked_in_one_line():
    with pytest.raises(ConfigError, match="unknown key 'clean_per_unsave'; did you mean 'clean_p"):
        Parameters.checked({"clean_per_unsave": 1})
    assert Parameters.checked({"seed": 3}) == Parameters(seed=3)


@pytest.mark.parametrize("step", ["report", "audit"])
def test_only_the_tiny_world_alone_is_shown_sharp(tmp_path, step):
    mine = {"format": "table", "uri": "my.csv"}
    world = {"format": "llava", "uri": "world:llava/train.json", "images": "world:llava/images"}

    def blur(**parameters) -> bool:
        return getattr(made(**parameters), step).blur

    assert blur() is False
    assert blur(sources=(mine,)) is True
    assert blur(sources=(mine, world)) is True
    asked = own(tmp_path, f'extends = "tiny"\n[{step}]\nblur = false\n')
    assert blur(preset=asked, sources=(mine,)) is False
