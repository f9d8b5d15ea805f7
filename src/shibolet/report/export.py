"""The page's figures as files: an SVG each, and a CSV of its numbers."""

from dataclasses import fields
from pathlib import Path

from shibolet.errors import DataError
from shibolet.records.files import write_bytes
from shibolet.records.runfolder import RunFolder
from shibolet.report import scored, sections
from shibolet.report.recipe import ShownRecipe
from shibolet.report.robustness import robustness
from shibolet.report.searched import searched
from shibolet.report.svg import Figure
from shibolet.report.waterfall import waterfall


def export_figures(run_dir: Path, out_dir: Path) -> list[Path]:
    """Write `<section>-<figure>.svg` and `.csv` of what the run folder holds; the paths in order.

    DataError when there is nothing to draw.
    """
    from shibolet.report.page import environment

    run = RunFolder(run_dir)
    run.intact()
    recipe = ShownRecipe.read(run.recipe)
    shown = {
        "gate": sections.gates(run),
        "audit": sections.audit(run, recipe),
        "search": searched(run),
        "train": sections.train(run, recipe),
        "compare": scored.comparison(run, recipe),
        "waterfall": waterfall(run),
        "robustness": robustness(run),
    }
    figures = {
        f"{section}-{field.name.removesuffix('figure').rstrip('_') or 'overview'}": figure
        for section, values in shown.items()
        if values is not None
        for field in fields(values)
        if isinstance(figure := getattr(values, field.name), Figure)
    }
    if not figures:
        raise DataError(f"{run_dir}: no stage that has a figure has run there")
    templates = environment()
    colours = templates.get_template("style.css.jinja").render().split("@media")[0]
    style = colours + templates.get_template("figures.css.jinja").render()
    written = []
    for name, figure in figures.items():
        for suffix, content in ((".svg", figure.svg(style)), (".csv", figure.csv())):
            write_bytes(out_dir / f"{name}{suffix}", content.encode())
            written.append(out_dir / f"{name}{suffix}")
    return written
