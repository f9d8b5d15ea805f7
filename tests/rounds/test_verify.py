"""`shibolet verify`: a healthy model passes, and of a faulty one the sentence names the fault.

Protects from the day on which a download, a conversion or a merge went wrong and a GPU is already paid for.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.errors import DataError, Preempted, RecipeError
from shibolet.model.family import convert, load_recogniser
from shibolet.model.folders import resolve
from shibolet.model.protocols import Prompt
from shibolet.model.qwen3_asr.examine import _legacy_rope, _tokens, _unpublished
from shibolet.model.qwen3_asr.layouts import native_config
from shibolet.model.qwen3_asr.load import ModelFolder
from shibolet.model.spans import LayerSpan
from shibolet.recipe import load_recipe
from shibolet.records.documents.verified import VerifyReport
from shibolet.records.files import read_json, read_jsonl, write_json, write_jsonl
from shibolet.rounds.shared import untracked
from shibolet.rounds.verify import run as module
from shibolet.rounds.verify.behaviour import check_behaviour, others
from shibolet.rounds.verify.comparing import compare_hypotheses, compare_logits
from shibolet.rounds.verify.files import check_files, check_tokens
from shibolet.rounds.verify.phases import trial_of
from shibolet.rounds.verify.subject import FEWEST, Clip, read_clips
from shibolet.rounds.verify.weights import check_weights

BASE = "builtin:round1"
PUBLISHED = Path(__file__).parents[3] / "shared" / "qwen3-asr"
O_PROJ = "model.language_model.layers.2.self_attn.o_proj.weight"


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean synthetic speech that the shipped recogniser understands."""
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("speech")
    build_corpus(folder, 3, CorpusConfig(num_train=4, num_long=1, num_test=22, recording_utterances=2))
    return folder / "test_clean" / "manifest.jsonl"


@pytest.fixture(scope="session")
def clips(manifest: Path) -> list[Clip]:
    return read_clips(str(manifest), "Hebrew", FEWEST)


@pytest.fixture(scope="session")
def few(clips: list[Clip]) -> list[Clip]:
    """Enough to name a fault by."""
    return clips[:8]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the shipped recogniser, to be spoilt."""
    path = tmp_path / "model"
    shutil.copytree(resolve(BASE), path)
    return path


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = path / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def change_vocabulary(path: Path, change: Callable[[dict[str, int]], None]) -> None:
    file = path / "tokenizer.json"
    tokenizer = read_json(file)
    change(tokenizer["model"]["vocab"])
    write_json(file, tokenizer)


def behaviour(path: Path | str, clips: list[Clip]):
    """The checks `weights` and `behaviour` of a model."""
    loaded = load_recogniser(str(path))
    weights, odd = check_weights(loaded.model)
    return weights, check_behaviour(loaded, "Hebrew", clips, odd)[0]


def test_the_shipped_model_passes_what_needs_no_training(clips):
    files, loaded = check_files(BASE, "cpu")
    weights, heard = behaviour(BASE, clips)
    assert [files.state, weights.state, heard.state] == ["passed"] * 3
    assert "2,348,592 weights" in files.sentences[0] and "native layout" in files.sentences[0]
    assert check_tokens(loaded, "Hebrew", clips).state == "passed"
    assert heard.numbers["clips_heard"] == FEWEST and heard.numbers["loss"] < 0.1


def test_two_exchanged_tokens_are_named(model, few):
    def exchange(vocabulary):
        vocabulary["×ķ"], vocabulary["×Ļ"] = vocabulary["×Ļ"], vocabulary["×ķ"]

    change_vocabulary(model, exchange)
    _, heard = behaviour(model, few)
    (sentence,) = heard.sentences
    assert heard.state == "failed" and "the tokenizer has 'י' (257) and 'ו' (258) exchanged" in sentence


def test_another_vocabulary_is_named_and_is_no_deaf_model(model, few):
    def turn(vocabulary):
        ids = sorted(vocabulary.values())
        vocabulary |= dict(zip(list(vocabulary), ids[100:] + ids[:100], strict=True))

    change_vocabulary(model, turn)
    _, heard = behaviour(model, few)
    assert heard.state == "failed" and "trained with other tokens than this tokenizer gives" in heard.sentences[-1]


def test_ids_that_tokenizer_and_configuration_disagree_on_are_named(model):
    config = read_json(model / "config.json")
    config["audio_token_id"] = 379
    write_json(model / "config.json", config)
    files, _ = check_files(str(model), "cpu")
    assert files.state == "failed"
    assert "audio_token_id 379, the tokenizer gives '<|audio_pad|>' the id 378" in files.sentences[0]


@pytest.mark.parametrize("name", [O_PROJ, "model.audio_tower.layers.2.fc2.weight"])
def test_a_scaled_layer_is_named_alone_and_shown_to_do_harm(name, model, few):
    change_weights(model, lambda weights: weights.update({name: weights[name] * 8}))
    weights, heard = behaviour(model, few)
    assert weights.state == "warning" and len(weights.sentences) == 1 and f"'{name}' is" in weights.sentences[0]
    (sentence,) = heard.sentences
    assert heard.state == "failed" and f"'{name}' is" in sentence and "brought to their size, the loss" in sentence


def test_a_layer_of_zeros_and_one_of_no_numbers_are_named(model, few):
    """The shipped recogniser hears without one layer: behaviour alone would let it pass."""

    def spoil(weights):
        for name in [name for name in weights if name.startswith("model.audio_tower.layers.3.")]:
            weights[name] = torch.zeros_like(weights[name])
        weights[O_PROJ][0, 0] = torch.nan

    change_weights(model, spoil)
    weights, _ = check_weights(load_recogniser(str(model)).model)
    assert weights.state == "failed" and len(weights.sentences) == 2
    assert f"1 weights hold NaN or infinity (first: '{O_PROJ}')" in weights.sentences[0]
    assert "6 weights are all zero" in weights.sentences[1] and "audio_tower.layers.3." in weights.sentences[1]


@pytest.mark.parametrize("theta", [100_000, 1_000_000])
def test_another_rope_in_the_legacy_layout_is_named(theta, few, tmp_path):
    path = legacy(tmp_path, lambda text: text.update(rope_theta=theta))
    _, heard = behaviour(path, few)
    (sentence,) = heard.sentences
    assert heard.state == "failed" and f"with rope_theta 10,000 instead of {theta:,} the loss" in sentence


def legacy(folder: Path, change: Callable[[dict], None]) -> Path:
    """The shipped recogniser in the legacy layout, with other settings of its text side."""
    path = folder / "legacy"
    convert(BASE, path, "legacy")
    config = read_json(path / "config.json")
    change(config["thinker_config"]["text_config"])
    write_json(path / "config.json", config)
    return path


@pytest.mark.parametrize(
    "changes, state, said",
    [
        ({}, "passed", "legacy layout"),
        ({"mrope_section": [8, 5, 5]}, "failed", "mrope_section [8, 5, 5] adds up to something else than half"),
        ({"mrope_section": [8, 4, 4]}, "warning", "mrope_section is [8, 4, 4], and [6, 5, 5] in models as published"),
        ({"rope_type": "yarn", "factor": 4.0}, "failed", "rope_scaling is 'yarn'"),
    ],
)
def test_what_the_legacy_layout_says_of_rope_alone_is_read(changes, state, said, tmp_path):
    path = legacy(tmp_path, lambda text: text["rope_scaling"].update(changes))
    files, _ = check_files(str(path), "cpu")
    assert files.state == state and said in files.sentences[0]


def test_the_published_files_are_as_published_and_each_key_that_differs_is_listed():
    if not PUBLISHED.is_dir():
        pytest.skip(f"there are no files of the published model at {PUBLISHED}")

    def found(change: Callable[[dict], None]) -> list[str]:
        config, tokenizer = read_json(PUBLISHED / "config.json"), AutoTokenizer.from_pretrained(PUBLISHED)
        change(config["thinker_config"]["text_config"])
        folder = ModelFolder(PUBLISHED, config, native_config(config, tokenizer), tokenizer, False)
        return [one.sentence for one in (*_unpublished(folder), *_legacy_rope(folder), *_tokens(folder, True))]

    assert found(lambda text: None) == []
    (theta,) = found(lambda text: text.update(rope_theta=10_000))
    assert "text_config.rope_parameters.rope_theta is 10000.0, and 1000000 in the published model" in theta
    assert len(found(lambda text: text.update(head_dim=64, num_key_value_heads=16))) == 3  # mrope no longer adds up


def test_logits_and_hypotheses_are_the_librarys_and_a_difference_is_found_in_its_layer(model, few):
    loaded = load_recogniser(BASE)
    loaded.family.fuse(loaded.model)
    reference = lambda name: loaded.family.reference(name, Prompt("Hebrew"), dtype=torch.float32, device="cpu")  # noqa: E731
    same = reference(BASE)
    found = compare_logits(loaded, same, "Hebrew", few)
    assert found.state == "passed" and found.numbers["max_difference"] < 1e-3 < found.numbers["std_of_logits"]
    heard, said = compare_hypotheses(loaded, same, "Hebrew", few)
    assert heard.state == "passed" and heard.numbers["equal"] == len(few)
    assert [one.ours for one in said] == [one.theirs for one in said] and any(one.ours for one in said)
    change_weights(model, lambda weights: weights.update({O_PROJ: weights[O_PROJ] * 8}))
    other = reference(str(model))
    found = compare_logits(loaded, other, "Hebrew", few)
    assert found.state == "failed"
    assert "The first layer that differs is 'model.language_model.layers.2'" in found.sentences[0]
    heard, _ = compare_hypotheses(loaded, other, "Hebrew", few)
    assert heard.state == "failed" and heard.numbers["equal"] < len(few)


def test_the_official_package_is_asked_only_where_its_python_is_named(few, tmp_path):
    loaded = load_recogniser(BASE)
    checks = module.Checks(str, module.untracked)
    module._ask(checks, BASE, loaded, "Hebrew", few, "cpu", None)
    module._ask(checks, BASE, loaded, "Hebrew", few, "cpu", tmp_path / "python")
    assert [check.state for check in checks.done] == ["not done", "failed"]
    assert "cannot be started" in checks.done[1].sentences[0]


@pytest.mark.slow("verify", seconds=30)
def test_qwen_asr_computes_what_ours_computes(few):
    python = Path(__file__).parents[2] / "build" / "golden-venv" / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"there is no {python}; 'make golden' makes it")
    loaded = load_recogniser(BASE)
    checks = module.Checks(str, module.untracked)
    module._ask(checks, BASE, loaded, "Hebrew", few, "cpu", python)
    assert [check.state for check in checks.done] == ["passed", "passed"]
    assert checks.done[1].numbers["equal"] == len(few)


def test_each_text_is_compared_with_another_one():
    assert others([[1], [2], [1], [3, 4]]) == [[2], [3, 4], [2], [1]]


def test_phases_take_the_same_share_of_a_smaller_model_and_stay_as_they_are_where_they_fit():
    config, published = load_recipe("hebrew-round2").train, {"encoder": 24, "decoder": 28}
    trial = lambda layers, config=config: trial_of(  # noqa: E731
        config, layers, published, num_utterances=100, steps=50, on_gpu=True
    )
    tiny = trial({"encoder": 6, "decoder": 4})
    assert [part for part in tiny.phases[1].lr_by_part if LayerSpan.parse(part)] == [
        "encoder.layers[4:6]", "decoder.layers[2:4]",
    ]  # fmt: skip
    assert tiny.lora.part == "decoder.layers[0:2]" and tiny.utterances_per_step == 64
    whole = trial(published)
    assert [phase.lr_by_part for phase in whole.phases] == [phase.lr_by_part for phase in config.phases]
    assert [phase.num_epochs * 2 for phase in whole.phases] == [50, 50] and whole.phases[0].warmup_steps == 5
    demo = load_recipe("demo").train
    assert trial({"encoder": 6, "decoder": 4}, demo).phases[0].lr_by_part == demo.phases[0].lr_by_part


def test_few_utterances_and_odd_steps_are_refused(manifest, tmp_path):
    rows = read_jsonl(manifest)[: FEWEST - 1]
    for row in rows:
        row["audio"] = str(manifest.parent / row["audio"])
    write_jsonl(tmp_path / "few.jsonl", rows)
    with pytest.raises(DataError, match=f"has {FEWEST - 1} utterances .* verify needs {FEWEST}"):
        read_clips(str(tmp_path / "few.jsonl"), "Hebrew")
    with pytest.raises(RecipeError, match="is neither a file here nor a data set of the Hub with known columns"):
        read_clips("nobody/knows-this", "Hebrew")
    recipe = load_recipe("hebrew-round2")
    with pytest.raises(RecipeError, match="--steps 11: an even number"):
        module.verify(BASE, str(manifest), recipe, language="Hebrew", steps=11, with_texts=False, work_dir=tmp_path)


def test_a_check_that_breaks_off_is_named_and_ends_no_other():
    checks = module.Checks(lambda text: text.replace("/home/me/secret", "secret"), module.untracked)

    def broken(progress):
        raise ValueError("in /home/me/secret")

    assert checks.do("one", broken) is None
    assert checks.do("two", lambda _: (module.Outcome("passed", ("good",), {"n": float("nan")}), 5)) == 5
    one, two = checks.done
    assert one.state == "failed" and "ValueError in test_verify.py, line" in one.sentences[0]
    assert "/home" not in one.sentences[0] and two.numbers == {"n": None}


@pytest.mark.slow("verify", seconds=20)
def test_the_command_passes_trains_and_leaves_a_small_report_without_texts(manifest, run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli("verify", BASE, str(manifest), "--steps", "10", "--language", "Hebrew")
    report = VerifyReport.read(tmp_path / "verify.json")
    assert (code, report.failed) == (0, []), err
    states = {check.name: check.state for check in report.checks}
    assert states == {
        "files": "passed", "weights": "passed", "tokenizer": "passed", "behaviour": "passed", "logits": "passed",
        "hypotheses": "passed", "training": "passed", "resume": "passed", "plan": "not done", "saving": "passed",
        "official package": "not done",
    }  # fmt: skip
    (resumed,) = [check for check in report.checks if check.name == "resume"]
    assert resumed.numbers == {"repeated_steps": 3, "max_relative_difference": 0}
    content = (tmp_path / "verify.json").read_text(encoding="utf-8")
    texts = [row["text"] for row in read_jsonl(manifest)]
    assert len(content) < 8000 and texts and not any(text in content for text in texts)
    assert str(tmp_path) not in content and str(manifest.parent) not in content
    assert "20 of 20" in out and report.steps == 10 and set(report.timing) > {"training", "step_B", "step_A"}
    assert json.loads(content)["machine"]["device"] == "cpu"


def test_the_command_ends_with_3_and_names_what_does_not_open(model, manifest, run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (model / "model.safetensors").write_bytes(b"half a download")
    code, _, err = run_cli("verify", str(model), str(manifest), "--language", "Hebrew")
    report = VerifyReport.read(tmp_path / "verify.json")
    assert code == 3 and "files" in err and "no safetensors file" in err
    assert [check.state for check in report.checks] == ["failed"] + ["not done"] * (len(report.checks) - 1)
    assert report.model.name == "model" and report.model.identity is None


def test_a_signal_in_the_training_is_no_fault_of_the_model():
    """Ctrl-C would else leave a report that calls a healthy model faulty."""

    def stopped(progress):
        raise Preempted("stopped by a signal")

    checks = module.Checks(str, untracked)
    with pytest.raises(KeyboardInterrupt):
        checks.do("training", stopped)
    assert checks.done == []
