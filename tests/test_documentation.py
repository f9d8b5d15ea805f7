"""README, docs, menu and commands fit together: protects readers from dead links and commands that do not exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from command_line import commands

from shibolet.recipe import shipped_recipes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
BY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page, made as GitHub and Python-Markdown make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def calls(page: Path) -> list[list[str]]:
    """The words of every shibolet command in the blocks of code, and of those with options in the prose."""
    text = page.read_text(encoding="utf-8")
    lines = [line for _, block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(shibolet [^`]+)`", prose(page).replace("\n", " "))
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("shibolet ")]


@BY_PAGE
def test_links_lead_to_files_and_headings_that_are_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        place = page if not path else (page.parent / path).resolve()
        assert place.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(place), f"{page.name} links to {target}"
        # `make docs` has the files of docs alone, and refuses a link to another.
        is_shown = page.parent != DOCS or place.is_relative_to(DOCS)
        assert is_shown, f"{page.name} links to {target}, which is not in docs: name the file without a link"


def test_the_menu_and_the_index_have_every_page():
    """A page that no menu names is found by nobody."""
    menu = re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    pages = sorted(page.name for page in DOCS.glob("*.md"))
    assert len(pages) > 15 and sorted(menu) == pages, "name each page of docs once in nav of mkdocs.yml"
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert linked == {*pages} - {"index.md"}, "link each page in docs/index.md"


@BY_PAGE
def test_commands_and_options_exist(page):
    for words in calls(page):
        if not words or words[0].startswith("-"):
            continue
        assert words[0] in commands(), f"{page.name}: shibolet {' '.join(words)}"
        unknown = {word.partition("=")[0] for word in words if re.match("--[a-z]", word)} - commands()[words[0]]
        assert not unknown - {"--help"}, f"{page.name}: shibolet {' '.join(words)}"


def test_the_pages_have_commands_to_check():
    assert sum(len(calls(page)) for page in PAGES) > 100


@BY_PAGE
def test_recipes_that_commands_name_are_shipped(page):
    for words in calls(page):
        if len(words) > 1 and words[0] in {"run", "plan", "check", "fetch", "train"} and words[1].islower():
            assert words[1] in shipped_recipes() or words[1].endswith(".yaml"), f"{page.name}: {' '.join(words)}"


@BY_PAGE
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    blocks = "\n".join(block for _, block in BLOCK.findall(page.read_text(encoding="utf-8")))
    named = re.findall(r"^make ([a-z-]+)", blocks, re.M) + re.findall(r"`make ([a-z-]+)", prose(page))
    assert not set(named) - targets


def test_the_readme_tells_the_commands_that_every_change_is_checked_by():
    """Whoever tries the README's commands does what the checks do."""
    checked = re.findall(r"^make (\w+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.M)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"test", "demo"} <= set(checked) and all(f"\nmake {name} " in readme for name in ("test", "demo"))


@BY_PAGE
def test_blocks_of_yaml_are_yaml(page):
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "yaml":
            assert isinstance(yaml.safe_load(block), dict), block
