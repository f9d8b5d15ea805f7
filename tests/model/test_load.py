"""Both layouts are read into the same model; what is not one, or not whole, is refused with the reason."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3ASRFeatureExtractor, Qwen3ASRForConditionalGeneration

from shibolet.demo import tiny
from shibolet.errors import ModelError
from shibolet.listen.open import open_recogniser
from shibolet.model import folders
from shibolet.model.family import LoadedModel
from shibolet.model.folders import identity_of, resolve
from shibolet.model.outline import offline_config
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.features import log_mel
from shibolet.model.qwen3_asr.lengths import num_audio_tokens
from shibolet.model.qwen3_asr.load import load_aligner, load_recogniser
from shibolet.model.qwen3_asr.packed import build_pack
from shibolet.model.qwen3_asr.parts import is_tied, untie_head
from shibolet.model.qwen3_asr.prompt import AlignmentPrompt, TranscriptionPrompt
from shibolet.model.qwen3_asr.save import convert, save_model


def to_legacy(native: Path, legacy: Path) -> Path:
    """The native folder in the layout of the qwen-asr package, its tied head stored as well, as some do."""
    convert(str(native), legacy, "legacy")
    weights = load_file(legacy / "model.safetensors")
    if "thinker.lm_head.weight" not in weights:
        save_file({**weights, "thinker.lm_head.weight": torch.zeros(384, 128)}, legacy / "model.safetensors")
    return legacy


def logits(loaded: LoadedModel, clip, aligner: bool = False) -> torch.Tensor:
    mel = log_mel(clip, loaded.extractor)
    if aligner:
        prompt = AlignmentPrompt(loaded.tokenizer)
        sequences = prompt.examples([num_audio_tokens(mel.shape[1])], [["שלום", "עולם"]], [[0, 1, 2, 3]])
    else:
        prompt = TranscriptionPrompt(loaded.tokenizer, "Hebrew")
        sequences = prompt.examples([num_audio_tokens(mel.shape[1])], ["שלום עולם"])
    with torch.no_grad():
        return FAMILY.logits(loaded.model, build_pack(sequences, [mel], prompt.audio_id, shift=not aligner))


@pytest.mark.parametrize("tied", [True, False])
def test_a_recogniser_is_the_same_in_both_layouts(tied: bool, recogniser, tokenizer, clips, tmp_path: Path):
    if not tied:
        untie_head(recogniser)
        torch.nn.init.normal_(recogniser.lm_head.weight, std=0.02)
    path = tmp_path / "native"
    save_model(LoadedModel(recogniser, tokenizer, Qwen3ASRFeatureExtractor(), path, ""), path, torch.float32)
    native = load_recogniser(str(path))
    legacy = load_recogniser(str(to_legacy(path, tmp_path / "legacy")))
    assert is_tied(native.model) == is_tied(legacy.model) == tied
    assert logits(native, clips[1]).equal(logits(legacy, clips[1]))
    assert native.identity != legacy.identity and len(native.identity) == 16
    stock = Qwen3ASRForConditionalGeneration.from_pretrained(path)
    for (name, a), b in zip(stock.named_parameters(), legacy.model.parameters(), strict=True):
        assert a.equal(b), name


def test_an_aligner_is_the_same_in_both_layouts(tokenizer, clips, tmp_path: Path):
    model, path = tiny.new_aligner(tokenizer, seed=4).eval(), tmp_path / "native"
    save_model(LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), path, ""), path, torch.float32)
    legacy = load_aligner(str(to_legacy(path, tmp_path / "legacy")))
    assert legacy.model.config.num_labels == tiny.NUM_TIME_CLASSES
    assert logits(load_aligner(str(path)), clips[1], aligner=True).equal(logits(legacy, clips[1], aligner=True))
    for folder in ("native", "legacy"):
        with pytest.raises(ModelError):
            load_recogniser(str(tmp_path / folder))


def test_a_recogniser_is_not_taken_for_an_aligner(native_dir: Path, tmp_path: Path):
    for path in (native_dir, to_legacy(native_dir, tmp_path / "legacy")):
        with pytest.raises(ModelError):
            load_aligner(str(path))


def test_the_native_layout_written_from_a_legacy_one_is_whole(native_dir: Path, clips, tmp_path: Path):
    legacy = load_recogniser(str(to_legacy(native_dir, tmp_path / "legacy")))
    save_model(legacy, tmp_path / "again", torch.float32)
    assert logits(load_recogniser(str(tmp_path / "again")), clips[1]).equal(logits(legacy, clips[1]))


@pytest.mark.parametrize("layout", ["native", "legacy"])
def test_missing_weights_are_counted_and_named(layout: str, native_dir: Path, tmp_path: Path):
    path = native_dir if layout == "native" else to_legacy(native_dir, tmp_path / "legacy")
    weights = load_file(path / "model.safetensors")
    gone = [name for name in weights if name.endswith("layers.1.self_attn.q_proj.weight")]
    assert gone
    save_file({name: weight for name, weight in weights.items() if name not in gone}, path / "model.safetensors")
    with pytest.raises(ModelError, match=rf"{len(gone)} weights missing .*layers\.1\.self_attn\.q_proj"):
        load_recogniser(str(path))


def test_folders_that_are_no_such_model(tmp_path: Path, native_dir: Path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_recogniser(str(tmp_path))
    (native_dir / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"a configuration but no \.safetensors weights"):
        load_recogniser(str(native_dir))
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ModelError, match="is a 'whisper', not a Qwen3-ASR"):
        load_recogniser(str(tmp_path))


@pytest.fixture
def sharded_dir(native_dir: Path, tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr("shibolet.model.weights.SHARD_SIZE", "3MB")
    convert(str(native_dir), tmp_path / "sharded", "native")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    return tmp_path / "sharded"


def test_half_a_download_is_named(sharded_dir: Path):
    first, *_, last = sorted(sharded_dir.glob("*.safetensors"))
    whole = last.read_bytes()
    last.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=f"{last.name} is not whole"):
        load_recogniser(str(sharded_dir))
    last.unlink()
    with pytest.raises(ModelError, match=f"half a download: 1 of .* {last.name}"):
        load_recogniser(str(sharded_dir))
    (sharded_dir / "model.safetensors.index.json").unlink()
    with pytest.raises(ModelError, match=f"{first.name} is one of several, but .*index.json is missing"):
        load_recogniser(str(sharded_dir))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\n", "is not whole or no safetensors file"),
        ("config.json", '{"model_type": "qwen3_asr", "audio', r"config\.json is not whole"),
        ("config.json", "[]", "holds no mapping"),
        ("tokenizer.json", '{"version": "1.0", "added', r"tokenizer\.json is not whole"),
        ("tokenizer.json", None, "has no tokenizer"),
    ],
)
def test_files_that_are_not_whole_are_named(native_dir: Path, name: str, content: str | None, sentence: str):
    (native_dir / name).unlink() if content is None else (native_dir / name).write_text(content)
    with pytest.raises(ModelError, match=sentence) as caught:
        load_recogniser(str(native_dir))
    assert "\n" not in str(caught.value)


def test_a_vocabulary_is_read_once(native_dir: Path, monkeypatch):
    """It is 11 MB of JSON: to look through it before the library does takes .4 s of each process that loads a model."""
    plain = folders.read_mapping

    def read(name: str, path: Path) -> dict:
        assert path.name != "tokenizer.json"
        return plain(name, path)

    monkeypatch.setattr(folders, "read_mapping", read)
    assert len(load_recogniser(str(native_dir)).tokenizer) > 100
    monkeypatch.setattr(folders, "MAX_JSON_BYTES", (native_dir / "config.json").stat().st_size)
    with pytest.raises(ModelError, match=r"tokenizer\.json has 0 MiB, more than such a file can have"):
        load_recogniser(str(native_dir))


def test_weights_of_another_size_are_named(native_dir: Path):
    config = json.loads((native_dir / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 64
    (native_dir / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"mlp\..* has shape \[320, 128\], its configuration says \[64, 128\]"):
        load_recogniser(str(native_dir))


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["recogniser", "ctc"])
def test_a_pickle_is_refused_and_never_opened(kind: str, native_dir: Path, tmp_path: Path):
    (native_dir / "model.safetensors").unlink()
    if kind == "ctc":
        (native_dir / "config.json").write_text('{"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}')
    (native_dir / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "opened")))
    load = load_recogniser if kind == "recogniser" else lambda name: open_recogniser(name, "Hebrew")
    for name in (native_dir, native_dir / "pytorch_model.bin"):
        with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle, which can run code"):
            load(str(name))
    assert not (tmp_path / "opened").exists()
    pickle.loads((native_dir / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "opened").exists()  # it would have gone off


def test_an_adapter_alone_is_no_model(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds only an adapter"):
        load_recogniser(str(tmp_path))


def test_a_folder_that_does_not_exist_is_not_asked_for_on_the_hub(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(str(tmp_path / "nowhere"))


def test_identity_follows_every_file_that_can_change_a_hypothesis(native_dir: Path, tmp_path: Path):
    """Swapped tokens or another prompt give other hypotheses: such a model must not pass as the one that was scored."""
    folder = Path(shutil.copytree(native_dir, tmp_path / "model"))
    before, names = identity_of(folder), sorted(path.name for path in folder.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} < set(names)
    more = ["generation_config.json", "vocab.txt", "merges.txt", "spiece.model", "tekken.json", "added_tokens.json"]
    for name in [*names, *more, "model.bin", "language_model/unigrams.txt"]:
        path = folder / name
        whole = path.read_bytes() if path.exists() else None
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((whole or b"") + b" ")
        assert identity_of(folder) != before, name
        path.write_bytes(whole) if whole is not None else path.unlink()
        assert identity_of(folder) == before, name
    unread = ["README.md", "trainer_state.json", "optimizer.pt", "pytorch_model.bin", ".cache/huggingface/a.json"]
    for name in [*unread, "checkpoint-500/model.safetensors", "runs/Nov28/events.out.tfevents.1"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("nobody reads it")
        assert identity_of(folder) == before, name


def test_identity_follows_the_weights(native_dir: Path):
    before = load_recogniser(str(native_dir)).identity
    assert load_recogniser(str(native_dir)).identity == before
    weights = load_file(native_dir / "model.safetensors")
    weights["model.language_model.norm.weight"][0] += 1
    save_file(weights, native_dir / "model.safetensors", metadata={"format": "pt"})
    assert load_recogniser(str(native_dir)).identity != before


def test_a_configuration_without_weights_says_where_it_is_from(native_dir: Path, tmp_path: Path):
    """A plan must not pass sizes of another model off as those that were asked for."""
    native, said = offline_config(str(native_dir))
    assert said == str(native_dir)
    legacy, said = offline_config(str(to_legacy(native_dir, tmp_path / "legacy")))
    assert said == f"{tmp_path / 'legacy'} (legacy layout)"
    assert legacy.text_config.hidden_size == native.text_config.hidden_size == 128
    away, said = offline_config("org/away")
    assert said == "org/away is not on this machine: sizes are those of Qwen3-ASR-1.7B"
    assert away.audio_config.output_dim == away.text_config.hidden_size == 2048
