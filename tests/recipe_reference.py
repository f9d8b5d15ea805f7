"""Writes `docs/recipe-reference.md`, all keys of a recipe, from the classes of its settings: `make schemas`."""

import re
from pathlib import Path

from shibolet.recipe import Recipe
from shibolet.records.reference import Key, Section, sections

PAGE = Path(__file__).parents[1] / "docs" / "recipe-reference.md"
TOP = "The recipe"
HEAD = """# All keys of a recipe

`make schemas` writes this page from the classes of the settings. To change a sentence, change the comment beside its
field.

- `shibolet recipes --keys train.lora` prints the keys of a section in the terminal.
- `--set train.lora.rank=8` changes a key for one command. `--set data.train.0.manifest=x.jsonl` changes an entry of a
  list; entries count from 0.
- A key that does not exist is an error, and the message names the nearest one.
- Names end in their units: `_s` seconds, `_pct` percent (0 to 100), `_frac` and `share` a fraction (0 to 1), `_gib`
  GiB, `_usd` US dollars.
- A relative path in a recipe starts at the folder of the recipe. A path in `--set` starts at the current folder.
- In the names of sections `[]` stands for each entry of a list. "As below" means the defaults in the section of the
  key.
"""


def page() -> str:
    return "\n".join([HEAD, *map(_section, sections(Recipe))])


def _section(section: Section) -> str:
    level = "###" if "." in section.place else "##"
    parts = [f"{level} {f'`{section.place}`' if section.place else TOP}", *filter(None, [section.about])]
    if section.like is not None:
        also = " and these:" if section.keys else "."
        parts.append(f"It has the keys of [{section.like}](#{_anchor(section.like)}){also}")
    if section.keys:
        rows = ["| key | type | default | meaning |", "|---|---|---|---|", *map(_row, section.keys)]
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _row(key: Key) -> str:
    kind = key.kind
    if key.section:
        kind = re.sub(r"sections?", lambda word: f"[{word[0]}](#{_anchor(key.section)})", kind, count=1)
    default = f"`{key.default}`" if key.is_written else key.default
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in (f"`{key.name}`", kind, default, key.meaning)) + " |"


def _anchor(place: str) -> str:
    """As GitHub and Python-Markdown name the heading of a section."""
    return re.sub(r"[^\w-]", "", place)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
