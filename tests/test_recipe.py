"""Recipes: protects from a mistyped key that becomes a default, and from paths that depend on where one stands."""

from pathlib import Path

import pytest
import yaml

from shibolet.errors import RecipeError
from shibolet.recipe import load_recipe, shipped_recipes, write_recipe

NEEDS = {  # what a shipped recipe must be given
    "whisper-small-data": ["data.train.0.manifest=mine.jsonl"],
    "hebrew-small": ["data.train.0.manifest=mine.jsonl"],
    "two-models": ["evaluate.sets.0.manifest=test.jsonl"],
    "hebrew-round3": ["models.base=builtin:round1", "models.baseline=builtin:round1"],
}


@pytest.fixture
def small(tmp_path):
    """A recipe file of a few lines, and a function that writes it with changes."""

    def write(**changes) -> Path:
        plain = {
            "name": "small",
            "models": {"base": "builtin:round1", "baseline": "builtin:round1"},
            "data": {"train": [{"name": "one", "manifest": "data/one.jsonl"}]},
            "audit": {"recogniser": "builtin:ctc"},
            "train": {
                "phases": [{"name": "B", "num_epochs": 1, "lr_by_part": {"projector": "1e-3"}}],
                "lora": None,
            },
        }
        path = tmp_path / "recipes" / "small.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(plain | changes))
        return path

    return write


def refused(path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_shipped_recipes_load_by_name():
    names = {"hebrew-round2", "hebrew-round3", "demo", "hebrew-small", "hebrew-whisper-turbo", "whisper-small-data"}
    assert names <= shipped_recipes().keys()
    for name in shipped_recipes():
        assert load_recipe(name, NEEDS.get(name, ())).name == name


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.phasess=1", "unknown key 'train.phasess'; did you mean 'train.phases'?"),
        ("train.phases.0.num_epoch=1", "did you mean 'train.phases.0.num_epochs'?"),
        ("train.lr_by_part.head=1", "unknown key 'train.lr_by_part'"),
        ("pack_tokens=1", "unknown key 'pack_tokens'; did you mean 'train.pack_tokens'?"),
        ("gate.zzz=1", "unknown key 'gate.zzz'; known here: proceed_below_pct"),
        ("seed=many", "seed: should be a valid integer"),
        ("seed=-1", "seed: should be greater than or equal to 0, not -1"),
        ("gate.on_stop=mend", "gate.on_stop: should be 'stop' or 'repair', not 'mend'"),
        ("prepare=3", "prepare: should be a mapping of keys to values, not '3'"),
        ("seed", "write it as key=value"),
        ("seed=[", "the value is not YAML"),
        ("train.phases.7.name=C", "'7' is not an index of a list of 1; count from 0"),
        ("train.phases.B.num_epochs=3", "'B' is not an index of a list of 1; 'B' is number 0"),
        ("data.train.0.manifst=x", "did you mean 'data.train.0.manifest'?"),  # and no word of an empty list
        ("data.replay={sources: []}", "'data.replay.sources' is empty; it takes 1 or more"),
        ("name.first=x", "'name' is text in the recipe and has nothing below it"),
    ],
)
def test_a_bad_override_is_one_sentence_that_says_what_and_where(small, override, sentence):
    message = refused(small(), override)
    assert sentence in message and message.startswith("--set") and "\n" not in message


def test_errors_in_the_file_name_the_file_and_all_of_them_are_told(small):
    path = small(sead=1, gate={"on_stopp": "repair"})
    message = refused(path)
    assert f"{path}: unknown key 'sead'; did you mean 'seed'?" in message
    assert f"{path}: unknown key 'gate.on_stopp'; did you mean 'gate.on_stop'?" in message
    assert "train.phases: names must be there" in refused(small(train={"phases": []}))
    with pytest.raises(RecipeError, match=r"names no models\.base: 'shibolet next RUN --from small -o FILE'"):
        load_recipe(small(models={"baseline": "x"})).require("run", "models")


def test_files_that_are_no_recipes(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1")
    assert "this file holds a list" in refused(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    assert "not YAML" in refused(tmp_path / "broken.yaml")
    (tmp_path / "twice.yaml").write_text("name: a\nname: b\n")
    assert "key 'name' is given twice" in refused(tmp_path / "twice.yaml")
    assert "did you mean 'hebrew-round2'?" in refused("hebrew-round22")


def test_overrides_reach_lists_parts_and_missing_places(small):
    recipe = load_recipe(
        small(),
        [
            "train.phases.0.lr_by_part.decoder.layers[2:4]=5e-5",
            "train.phases.1={name: A, num_epochs: 2, lr_by_part: {projector: 1e-4}}",
            "evaluate.sets.0.name=clean",
            "evaluate.sets.0.manifest=clean.jsonl",
            "prepare.max_dev_utterances=null",
        ],
    )
    assert recipe.train.phases[0].lr_by_part == {"projector": 1e-3, "decoder.layers[2:4]": 5e-5}
    assert recipe.train.phases[1].name == "A"
    assert recipe.evaluate.sets[0].name == "clean"
    assert recipe.prepare.max_dev_utterances is None


def test_paths_start_at_the_recipe_and_those_of_overrides_at_the_current_folder(small, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = small(models={"base": "./round1", "baseline": "org/round1"})
    recipe = load_recipe(path, ["data.train.0.manifest=two.jsonl", "audit.aligner=../aligner"])
    assert load_recipe(path).data.train[0].manifest == tmp_path / "recipes/data/one.jsonl"
    assert recipe.models.base == str(tmp_path / "recipes/round1")
    assert recipe.models.baseline == "org/round1"
    assert recipe.data.train[0].manifest == tmp_path / "here/two.jsonl"
    assert recipe.audit.aligner == str(tmp_path / "aligner")
    table = {"name": "two", "parquet": "shards/*.parquet"}
    assert load_recipe(small(data={"train": [table]})).data.train[0].parquet == tmp_path / "recipes/shards/*.parquet"


def test_a_written_recipe_reads_back_the_same_and_can_move(small, tmp_path):
    recipe = load_recipe(small(models={"base": "./round1", "baseline": "org/round1"}))
    written = tmp_path / "recipes" / "run" / "recipe.yaml"
    write_recipe(recipe, written)
    assert load_recipe(written) == recipe
    assert str(tmp_path) not in written.read_text()


def test_cross_checks():
    lora = "phase 'A' thaws 'decoder.layers[15:28]', but train.lora puts adapters on 'decoder.layers[0:16]'"
    assert lora in refused("hebrew-round2", "train.phases.1.lr_by_part.decoder.layers[15:28]=1e-5")
    assert "thaws 'decoder.layers'" in refused("hebrew-round2", "train.phases.1.lr_by_part.decoder.layers=1e-5")
    for rate in ("-1e-3", "0", ".nan", "1e4"):
        assert "lr_by_part.head" in refused("hebrew-round2", f"train.phases.0.lr_by_part.head={rate}")
    assert "'hebrw' is not known" in refused("hebrew-round2", "language=hebrw")
    assert "is in English, and the recipe trains Hebrew" in refused("hebrew-round2", "data.train.0.language=English")
    assert "'a' goes from 5 to 1 s" in refused("hebrew-round2", "evaluate.buckets_s=[[a, 5, 1]]")
    assert "no longer exists: whether a domain is noisy is measured" in refused("demo", "compare.noisy_domain=whatsapp")
    assert "expected_points: 2 is above 1" in refused("demo", "compare.expected_points=[2, 1]")
    assert "beam_points: 2 is above 1" in refused("demo", "evaluate.expected_beam_points=[2, 1]")
    rates = "{projector: 1e-4}"
    assert "adapters that this phase does not train" in refused("hebrew-round2", f"train.phases.0.lr_by_part={rates}")
    without = ["train.lora=null", f"train.phases.0.lr_by_part={rates}"]
    assert load_recipe("hebrew-round2", without).train.lora is None
    assert "saspeech named twice" in refused("hebrew-round2", "evaluate.sets.0.name=saspeech")
    assert "'a/b' cannot name a folder" in refused("hebrew-round2", "evaluate.sets.0.name=a/b")
    assert "did you mean 'crowd-recital'?" in refused("hebrew-round2", "models.baseline_trained_on=[crowd-recitl]")
    own = refused("hebrew-round2", "data.train=[{name: mine, manifest: mine.csv}]")
    assert own.endswith("; name those that the baseline was trained on, or delete the key")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["evaluate.length_penalty=1.2"], "length_penalty has no effect if evaluate.beam_size is 1"),
        (["evaluate.beam_size=4", "evaluate.servers.baseline.url=http://x"], "a server has its own beams"),
        (["evaluate.mbr_samples=4", "evaluate.servers.baseline.url=http://x"], "a server has neither samples"),
        (["evaluate.mbr_samples=4", "evaluate.beam_size=2"], "have no effect with beams"),
        (["evaluate.repeat_bias=2", "evaluate.beam_size=2"], "have no effect with beams"),
        (["evaluate.mbr_temperature=0.5"], "mbr_temperature has no effect without evaluate.mbr_samples"),
        (["evaluate.mbr_samples=1"], "mbr_samples: should be greater than or equal to 2"),
        (["evaluate.ngram={file: x.arpa, weight: 0.2}"], "evaluate.ngram has no effect if evaluate.beam_size is 1"),
        (["evaluate.servers.basline.url=http://x"], "did you mean"),
    ],
)
def test_decoding_settings_that_would_do_nothing_are_refused(overrides, sentence):
    with pytest.raises(RecipeError, match=sentence):
        load_recipe("demo", overrides)


def test_a_repository_is_an_organisation_and_a_name():
    assert load_recipe("hebrew-round2", ["publish={to: org/name}"]).publish.private
    assert "publish.to" in refused("hebrew-round2", "publish={to: name}")


def test_an_overlap_is_accepted_of_a_set_that_there_is():
    assert load_recipe("demo", ["compare.accept_overlap=[clean]"]).compare.accept_overlap == ("clean",)
    assert "'claen' is not a set of evaluate.sets; did you mean 'clean'?" in refused(
        "demo", "compare.accept_overlap=[claen]"
    )


def test_a_limit_is_for_another_language_that_has_a_set():
    """A limit that nothing can test would refuse every round, or none."""
    other = "evaluate.sets.0.language=English"
    assert load_recipe("demo", [other, "compare.limits.en=0.3"]).compare.limits == {"en": 0.3}
    assert "English has no set in evaluate.sets" in refused("demo", "compare.limits.en=0.3")
    assert "Hebrew is the recipe's own" in refused("demo", "compare.limits.he=0.3")
    assert "English has two limits" in refused("demo", other, "compare.limits={en: 0.3, English: 1}")
    assert "language 'Elvish' is not known" in refused("demo", "compare.limits.Elvish=0.3")


def test_the_older_key_of_a_limit_is_told_and_what_an_older_folder_wrote_of_it_is_read(tmp_path):
    """Recipes are written in full: every older run folder has the key, as null."""
    assert "write compare.limits: {English: 0.5}" in refused("demo", "compare.forget_above_points=0.5")
    assert load_recipe("demo", ["compare.forget_above_points=null"]).compare.limits == {}


def test_an_audit_takes_no_model_to_train_and_no_training(small, tmp_path):
    """Whoever only wants to know what his data are worth must not invent the rest of a round."""
    recipe = load_recipe(small(models=None, train=None, audit={"recogniser": "builtin:ctc", "aligner": "none"}))
    assert recipe.models is recipe.train is None and recipe.model_names() == {"recogniser": "builtin:ctc"}
    recipe.require("audit")
    with pytest.raises(RecipeError, match="no section 'models', so it is not used for 'run'"):
        recipe.require("run", "models", named=False)
    with pytest.raises(
        RecipeError, match=r"has no section 'models' and no section 'train', so it is not used for 'train'"
    ):
        recipe.require("train", "models", "train")
    write_recipe(recipe, tmp_path / "recipes" / "run" / "recipe.yaml")
    assert load_recipe(tmp_path / "recipes" / "run" / "recipe.yaml") == recipe
    with pytest.raises(RecipeError, match=r"no data.train and no audit.recogniser, so it is not used for 'audit'"):
        load_recipe("two-models", NEEDS["two-models"]).require("audit", "data", "audit")
    load_recipe(small()).require("train", "data", "audit", "models", "train")
    assert load_recipe(small()).model_names()["baseline"] == "builtin:round1"


@pytest.mark.parametrize("written", ["none", "None", "null", "~"])
def test_no_aligner_is_written_in_words_or_as_null(small, written):
    assert load_recipe(small(), [f"audit.aligner={written}"]).audit.aligner is None
