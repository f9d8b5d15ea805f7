"""Model folders that are broken, or that would have code run: protects the machine, and people from tracebacks."""

import copy
import fnmatch
import json
import math
import os
import re
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import shibolet
from shibolet.errors import ModelError
from shibolet.listen.open import open_aligner, open_recogniser
from shibolet.model.folders import SETTINGS, resolve
from shibolet.model.outline import offline_config
from shibolet.recipe import load_recipe
from shibolet.rounds.fetch import fetch_recipe

PACKAGE = Path(shibolet.__file__).parent
KINDS = ("qwen", "ctc", "whisper")


@pytest.fixture
def folders(tmp_path: Path, whisper: Path):
    """A function that gives a copy of a whole folder of one of the `KINDS`."""

    def copied(kind: str) -> Path:
        source = {"qwen": resolve("builtin:round1"), "ctc": resolve("builtin:ctc"), "whisper": whisper}[kind]
        return Path(shutil.copytree(source, tmp_path / kind, dirs_exist_ok=True))

    return copied


def refused(name: Path | str) -> str:
    """The sentence with which a recogniser is not opened."""
    with pytest.raises(ModelError) as caught:
        open_recogniser(str(name), "Hebrew")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    return str(caught.value)


def change(file: Path, **values) -> None:
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(found | values), encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_whole_folders_open(folders, kind: str):
    """Without this the refusals below would show nothing."""
    assert open_recogniser(str(folders(kind)), "Hebrew").identity


def test_shards_of_another_precision_beside_the_weights_are_left_alone(folders):
    """openai/whisper-large-v3 has them on the Hub, with an index of another name."""
    path = folders("whisper")
    shutil.copy(path / "model.safetensors", path / "model.fp32-00001-of-00002.safetensors")
    (path / "model.safetensors.index.fp32.json").write_text('{"weight_map": {}}')
    assert open_recogniser(str(path), "Hebrew").identity


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", SETTINGS)
def test_code_of_a_folder_is_not_run_and_nobody_is_asked(folders, kind: str, file: str, monkeypatch):
    """Transformers asks "run the custom code? [y/N]" on the terminal, and `y` runs it."""
    path = folders(kind)
    (path / "evil.py").write_text(f"open({str(path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    classes = ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoFeatureExtractor", "AutoModelForCTC",
               "AutoModelForSpeechSeq2Seq")  # fmt: skip
    change(path / file, auto_map={name: "evil.Evil" for name in classes})
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    sentence = refused(path)
    assert f"'auto_map' in {path / file}" in sentence and "take that key out" in sentence
    assert not (path / "ran").exists()
    with pytest.raises(ModelError, match="auto_map"):
        open_aligner(str(path), "Hebrew")


def test_transformers_is_told_never_to_trust_a_folder(folders, monkeypatch):
    """The second lock: it holds for files in which nobody has thought of code yet."""
    monkeypatch.setattr("shibolet.model.folders._refuse_foreign", lambda *_: None)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    for kind in ("ctc", "whisper"):
        path = folders(kind)
        (path / "evil.py").write_text(f"open({str(path / 'ran')!r}, 'w')\nclass Evil: pass\n")
        own = {"AutoProcessor": "evil.Evil", "AutoConfig": "evil.Evil", "AutoModelForCTC": "evil.Evil"}
        for file in SETTINGS:
            change(path / file, auto_map=own, **({"model_type": "evil"} if file == "config.json" else {}))
        with pytest.raises(ModelError):
            open_recogniser(str(path), "Hebrew")
        change(path / "config.json", model_type={"ctc": "wav2vec2", "whisper": "whisper"}[kind])
        change(path / "processor_config.json", processor_class="Evil")
        try:
            open_recogniser(str(path), "Hebrew")
        except ModelError:
            pass
        assert not (path / "ran").exists()


def test_models_are_opened_in_one_place_with_code_turned_off():
    """A new `from_pretrained` beside them would ask again; `usage.py` has the code that a model card prints."""
    calls = {
        path.relative_to(PACKAGE).as_posix(): text.count("trust_remote_code=False") - text.count(".from_pretrained(")
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\w\.from_pretrained\((?!\"ORG)", text := path.read_text(encoding="utf-8"))
        and not re.search(r"Embedding\.from_pretrained|`PeftModel\.from_pretrained`", text)
    }
    for family in ("qwen3_asr", "whisper"):
        calls.pop(f"model/{family}/usage.py")
    opening = {
        "model/folders.py", "model/qwen3_asr/load.py", "model/qwen3_asr/official.py", "model/whisper/load.py",
    }  # fmt: skip
    assert set(calls) == opening and not any(calls.values())
    sources = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert not re.search(r"trust_remote_code=(?!False)|torch\.load\(|yaml\.(unsafe_|full_)", sources)


def test_no_code_is_downloaded_with_a_model(monkeypatch):
    """Nothing of the Hub could be run that is not on this machine."""
    asked = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda _, **given: asked.update(given) or "/nowhere")
    with pytest.raises(ModelError, match="expected a Hub id or a folder"):
        resolve("somebody/model")
    code = ("a.py", "a/b.py", "a.pt", "pytorch_model.bin", "x.sh")
    assert not any(fnmatch.fnmatch(file, pattern) for pattern in asked["allow_patterns"] for file in code)


@pytest.mark.parametrize(
    ("file", "values", "what"),
    [
        ("config.json", {"attn_implementation": "somebody/kernel"}, "code of the Hub"),
        ("config.json", {"_attn_implementation": {"": "somebody/kernel"}}, "code of the Hub"),
        ("config.json", {"transformers_weights": "other.safetensors"}, "other weights"),
        ("processor_config.json", {"audio_tokenizer": {"audio_tokenizer_name_or_path": "a/b"}}, "another model"),
        ("preprocessor_config.json", {"inner": [{"auto_map": {"a": "b"}}]}, "code of its own"),
    ],
)
def test_settings_that_name_something_elsewhere_are_refused(folders, file: str, values: dict, what: str):
    path = folders("ctc")
    change(path / file, **values)
    assert f"in {path / file} names {what}" in refused(path)


def test_an_adapter_beside_a_model_is_refused(folders):
    """Transformers would open the base that the adapter names in the place of these weights."""
    path = folders("ctc")
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    assert "adapter_config.json beside a whole model" in refused(path)


def lie(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 1 << 60) + content[8:])


BREAKS = {
    "config-cut": lambda p: os.truncate(p / "config.json", 100),
    "config-empty": lambda p: os.truncate(p / "config.json", 0),
    "config-list": lambda p: (p / "config.json").write_text("[]"),
    "config-deep": lambda p: (p / "config.json").write_text('{"a":' * 100_000),
    "config-latin1": lambda p: (p / "config.json").write_bytes(b'{"model_type": "\xe9"}'),
    "config-folder": lambda p: ((p / "config.json").unlink(), (p / "config.json").mkdir()),
    "config-fifo": lambda p: ((p / "config.json").unlink(), os.mkfifo(p / "config.json")),
    "config-huge": lambda p: os.truncate(p / "config.json", 1 << 33),
    "type-list": lambda p: change(p / "config.json", model_type=["wav2vec2"], thinker_config=None),
    "type-number": lambda p: change(p / "config.json", model_type=7),
    "type-unknown": lambda p: change(p / "config.json", model_type="unheard_of"),
    "architectures-text": lambda p: change(p / "config.json", model_type="x", architectures="Wav2Vec2ForCTC"),
    "architectures-mixed": lambda p: change(p / "config.json", model_type="x", architectures=[1, {}]),
    "thinker-list": lambda p: change(p / "config.json", thinker_config=[1]),
    "thinker-empty": lambda p: change(p / "config.json", thinker_config={}),
    "thinker-null": lambda p: change(p / "config.json", thinker_config={"audio_config": None, "text_config": None}),
    "thinker-hollow": lambda p: change(p / "config.json", thinker_config={"audio_config": {}, "text_config": {}}),
    "generation-cut": lambda p: (p / "generation_config.json").write_text('{"eos_token_id": 1, '),
    "generation-list": lambda p: (p / "generation_config.json").write_text("[1]"),
    "tokenizer-settings-cut": lambda p: os.truncate(p / "tokenizer_config.json", 20),
    "processor-list": lambda p: (p / "processor_config.json").write_text("[]"),
    "index-empty": lambda p: (p / "model.safetensors.index.json").write_text("{}"),
    "index-list": lambda p: (p / "model.safetensors.index.json").write_text("[]"),
    "index-numbers": lambda p: (p / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}'),
    "index-none": lambda p: (p / "model.safetensors.index.json").write_text('{"weight_map": {}}'),
    "index-up": lambda p: (p / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}'),
    "index-root": lambda p: (p / "model.safetensors.index.json").write_text('{"weight_map": {"a": "/x.safetensors"}}'),
    "index-pickle": lambda p: (p / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.bin"}}'),
    "index-of-others": lambda p: (
        shutil.copy(p / "model.safetensors", p / "x.safetensors"),
        (p / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}'),
    ),
    "weights-lie": lambda p: lie(p / "model.safetensors"),
    "weights-cut": lambda p: os.truncate(p / "model.safetensors", 5000),
    "weights-empty": lambda p: os.truncate(p / "model.safetensors", 0),
    "weights-none": lambda p: (p / "model.safetensors").unlink(),
    "weights-fifo": lambda p: ((p / "model.safetensors").unlink(), os.mkfifo(p / "model.safetensors")),
    "weights-half": lambda p: save_file(
        dict(list(load_file(p / "model.safetensors").items())[::2]), p / "model.safetensors", {"format": "pt"}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_folder_is_one_sentence(folders, kind: str, name: str):
    path = folders(kind)
    BREAKS[name](path)
    assert str(path) in refused(path)


TEXT = {"tokenizer.json": "qwen whisper", "vocab.json": "ctc"}


@pytest.mark.parametrize(
    "content", ["{}", "[]", "", '{"model": {}}', '{"version": "1.0", "model": {"type": "BPE"}}', "[["]
)
@pytest.mark.parametrize("file", TEXT)
def test_a_broken_vocabulary_is_one_sentence(folders, file: str, content: str):
    for kind in TEXT[file].split():
        path = folders(kind)
        (path / file).write_text(content)
        assert str(path) in refused(path)


SIZES = {"qwen": ("hidden_size", "num_hidden_layers"), "ctc": ("hidden_size", "num_hidden_layers"),
         "whisper": ("d_model", "decoder_layers")}  # fmt: skip
ODD = [-1, 0, 10**9, 10**30, 40_000, "128", None, [], {}, 1.5, math.nan, math.inf, True]


@pytest.mark.parametrize("value", ODD, ids=map(str, ODD))
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_that_cannot_be_are_refused_before_memory_is_asked_for(folders, kind: str, value):
    """A width of a billion would be allocated first and compared with the weights afterwards."""
    import resource

    for key in SIZES[kind]:
        path = folders(kind)
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        place = config["text_config"] if kind == "qwen" else config
        place[key] = value
        (path / "config.json").write_text(json.dumps(config))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            open_recogniser(str(path), "Hebrew")
        except ModelError as error:
            assert "\n" not in str(error)
        else:
            assert value in (True, None, "128"), key  # what the library reads as the right number, or its default
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("https://huggingface.co/openai/whisper-large-v3/tree/main", "write 'openai/whisper-large-v3'"),
        ("hf.co/openai/x", "Hub"),
        ("HTTP://example.org/model", "an address (HTTP://) is no model"),
        ("file:///etc", "an address"),
        ("", "is empty"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("x" * 10_000, "too long"),
        ("./" + "x" * 300, "too long"),
        ("../nowhere", "no config.json"),
        ("a b", "neither a folder here nor"),
        ("a/b/c", "neither a folder here nor"),
        ("a..b", "neither a folder here nor"),
        ("~nobody-here/x", "~nobody-here"),
        ("/dev/null", "no config.json"),
        ("/dev/null/x", "no config.json"),
    ],
)
def test_a_name_that_can_be_no_model_is_one_sentence(name: str, sentence: str, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refused(name)
    assert sentence in said and len(said) < 800 and "\0" not in said
    if sentence != "Hub" and not name.startswith((".", "/", "~", "a")):
        with pytest.raises(ModelError):
            offline_config(name)


def test_a_name_that_can_be_no_model_is_said_by_fetch(monkeypatch):
    """It is neither on this machine nor fetched: nobody would hear of it before a GPU waits."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    recipe = load_recipe("demo", ["audit.recogniser=https://huggingface.co/a/b", "audit.aligner=null"])
    found = fetch_recipe(recipe, wait=lambda _: None)
    assert "write 'a/b'" in json.dumps(found.to_json())


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_one_sentence(folders):
    path = folders("qwen")
    path.chmod(0)
    try:
        assert str(path) in refused(path)
    finally:
        path.chmod(0o755)


def test_an_adapter_of_a_language_that_only_a_pickle_has_is_refused(folders):
    """Transformers opens `adapter.heb.bin` where there is no safetensors file of that name."""
    path = folders("ctc")
    letters = json.loads((path / "vocab.json").read_text(encoding="utf-8"))
    (path / "vocab.json").write_text(json.dumps({"heb": letters}))
    (path / "adapter.heb.bin").write_bytes(b"x")
    assert "no adapter.heb.safetensors" in refused(path)


def places(value, at=()):
    """Every place in plain data."""
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*at, key))


STRANGE = [[], {}, [[]], {"a": {}}, 10**9, 10**18, "1e999", "relu", "float16", "../x", "a/b", ["x"], [-1]]
NUMBERS = st.integers(-3, 3) | st.integers() | st.floats()
ODDITIES = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(STRANGE)


def mutated(data, config):
    """The configuration with one to three values that are something else."""
    config = copy.deepcopy(config)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(list(places(config))[1:] or [()]))
        if not at:
            return data.draw(ODDITIES)
        place = config
        for key in at[:-1]:
            place = place[key]
        if data.draw(st.integers(0, 4)):
            place[at[-1]] = copy.deepcopy(data.draw(ODDITIES))  # what is sampled is shared
        elif isinstance(place, dict):
            del place[at[-1]]
    return config


def fuzzed(num: int):
    return settings(max_examples=num, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.mark.slow("fuzz", seconds=120)
@fuzzed(10_000)
@given(data=st.data())
def test_ten_thousand_configurations_are_read_or_refused(data, tmp_path_factory):
    """As a plan reads them, without weights."""
    source = resolve("builtin:round1")
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.mkdir(exist_ok=True)
    config = mutated(data, json.loads((source / "config.json").read_text(encoding="utf-8")))
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    try:
        offline_config(str(path))
    except ModelError as error:
        assert "\n" not in str(error)


@pytest.mark.slow("fuzz", seconds=40)
@pytest.mark.parametrize("kind", KINDS)
@fuzzed(100)
@given(data=st.data())
def test_folders_with_odd_settings_open_or_are_refused(data, kind: str, whisper: Path, tmp_path_factory):
    source = {"qwen": resolve("builtin:round1"), "ctc": resolve("builtin:ctc"), "whisper": whisper}[kind]
    path = tmp_path_factory.getbasetemp() / f"odd-{kind}"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(source, path)
    file = data.draw(st.sampled_from(sorted(p.name for p in path.glob("*.json"))))
    value = mutated(data, json.loads((path / file).read_text(encoding="utf-8")))
    (path / file).write_text(json.dumps(value), encoding="utf-8")
    try:
        open_recogniser(str(path), "Hebrew")
    except ModelError as error:
        assert "\n" not in str(error)
