"""Recipes: what the papers' data are, and what of them is here; nothing stands in for a gap."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import application
from flows.cli.recipe import as_text
from schemas.errors import ConfigError, DataError
from schemas.recipe import Recipe, Status, load_recipe
from schemas.taxonomy import load_taxonomy
from tasks.plan import recipe_plan
from tasks.sources import parse_source
from tests.town import HOME

SHIPPED = HOME / "recipes" / "psa-vlm-public.toml"

SMALL = """
version = 1
name = "small"
origin = "made up"
[sets.guard]
title = "Guard"
access = "agreement"
where = "its page"
licence = "research"
format = "vlguard"
needs_images = true
split = "train"
[sets.far]
title = "Far"
access = "closed"
where = "nowhere"
licence = "none"
[[types]]
type = "politics"
sampled = 7
parts = [
  { set = "guard", name = "Signs", papers = 4, train = 3, labels = ["political"] },
  { set = "far", name = "Hidden", papers = 9 },
]
[[types]]
type = "clean"
sampled = 5
parts = [{ set = "guard", name = "Plain", papers = 6, labels = ["safe"], note = "as published" }]
"""


def recipe(folder: Path, text: str = SMALL) -> Recipe:
    path = folder / "my.toml"
    path.write_text(text)
    return load_recipe(str(path))


def filled(folder: Path, **places: str) -> str:
    """The small recipe with the user's own paths in its first set."""
    lines = "\n".join(f'{key} = "{value}"' for key, value in places.items())
    return SMALL.replace("[sets.far]", f"{lines}\n[sets.far]")


def guard_copy(folder: Path, *, risky: int = 3, clean: int = 6) -> dict[str, str]:
    """A copy of a set in VLGuard's form."""
    records = [
        {"id": f"r{n}", "image": f"r{n}.png", "safe": False, "harmful_category": "risky behavior",
         "harmful_subcategory": "political", "instr-resp": [{"instruction": "?", "response": "no"}]}
        for n in range(risky)
    ] + [
        {"id": f"c{n}", "image": f"c{n}.png", "safe": True,
         "instr-resp": [{"safe_instruction": "?", "response": "a table"}]}
        for n in range(clean)
    ]  # fmt: skip
    (folder / "images").mkdir(exist_ok=True)
    (folder / "guard.json").write_text(json.dumps(records))
    return {"uri": str(folder / "guard.json"), "images": str(folder / "images")}


def told(path: Path, *options: str) -> str:
    done = CliRunner().invoke(application(), ["plan", "--recipe", str(path), *options])
    assert done.exit_code == 0, done.output
    return done.stdout


# --- the shipped recipe ---


def test_the_papers_counts_are_those_of_their_supplement():
    shipped = load_recipe(str(SHIPPED))
    assert {kind.type: kind.sampled for kind in shipped.types} == {
        "politics": 2187, "illegal": 3370, "insults": 1204, "fairness": 1917, "privacy": 899,
        "misleading": 1622, "clean": 81978,
    }  # fmt: skip
    assert sum(kind.sampled for kind in shipped.types[:-1]) == 11199
    assert [kind.type for kind in shipped.types] == load_taxonomy().type_ids
    papers = {part.name: part.papers for kind in shipped.types for part in kind.parts}
    assert papers == {
        "Crowd Activity": 93, "Harmful Politics": 5000, "Risky Political Behavior": 166,
        "Porn": 57291, "Jailbreak": 22, "Captcha": 200, "Sexually Explicit": 199,
        "Cyberbullying": 5202, "Risky Violence Behavior": 272, "Stable Bias": 2040,
        "Discrimination": 345, "Celebrity": 1000, "Personal Data": 1300, "Text Misleading": 100,
        "Visual Misleading": 1600, "Professional Advice": 134, "Disinformation": 73,
        "LLaVA": 15294, "COCO": 118287,
    }  # fmt: skip


def test_as_shipped_nothing_is_here_and_what_is_not_public_is_closed():
    plan = recipe_plan(load_recipe(str(SHIPPED)))
    closed = {line.name for line in plan.lines if line.status is Status.CLOSED}
    assert closed == {"Harmful Politics", "Porn", "Cyberbullying"}
    assert {line.status for line in plan.lines} == {Status.MISSING, Status.CLOSED}
    assert plan.sources == () and {line.found for line in plan.lines} == {None}
    assert all(line.where and line.licence for line in plan.lines)


def test_every_type_of_the_shipped_recipe_is_read_by_its_labels(tmp_path):
    """A copy of VLGuard with a record of each subcategory lands where the papers have it."""
    kinds = ["political", "sexually explicit", "violence", "race", "sex", "other",
             "professional advice", "disinformation"]  # fmt: skip
    records = [
        {"id": k, "image": "a.png", "safe": False, "harmful_category": "x",
         "harmful_subcategory": k, "instr-resp": [{"instruction": "?", "response": "no"}]}
        for k in kinds
    ]  # fmt: skip
    (tmp_path / "train.json").write_text(json.dumps(records))
    text = SHIPPED.read_text().replace(
        'uri = ""\nimages = ""', f'uri = "{tmp_path}/train.json"\nimages = "{tmp_path}"', 1
    )
    plan = recipe_plan(recipe(tmp_path, text))
    assert {line.name: line.found for line in plan.lines if line.set == "vlguard"} == {
        "Risky Political Behavior": 1, "Sexually Explicit": 1, "Risky Violence Behavior": 1,
        "Discrimination": 3, "Professional Advice": 1, "Disinformation": 1,
    }  # fmt: skip
    totals = {t.type: (t.have, t.part, t.missing, t.closed) for t in plan.types}
    assert totals["politics"] == (0, 166, 93, 5000)  # one record of 109 is not the set
    assert totals["clean"] == (0, 0, 15294 + 118287, 0)


# --- what is here ---


def test_a_copy_that_is_here_is_counted_and_offered_to_a_run(tmp_path):
    places = guard_copy(tmp_path)
    plan = recipe_plan(recipe(tmp_path, filled(tmp_path, **places)))
    assert [(line.name, line.status, line.found) for line in plan.lines] == [
        ("Signs", Status.HAVE, 3), ("Hidden", Status.CLOSED, None), ("Plain", Status.HAVE, 6),
    ]  # fmt: skip
    assert [tuple(dict(total).values()) for total in plan.types] == [
        ("politics", 7, 4, 0, 0, 9, 3), ("clean", 5, 6, 0, 0, 0, 6),
    ]  # fmt: skip
    (source,) = plan.sources
    assert parse_source(as_text(source)) == source
    assert (source.name, source.split) == ("guard", "train")


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ({"uri": "/no/such.json"}, "'/no/such.json' does not exist"),
        ({"images": "/no/images"}, "the image folder '/no/images' does not exist"),
        ({"images": ""}, "no images are given"),
    ],
)
def test_a_path_that_leads_nowhere_is_missing_and_told(tmp_path, lost, words):
    places = {**guard_copy(tmp_path), **lost}
    path = tmp_path / "my.toml"
    path.write_text(filled(tmp_path, **places))
    plan = recipe_plan(load_recipe(str(path)))
    assert {line.status for line in plan.lines if line.set == "guard"} == {Status.MISSING}
    assert plan.sources == ()
    (problem,) = {line.problem for line in plan.lines if line.set == "guard"}
    assert words in problem
    assert f"guard: {problem}" in told(path)


def test_a_part_that_a_copy_lacks_is_missing_although_the_copy_is_here(tmp_path):
    places = guard_copy(tmp_path, risky=0)
    lines = recipe_plan(recipe(tmp_path, filled(tmp_path, **places))).lines
    assert (lines[0].status, lines[0].found) == (Status.MISSING, 0)
    assert "holds no item labelled political" in lines[0].problem
    assert (lines[2].status, lines[2].problem) == (Status.HAVE, "")


def test_a_copy_cut_short_is_had_in_part(tmp_path):
    lines = recipe_plan(recipe(tmp_path, filled(tmp_path, **guard_copy(tmp_path, risky=2)))).lines
    assert [(line.status, line.found) for line in lines[::2]] == [
        (Status.PART, 2), (Status.HAVE, 6),
    ]  # fmt: skip


def test_a_closed_set_that_somebody_has_after_all_is_had(tmp_path):
    (tmp_path / "far.csv").write_text("question,answer,type,level\n?,no,politics,2\n")
    own = f'format = "table"\nuri = "{tmp_path}/far.csv"\n[[types]]'
    text = SMALL.replace("[[types]]", own, 1).replace('"Hidden", ', '"Hidden", labels = [], ')
    (line,) = [x for x in recipe_plan(recipe(tmp_path, text)).lines if x.set == "far"]
    assert (line.status, line.access, line.found) == (Status.PART, "closed", 1)


def test_a_file_that_is_another_data_set_is_an_error(tmp_path):
    places = guard_copy(tmp_path)
    (tmp_path / "guard.json").write_text("no json at all")
    with pytest.raises(DataError, match=r"guard\.json"):
        recipe_plan(recipe(tmp_path, filled(tmp_path, **places)))


# --- the command ---


def test_the_table_tells_status_counts_terms_and_the_sources_of_a_run(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(filled(tmp_path, **guard_copy(tmp_path)))
    said = told(path)
    rows = [line.split() for line in said.splitlines()]
    assert ["politics", "Signs", "guard", "4", "3", "3", "have", "agreement", "vlguard"] in rows
    assert ["politics", "Hidden", "far", "9", "-", "-", "closed", "closed", "-"] in rows
    assert "politics: the papers sampled 7 of 13: have 4, in part 0, missing 0, closed 9" in said
    assert "guard: its page; licence: research" in said
    assert "Plain: as published" in said
    assert f"--source 'format=vlguard,uri={tmp_path}/guard.json,name=guard" in said


def test_the_line_of_json(tmp_path):
    (line,) = told(SHIPPED, "--json").splitlines()
    found = json.loads(line)
    assert found["recipe"] == "psa-vlm-public"
    assert [part["status"] for part in found["lines"][:2]] == ["missing", "closed"]
    assert "nothing of it is here" in told(SHIPPED)


def test_options_of_a_run_beside_a_recipe_are_refused():
    asked = ["plan", "--recipe", str(SHIPPED), "--clean-per-unsafe", "2"]
    error = CliRunner().invoke(application(), asked).exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith("--clean-per-unsafe is about a run")


# --- files that are no recipe ---


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('set = "far"', 'set = "fra"', "no set 'fra'; did you mean 'far'?"),
        ('{ set = "far", name = "Hidden", papers = 9 },', "", "set 'far' is part of no type"),
        ('type = "clean"', 'type = "politics"', "must be distinct"),
        ('type = "politics"', 'type = "politic"', "did you mean 'politics'?"),
        ('access = "closed"', 'access = "shut"', "sets.far.access = 'shut'"),
        ("papers = 4", "papers = -4", "types.0.parts.0.papers = -4"),
        ('licence = "none"', 'license = "none"', "did you mean 'licence'?"),
        ("version = 1", "version = 2", "version = 2: must be 1"),
        ("[[types]]", "[[types]", "is not valid TOML"),
    ],
)
def test_a_wrong_recipe_is_told_in_one_line(tmp_path, before, after, words):
    with pytest.raises(ConfigError) as error:
        recipe(tmp_path, SMALL.replace(before, after, 1))
    assert words in str(error.value) and "\n" not in str(error.value)
    assert "my.toml" in str(error.value)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('format = "vlguard"', 'format = "vlgard"', "did you mean 'vlguard'?"),
        ('["political"]', '["politics"]', "in mapping 'vlguard' it is not listed"),
        ('["political"]', '["violence"]', "in mapping 'vlguard' it means 'insults'"),
        ("papers = 9", 'papers = 9, labels = ["x"]', "no format that would read them"),
    ],
)
def test_formats_and_labels_are_checked_before_any_copy_is_looked_for(
    tmp_path, before, after, words
):
    with pytest.raises(ConfigError) as error:
        recipe_plan(recipe(tmp_path, SMALL.replace(before, after, 1)))
    assert words in str(error.value)


@pytest.mark.parametrize("path", ["no-such.toml", "recipes", "psa-vlm-public"])
def test_a_path_that_is_no_recipe_is_told(path):
    with pytest.raises(ConfigError, match=f"recipe {path!r}"):
        load_recipe(path)
