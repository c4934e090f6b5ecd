"""One concept, one word, and it is the one the field uses: a private word costs a newcomer a look-up."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.local.state import CHECKOUT
from compose.system import SERVICES

# What each was once called here, and is called now.
USUAL = {
    "hear": "receive, subscribe to",
    "hears": "receives, subscribes to",
    "heard": "received",
    "stated": "published",
    "stating": "publishing",
    "told": "message, input, payload",
    "said": "message, input, payload",
    "keeper": "deadline scheduler",
    "trail": "timeline",
    "trails": "timelines",
    "store": "repository",
    "workspace": "unit of work",
}
# Columns and headers that releases before this one read and write.
OF_EARLIER_RELEASES = {"heard_at", "stated_at", "stated_by", "STATED_AT"}
LONGEST_FILE_LINES, LONGEST_FUNCTION_LINES = 400, 50
PART_OF_A_NAME = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
FOLDERS = ("compose", "docs", "events", "saga_tracker", "tests", *(service.package for service in SERVICES))
FILES = sorted(
    path
    for folder in FOLDERS
    for path in (CHECKOUT / folder).rglob("*.py")
    # Migrations are history: they say what was done then.
    if "migrations" not in path.parts and "golden" not in path.parts
)


def tokens_of(path: Path) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(path.read_text()).readline)


def prose_of(path: Path) -> str:
    """Its comments and docstrings."""
    found, before = [], tokenize.NEWLINE
    for token in tokens_of(path):
        begins = before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.NL, tokenize.DEDENT)
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and begins):
            found.append(token.string)
        if token.type != tokenize.COMMENT:
            before = token.type
    return re.sub(r"`[^`]+`", "", "\n".join(found))


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_are_made_of_the_usual_words(folder: str) -> None:
    private = {
        (str(path.relative_to(CHECKOUT)), token.string, USUAL[part.lower()])
        for path in FILES
        if path.is_relative_to(CHECKOUT / folder)
        for token in tokens_of(path)
        if token.type == tokenize.NAME and token.string not in OF_EARLIER_RELEASES
        for part in PART_OF_A_NAME.findall(token.string)
        if part.lower() in USUAL
    }
    assert private == set()


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "tests"])
def test_comments_and_docstrings_say_the_usual_words(folder: str) -> None:
    # To store is what everybody says.
    words = re.compile(rf"\b(?:{'|'.join(USUAL.keys() - {'store'})})\b", re.IGNORECASE)
    private = {
        (str(path.relative_to(CHECKOUT)), word)
        for path in FILES
        if path.is_relative_to(CHECKOUT / folder)
        for word in words.findall(prose_of(path))
    }
    assert private == set()


def test_no_file_and_no_function_is_longer_than_can_be_kept_in_mind() -> None:
    long: dict[str, int] = {}
    for path in FILES:
        if not path.is_relative_to(CHECKOUT / "tests"):
            text, name = path.read_text(), str(path.relative_to(CHECKOUT))
            sizes = {name: (len(text.splitlines()), LONGEST_FILE_LINES)}
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    sizes[f"{name}: {node.name}"] = (lines, LONGEST_FUNCTION_LINES)
            long |= {what: lines for what, (lines, most) in sizes.items() if lines > most}
    assert long == {}
