"""The page that `shibolet review` serves: one document with its script and style; the rest it asks the server for."""

from dataclasses import dataclass

from markupsafe import Markup

from shibolet.records.runfolder import RunFolder
from shibolet.report.audit_page import hash_of_script, json_block, script_of
from shibolet.report.page import direction_of, environment
from shibolet.report.recipe import ShownRecipe
from shibolet.report.wording import FAILURES, NOT_HEARD, REASONS, SUSPECTS
from shibolet.speech.text import get_language

SCRIPTS = (
    "utterance.js", "review_sound.js", "review_list.js", "review_answers.js", "review_detail.js", "review_keys.js",
    "review.js",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServedPage:
    """A document, and the policy that its server sends with it."""

    content: bytes
    policy: str


def review_page(run: RunFolder) -> ServedPage:
    """The page of a run folder's review; no data are in it but names of the recipe."""
    recipe = ShownRecipe.read(run.recipe)
    language = get_language(recipe.language)
    script = script_of(*SCRIPTS)
    page = environment().get_template("review.html.jinja").render(
        recipe=recipe,
        code=language.code,
        direction=direction_of(language),
        data=json_block(
            {
                "suspects": {**SUSPECTS, **{name: (label, NOT_HEARD) for name, label in FAILURES.items()}},
                "reasons": REASONS,
            }
        ),
        script=Markup(script),
    )  # fmt: skip
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src blob:; connect-src 'self'; "
        f"form-action 'none'; base-uri 'none'; frame-ancestors 'none'; script-src 'sha256-{hash_of_script(script)}'"
    )
    return ServedPage(page.encode(), policy)
