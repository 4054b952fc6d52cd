"""Every command of README, CONTRIBUTING and docs is run, or marked `not-run` and counted.

Quick ones are typed here; those that train or need servers, and all others in between, by
`make prove`.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from flows.cli.main import application
from flows.parameters import configured
from schemas.mapping import load_mapping, map_label
from schemas.taxonomy import load_taxonomy
from tests.desk import Desk
from tests.documents import (
    HOME,
    PROGRAMS,
    Block,
    Command,
    anchors,
    blocks,
    documents,
    links,
    spoken,
)

# Blocks marked `not-run`. Whoever marks one more raises this number, and says in the review why.
NOT_RUN = 3
# First words of blocks that are looked at and not typed, where no fence gives a language.
SHOWN = ("sources ──ingest", "image,question,answer")
SHOWN_LANGUAGES = {"csv", "html", "json", "jsonl", "markdown", "mermaid", "text", "toml", "yaml"}
# Command -> when it is run; the first pattern that matches counts.
FIRST, QUICK, SLOW = "first", "quick", "slow"
GROUPS = {
    r"git clone .*": FIRST,
    r"make help": QUICK,
    r"psavlm (sources|plan|doctor|registry|show|verify|gc)\b.*": QUICK,
    r"psavlm (world|ingest|validate|balance|base|encode)\b.*": QUICK,
    r"python -c .*": QUICK,
    r"make (run|up|down|install|pipeline|sweep)\b.*": SLOW,
    r"prefect .*": SLOW,
    r"psavlm \w+\b.*": SLOW,
}
MINUTE = 60
LIMITS = {FIRST: MINUTE, QUICK: 5 * MINUTE, SLOW: 40 * MINUTE}


def group(command: Command) -> str | None:
    """When a command is run; None if nobody has thought of it."""
    kinds = (kind for pattern, kind in GROUPS.items() if re.fullmatch(pattern, command.words))
    return next(kinds, None)


ALL: list[Block] = [block for path in documents() for block in blocks(path.read_text(), path.name)]
TYPED = [c for block in ALL if block.is_shell and block.not_run is None for c in block.commands]
BRIEF = [command for command in TYPED if group(command) == QUICK]


def typed(desk: Desk, command: Command) -> None:
    """Type a command; a run that it would leave behind is followed to its end."""
    if command.words.startswith("prefect deployment run ") and "--watch" not in command.text:
        command = replace(command, text=f"{command.text} --watch")
    done = desk.type(command, timeout=LIMITS[group(command) or SLOW])
    said = f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{said}"


def opened(desk: Desk) -> Desk:
    """The desk of a reader who has cloned the project."""
    for command in TYPED:
        if group(command) == FIRST:
            typed(desk, command)
    assert (desk.here / "pyproject.toml").exists()
    return desk


# --- nothing is left out ---


def test_every_block_is_typed_or_shown_or_marked():
    for block in ALL:
        where = f"{block.document}:{block.line}"
        if block.is_shell:
            assert block.commands, f"{where}: a shell block without a command"
        elif block.language:
            assert block.language in SHOWN_LANGUAGES, f"{where}: what is {block.language}?"
        else:
            assert block.text.lstrip().startswith(SHOWN), f"{where}: is it typed, or shown?"
        if not block.is_shell:
            assert not PROGRAMS & {c.program for c in block.commands}, f"{where}: a hidden command"


def test_every_command_is_in_a_group():
    assert [str(command) for command in TYPED if group(command) is None] == []
    assert {group(command) for command in TYPED} <= LIMITS.keys()


def test_the_first_command_clones_and_none_else():
    assert [group(command) == FIRST for command in TYPED] == [True] + [False] * (len(TYPED) - 1)


def test_blocks_that_are_not_run_are_counted():
    marked = [f"{b.document}:{b.line}: {b.not_run}" for b in ALL if b.not_run is not None]
    assert len(marked) == NOT_RUN, marked


def test_the_mapping_and_the_preset_of_the_data_page_are_read_as_they_stand(tmp_path: Path):
    shown = [b.text for b in ALL if (b.document, b.language) == ("data.md", "toml")]
    for name, text in zip(("words", "preset"), shown, strict=True):
        (tmp_path / f"{name}.toml").write_text(text)
    taxonomy, mapping = load_taxonomy(), load_mapping(str(tmp_path / "words.toml"))
    found = [
        map_label(word, None, mapping=mapping, taxonomy=taxonomy, where="")
        for word in mapping.labels
    ]
    assert found == [("clean", 0), ("privacy", 2), ("insults", 3)]
    assert map_label("hate", "severe", mapping=mapping, taxonomy=taxonomy, where="")[1] == 3
    config = configured({"preset": str(tmp_path / "preset.toml")})
    assert config.ingest.sources[0].licence and config.balance.source_caps == {"mine": 5000}


# --- they work ---


@pytest.fixture(scope="module")
def desk(encoded_root: str, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return opened(Desk(tmp_path_factory.mktemp("desk"), encoded_root))


@pytest.mark.parametrize("command", BRIEF, ids=str)
def test_a_quick_command_works(desk: Desk, command: Command):
    typed(desk, command)


@pytest.fixture(scope="module")
def long_desk(
    tiny_root: str, tmp_path_factory: pytest.TempPathFactory, only_cluster: None
) -> Iterator[Desk]:
    """A desk whose servers are all down at the end."""
    desk = opened(Desk(tmp_path_factory.mktemp("long"), tiny_root))
    yield desk
    typed(desk, Command("the end", 0, ".venv/bin/psavlm down"))


@pytest.mark.slow
@pytest.mark.timeout(LIMITS[SLOW] + 5 * MINUTE)
@pytest.mark.parametrize("command", [c for c in TYPED if group(c) != FIRST], ids=str)
def test_every_command_works_in_the_order_of_the_documents(long_desk: Desk, command: Command):
    typed(long_desk, command)


# --- what is said in passing ---


def spoken_commands(program: str) -> list[tuple[str, list[str]]]:
    """Sentences' commands of a program: (where, words)."""
    found = []
    for path in documents():
        for text in spoken(path.read_text()):
            command = Command(path.name, 0, text)
            if command.program == program and " " in command.words:
                found.append((f"{path.name}: {text}", command.words.split()[1:]))
    return found


def test_targets_named_in_sentences_exist():
    targets = re.findall(r"^([a-z-]+):", (HOME / "Makefile").read_text(), re.MULTILINE)
    named = spoken_commands("make")
    assert named
    for where, words in named:
        assert {word for word in words if "=" not in word} <= set(targets), where


def test_sub_commands_and_options_named_in_sentences_exist():
    known = typer.main.get_command(application())
    options = {
        name: {word for param in sub.params for word in (*param.opts, *param.secondary_opts)}
        for name, sub in known.commands.items()
    }
    named = spoken_commands("psavlm")
    assert named
    for where, (sub, *words) in named:
        asked = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert sub in options or sub.startswith("--"), where
        assert asked <= {*options.get(sub, ()), "--help"}, where


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_links_within_the_project_lead_somewhere(path: Path):
    for link in links(path.read_text()):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_relative_to(HOME) and target.exists(), f"{path.name}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{path.name}: {link}"


# --- the reader of documents itself ---

SAMPLE = """
Type `psavlm  plan` or see [the house](CONTRIBUTING.md#the-house) and [a site](https://x.org).

    PRESET=tiny make run \\
      --dry
    # a word

    $ .venv/bin/psavlm plan

<!-- not-run: needs a bucket -->
```sh
psavlm run --root s3://team/store
```

- in a list:

  ```toml
  extends = "tiny"
  ```
"""


def test_blocks_and_their_commands_are_found():
    typed, second, marked, shown = blocks(SAMPLE, "a.md")
    assert [(c.line, c.text, c.words, c.program) for c in typed.commands + second.commands] == [
        (5, "PRESET=tiny make run --dry", "make run --dry", "make"),
        (8, ".venv/bin/psavlm plan", "psavlm plan", "psavlm"),
    ]
    assert (marked.line, marked.not_run, marked.is_shell) == (12, "needs a bucket", True)
    assert (shown.language, shown.is_shell, typed.not_run) == ("toml", False, None)
    assert spoken(SAMPLE) == ["psavlm plan"]
    assert links(SAMPLE) == ["CONTRIBUTING.md#the-house"]
    assert anchors("# The house\n\n## To add … (more)\n") == {"the-house", "to-add--more"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- not-run: -->\n```sh\nmake up\n```\n", "a.md:1: not-run without a reason"),
        ("<!-- not-run: why -->\n\nWords.\n\n    make up\n", "a.md:1: not-run marks no code"),
        ("Words.\n\n<!-- not-run: why -->\n", "a.md:3: not-run marks no code"),
    ],
)
def test_a_mark_has_a_reason_and_a_block(text, words):
    with pytest.raises(ValueError, match=words):
        blocks(text, "a.md")


def test_a_command_with_an_unknown_placeholder_is_not_run(desk: Desk):
    with pytest.raises(ValueError, match="no value for <some-word>"):
        desk.filled("psavlm answer <some-word>")
    with pytest.raises(ValueError, match=r"no artifact in \.psavlm/store/stage9"):
        desk.filled("psavlm answer --artifact .psavlm/store/stage9/<fingerprint>")
    filled = desk.filled("psavlm answer --artifact .psavlm/store/encode/<fingerprint>")
    assert re.fullmatch(r".* \.psavlm/store/encode/[0-9a-f]{24}", filled)


def test_folder_and_settings_last_from_one_command_to_the_next(desk: Desk):
    here = desk.here
    for text in ("cd docs || cd flows", "export WORD='two words'", "test x = y"):
        code = desk.type(Command("a.md", 1, text), timeout=MINUTE).returncode
    assert code == 1
    said = desk.type(Command("a.md", 1, 'echo "$WORD in $(pwd)" && cd ..'), timeout=MINUTE)
    assert said.stdout.startswith(f"two words in {here}/")
    assert desk.here == here
