"""What the documents tell people to type, and where their links lead.

A code block is typed in a shell if its fence says so or, without a language, if its first row
starts with a program. `<!-- not-run: reason -->` on the line before takes a block out.
"""

import re
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

HOME = Path(__file__).parents[1]
SHELLS = {"sh", "bash", "shell", "console"}
PROGRAMS = {
    "cat", "cd", "curl", "docker", "export", "git", "ls", "make", "pip", "prefect", "psavlm",
    "python", "python3.11", "ray", "source", "tail", "uv",
}  # fmt: skip
MARK = re.compile(r"<!--\s*not-run:(.*?)-->", re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=\S*\s+")


@dataclass(frozen=True)
class Command:
    """One command line of a document."""

    document: str
    line: int
    text: str

    @property
    def words(self) -> str:
        """From its program on: without settings before it and without the program's folder."""
        rest = self.text
        while match := ASSIGNMENT.match(rest):
            rest = rest[match.end() :]
        return rest.removeprefix(".venv/bin/")

    @property
    def program(self) -> str:
        return self.words.partition(" ")[0]

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Block:
    """A code block: the line of its first row, its language, its rows; why it is not to be run."""

    document: str
    line: int
    language: str
    text: str
    not_run: str | None = None

    @property
    def is_shell(self) -> bool:
        if self.language:
            return self.language in SHELLS
        return any(command.program in PROGRAMS for command in self.commands[:1])

    @property
    def commands(self) -> list[Command]:
        """One per row; a row that ends in a backslash goes on, prompts and comments are left."""
        found, begun = [], ""
        for number, row in enumerate(self.text.splitlines()):
            begun += row.strip() if begun else row.strip().removeprefix("$ ")
            if begun.endswith("\\"):
                begun = begun[:-1]
                continue
            if begun and not begun.startswith("#"):
                found.append(Command(self.document, self.line + number, begun))
            begun = ""
        return found


def documents() -> list[Path]:
    """README, CONTRIBUTING and docs, in the order in which people read them."""
    return [HOME / "README.md", HOME / "CONTRIBUTING.md", *sorted((HOME / "docs").glob("*.md"))]


def blocks(text: str, document: str) -> list[Block]:
    """All code blocks of a Markdown text.

    Raises:
        ValueError: a mark without a reason, or one with no block right behind it.
    """
    found: list[Block] = []
    reason, line = None, 0
    for token in MarkdownIt("commonmark").parse(text):
        if token.type in ("fence", "code_block"):
            found += [replace(block, not_run=reason) for block in _blocks(token, document)]
            reason = None
            continue
        if reason is not None:
            raise ValueError(f"{document}:{line}: not-run marks no code block")
        if token.type == "html_block" and (match := MARK.search(token.content)):
            reason, line = match[1].strip(), _line(token)
            if not reason:
                raise ValueError(f"{document}:{line}: not-run without a reason")
    if reason is not None:
        raise ValueError(f"{document}:{line}: not-run marks no code block")
    return found


def spoken(text: str) -> list[str]:
    """The code within sentences and tables, such as `make check`."""
    return [" ".join(t.content.split()) for t in _inline(text) if t.type == "code_inline"]


def links(text: str) -> list[str]:
    """The targets of links and images that stay within the project."""
    targets = [str(t.attrs.get("href") or t.attrs.get("src") or "") for t in _inline(text)]
    return [target for target in targets if target and not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """The anchors of a text's headings, as GitHub makes them."""
    tokens = MarkdownIt("commonmark").parse(text)
    heads = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def _inline(text: str) -> list[Token]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [child for token in tokens for child in token.children or ()]


def _blocks(token: Token, document: str) -> list[Block]:
    """A fence is one block; indented rows with an empty one between are two for their reader."""
    if token.type == "fence":
        language = token.info.strip().partition(" ")[0]
        return [Block(document, _line(token) + 1, language, token.content)]
    rows = enumerate(token.content.splitlines(), _line(token))
    parts = groupby(rows, key=lambda row: bool(row[1].strip()))
    return [_indented(list(part), document) for filled, part in parts if filled]


def _indented(rows: list[tuple[int, str]], document: str) -> Block:
    return Block(document, rows[0][0], "", "\n".join(text for _, text in rows))


def _line(token: Token) -> int:
    return (token.map or [0])[0] + 1
