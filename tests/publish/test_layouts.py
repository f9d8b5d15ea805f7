"""What no export could be, in its layout or in what its card's code has to repeat, is refused before it is paid for."""

from types import SimpleNamespace

import pytest

from shibolet.errors import RecipeError
from shibolet.model import outline
from shibolet.model.outline import outline_named
from shibolet.publish.config import PublishConfig
from shibolet.recipe import load_recipe
from shibolet.records.files import write_json
from shibolet.rounds import flow, reproduce
from shibolet.rounds.check import check_recipe
from shibolet.rounds.publish import NOT_OF_A_CARD, export_round, require_publishable
from shibolet.rounds.shared import open_round

WRONG = "publish={to: org/name, layout: ctranslate2}"
SENTENCE = "a Qwen3-ASR has no layout 'ctranslate2'; it has native, legacy"


def silent(sentence: str) -> None:
    pass


def test_a_round_does_not_begin_for_a_layout_that_its_base_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "run_stages", lambda current: pytest.fail("the round began"))
    with open_round(load_recipe("demo", [WRONG, "evaluate.sets=[]"]), tmp_path / "run", "run", silent) as current:
        with pytest.raises(RecipeError, match=SENTENCE):
            flow.run_round(current)


def test_check_names_the_layouts_of_the_base(tmp_path):
    findings = {layout: check_recipe(load_recipe("demo", [f"publish={{to: org/name, layout: {layout}}}"]), tmp_path)
                for layout in ("ctranslate2", "legacy")}  # fmt: skip
    (wrong,), (right,) = ([one for one in found.findings if one.what == "publish"] for found in findings.values())
    assert (wrong.state, wrong.found) == ("missing", SENTENCE)
    assert (right.state, right.found) == ("ok", "org/name, layout legacy")


def test_a_base_that_is_not_here_is_not_asked(tmp_path, monkeypatch):
    """It may be a Whisper: its name does not say so for sure."""
    monkeypatch.setattr(flow, "run_stages", lambda current: 1)
    monkeypatch.setattr(flow.stages, "do_report", lambda current: None)
    monkeypatch.setattr(flow.scoring, "require_target_domain", lambda current, download: None)
    recipe = load_recipe("demo", [WRONG, "models.base=org/not-here", "evaluate.sets=[]"])
    with open_round(recipe, tmp_path / "run", "run", silent) as current:
        assert flow.run_round(current) == 1


def test_publish_refuses_a_layout_before_it_looks_at_the_run(tmp_path):
    with open_round(load_recipe("demo"), tmp_path / "run", "publish", silent) as current:
        current.folder.final.mkdir(parents=True)
        write_json(current.folder.final / "config.json", {"model_type": "qwen3_asr"})
        with pytest.raises(RecipeError, match=SENTENCE):
            export_round(current, PublishConfig(to="org/name", layout="ctranslate2"))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("servers.candidate", "servers={candidate: {url: 'http://localhost:8000'}}"),
        ("styles.candidate", "styles={candidate: formal}"),
        ("context.candidate", "context={file: names.txt}"),
        ("ngram", "ngram={file: x.arpa, weight: 0.2}"),
        ("mbr_samples", "mbr_samples=4"),
        ("repeat_bias", "repeat_bias=4"),
    ],
)
def test_texts_that_the_code_of_a_card_cannot_repeat_are_refused_by_their_key(tmp_path, key, change):
    """Protects from 'the texts of another model' said of a good export, after the training and the conversion."""
    assert key in NOT_OF_A_CARD
    needed = {"ngram": ["evaluate.beam_size=2"], "styles.candidate": ["data.train.0.style=formal"]}.get(key, [])
    recipe = load_recipe("demo", ["publish={to: org/name}", f"evaluate.{change}", *needed])
    sentence = f"^publish: evaluate.{key} .* the code of a model card does not do"
    with pytest.raises(RecipeError, match=sentence):
        require_publishable(recipe)
    with open_round(recipe, tmp_path / "run", "publish", silent) as current:
        with pytest.raises(RecipeError, match=sentence):
            export_round(current, PublishConfig(to="org/name"))
    require_publishable(recipe.model_copy(update={"publish": None}))


def test_texts_that_were_loops_are_not_held_against_the_export_unless_there_are_many():
    """`evaluate.loop_bias` wrote them again and a card's code does not; an export that always loops is a fault."""
    pairs = [((SimpleNamespace(id=str(i), duration_s=2.0), "turn left"), "turn left") for i in range(18)]
    loop = [((SimpleNamespace(id="loop", duration_s=2.0), "m o r e"), "m " + "o " * 60)]
    assert reproduce._without_loops(pairs + loop) == (pairs, (loop[0][0][0].id,))
    assert reproduce._without_loops(pairs + 3 * loop) == (pairs + 3 * loop, ())


def test_a_layout_that_needs_a_package_names_its_extra(tmp_path, monkeypatch):
    write_json(tmp_path / "config.json", {"model_type": "whisper"})
    outline_named(str(tmp_path)).check_layout("ctranslate2")
    monkeypatch.setattr(outline, "find_spec", lambda name: None)
    outline_named(str(tmp_path)).check_layout("native")
    with pytest.raises(RecipeError, match=r"'ctranslate2' needs a package more: pip install 'shibolet\[faster-whis"):
        outline_named(str(tmp_path)).check_layout("ctranslate2")
