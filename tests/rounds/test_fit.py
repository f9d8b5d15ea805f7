"""A round that its models cannot end is refused before anything is heard, and `check` says so: not after a training."""

from pathlib import Path

import pytest
from whisper_models import save_whisper

from shibolet.errors import DataError, ModelError, RecipeError
from shibolet.model.ngram.arpa import write_arpa
from shibolet.model.ngram.estimate import estimate
from shibolet.model.outline import offline_config, outline_of
from shibolet.recipe import Recipe, load_recipe
from shibolet.rounds.check import check_recipe
from shibolet.rounds.fit import hearers_alike, misfits, require_fit
from shibolet.rounds.flow import run_round
from shibolet.rounds.shared import open_round


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_whisper(tmp_path / "base")


TRAIN = "train={phases: [{name: B, num_epochs: 1, lr_by_part: {decoder.layers: 1e-3}}], lora: null}"


def recipe_of(base, *changes: str, baseline="builtin:round1") -> Recipe:
    return load_recipe("demo", [f"models={{base: {base}, baseline: {baseline}}}", TRAIN, "evaluate.sets=[]", *changes])


def missing(recipe: Recipe, run: Path) -> list[str]:
    found = check_recipe(recipe, run).findings
    return [one.found for one in found if one.what == "models" and one.state == "missing"]


@pytest.mark.parametrize("setting", ["prepare.max_duration_s", "evaluate.max_piece_s"])
def test_audio_that_a_model_does_not_take_is_refused_at_the_start(setting, base, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert missing(recipe_of(base, f"{setting}=30"), tmp_path / "run") == []
    recipe = recipe_of(base, f"{setting}=40")
    sentence = f"{setting} is 40, and models.base '{base}' is a Whisper, which takes 30 s at most; set it to 30 or less"
    assert missing(recipe, tmp_path / "run") == [sentence]
    with (
        open_round(recipe, tmp_path / "run", "run", lambda sentence: None) as current,
        pytest.raises(RecipeError, match="at most; set it to 30 or less"),
    ):
        run_round(current)


def test_a_model_is_asked_of_what_it_hears_alone(base):
    long = ("prepare.max_duration_s=40", "evaluate.max_piece_s=40")
    as_baseline = recipe_of("builtin:round1", *long, baseline=base)
    assert [str(error).split(", which")[0] for error in misfits(as_baseline)] == [
        f"evaluate.max_piece_s is 40, and models.baseline '{base}' is a Whisper"
    ]
    server = "{url: http://localhost:8000}"
    served = f"evaluate.servers={{baseline: {server}, candidate: {server}}}"
    for recipe, count in ((recipe_of(base, *long, served), 1), (recipe_of("openai/whisper-small", *long), 2)):
        assert len(list(misfits(recipe))) == count
    for other in ("builtin:round1", "someone/qwen3", "./gone"):
        require_fit(recipe_of(other, *long, baseline=other))


def test_an_n_gram_of_another_tokenizer_is_refused_at_the_start(base, tmp_path):
    """It would be found when the baseline is opened: after a training that was paid for."""
    pieces = outline_of(offline_config("builtin:round1")[0]).tokenizer("builtin:round1").get_vocab()
    own = {piece: id for piece, id in pieces.items() if id < 300}
    ngram, _ = estimate([sorted(own.values())], 2, max(pieces.values()) + 1, max(pieces.values()))
    write_arpa(ngram, pieces, path := tmp_path / "a.arpa")
    changes = ["evaluate.beam_size=2", f"evaluate.ngram={{file: {path}, weight: 0.3}}"]
    require_fit(recipe_of("builtin:round1", *changes))
    recipe = recipe_of("builtin:round1", *changes, baseline=base)
    (error,) = misfits(recipe)
    assert f"which the tokenizer of models.baseline '{base}' lacks" in str(error)
    assert missing(recipe, tmp_path / "run") == [str(error)]
    path.write_text("no n-gram")
    assert "'\\data\\' should stand" in str(*misfits(recipe))
    path.unlink()
    with pytest.raises(DataError, match=r"evaluate\.ngram: there is no file"):
        require_fit(recipe)


def test_a_base_that_draws_at_random_is_refused_at_the_start(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    base = save_whisper(tmp_path / "base", dropout=0.1)
    recipe = recipe_of(base)
    assert missing(recipe, tmp_path / "run")[0].startswith(
        f"models.base '{base}' cannot be trained: the model's config"
    )
    with pytest.raises(ModelError, match=r"config\.json sets dropout 0\.1, which training here does not apply"):
        require_fit(recipe)
    require_fit(recipe_of("builtin:round1", baseline=base))  # which is not trained


def test_timestamps_that_no_objective_of_the_recipe_learns_are_refused_at_the_start(base):
    """Prepared with their times, the texts would train without them, and nobody would know."""
    changes = ("data.train.0.timestamps=true", "train.phases.0.objective=min_wer")
    (error,) = misfits(recipe_of(base, *changes))
    assert "timestamps of 'synthetic' are to be learned in some epochs" in str(error)
    for fitting in (changes[:1], changes[1:], (*changes, "train.timestamps_frac=0")):
        assert not list(misfits(recipe_of(base, *fitting)))


def test_a_teacher_of_other_tokens_is_refused_at_the_start(base, tmp_path):
    """The training would refuse it too, once the data are heard and prepared."""
    taught = ("train.phases.0.objective=distil", "models.teacher=builtin:round1")
    (error,) = misfits(recipe_of(base, *taught))
    assert "'builtin:round1' and models.base" in str(error) and "different vocabularies" in str(error)
    other = save_whisper(tmp_path / "other", seed=1)
    assert not list(misfits(recipe_of(base, taught[0], f"models.teacher={other}")))


DISTIL = (
    "train={phases: [{name: B, num_epochs: 1, lr_by_part: {decoder.layers: 1e-3}, objective: distil}], lora: null, "
    "distil: {texts: true}}"
)
FREE = "data.unlabelled=[{{name: radio, manifest: {}}}]"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["label.writer=builtin:ctc", "label.flagged=true"], "one model always agrees with itself"),
        (
            ["label.writer=builtin:ctc", "label.listener=builtin:round1", "label.flagged=true"],
            "not a Qwen3-ASR or Whisper",
        ),
        (["label.listener=heard.jsonl", FREE.format("{}")], "has no hypotheses for new pieces"),
        (["evaluate.context={file: gone.txt}"], "gone.txt cannot be read"),
        ([DISTIL, "models.teacher=builtin:ctc"], "would judge its own texts"),
        ([DISTIL, "models.teacher=builtin:round1"], "which learns nothing from itself"),
    ],
)
def test_what_would_fail_after_the_audit_or_the_training_is_refused_at_the_start(changes, said, tmp_path):
    """Each was told by a stage that comes after hours of hearing, or after the training."""
    manifest = tmp_path / "free.jsonl"
    manifest.write_text('{"audio": "a.wav"}\n')
    recipe = recipe_of("builtin:round1", *(one.replace("{}", str(manifest)) for one in changes))
    found = [str(error) for error in misfits(recipe)]
    assert len(found) == 1 or "ctc" in str(changes), found
    assert any(said in one for one in found), found
    with pytest.raises((RecipeError, DataError, ModelError)):
        require_fit(recipe)


@pytest.mark.parametrize(
    ("change", "what", "said"),
    [
        (FREE.format("gone.jsonl"), "unlabelled: radio", "data.unlabelled: 'radio' has no manifest "),
        (
            "data.replay={share: 0.25, sources: [{name: old, manifest: gone.jsonl}]}", "replay: old",
            "data.replay: 'old' has no manifest ",
        ),
        ("evaluate.non_speech.sources=[{name: street, manifest: gone.jsonl}]", "non-speech: street", "gone.jsonl"),
    ],
)  # fmt: skip
def test_data_that_are_read_late_are_asked_for_at_the_start(change, what, said, tmp_path, monkeypatch):
    """A file that is not there was told after the audit, or after the training; `check` says it too."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = recipe_of("builtin:round1", change)
    with (
        open_round(recipe, tmp_path / "run", "run", lambda sentence: None) as current,
        pytest.raises(DataError, match=said),
    ):
        run_round(current)
    found = {one.what: one.state for one in check_recipe(recipe, tmp_path / "run").findings}
    assert found[what] == "missing"


def test_a_list_of_terms_that_a_model_has_no_room_for_is_refused_before_it_is_trained(base, tmp_path):
    """The result would be evaluated, and refused, once it is paid for."""
    terms = tmp_path / "names.txt"
    terms.write_text("\n".join(f"שם ארוך מאוד {i}" for i in range(200)), encoding="utf-8")
    changes = [f"evaluate.context={{file: {terms}, baseline: false}}"]
    (error,) = misfits(recipe_of(base, *changes))
    assert str(error).startswith(f"evaluate.context: models.base '{base}': the context has ")
    assert not list(misfits(recipe_of("builtin:round1", *changes)))


def test_hearers_of_one_family_are_named_beforehand(base, tmp_path):
    """Their agreement is no evidence that a text is right where both learned the same errors."""
    changes = ["label.flagged=true", f"label.writer={base}"]
    assert hearers_alike(recipe_of(base, *changes)) is None
    other = save_whisper(tmp_path / "other")
    said = hearers_alike(recipe_of(base, *changes, f"label.listener={other}"))
    assert "are both of the family Whisper, and err alike more often" in said
    assert hearers_alike(recipe_of(base)) is None, "nothing is labelled"
