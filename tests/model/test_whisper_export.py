"""A Whisper outside of this program: transformers and faster-whisper read what is written, and give our hypotheses."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from real_models import real_model, real_speech
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSpeechSeq2Seq, WhisperConfig, pipeline
from whisper_models import save_whisper

from shibolet.errors import ModelError, RecipeError
from shibolet.model.family import LoadedModel, convert, family_named, load_recogniser
from shibolet.model.lora import attach_lora, save_lora
from shibolet.model.parts import select
from shibolet.model.protocols import Decoding, Prompt
from shibolet.model.whisper import prompt
from shibolet.records.files import read_json, read_jsonl, write_json
from shibolet.rounds.reproduce import FILES, code_of, run_code

LIMIT = 12  # tokens


@pytest.fixture
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [(0.1 * rng.standard_normal(int(16000 * seconds))).astype(np.float32) for seconds in (0.7, 2.2)]


def talkative(path: Path) -> Path:
    """A tiny Whisper on disk that writes letters: special tokens and times, which no text shows, are unlikely."""
    save_whisper(path, seed=6)
    weights = load_file(path / "model.safetensors")
    end = read_json(path / "config.json")["eos_token_id"]
    weights["model.decoder.embed_tokens.weight"][end:] *= 0.1
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def written(model: Path, clips: list[np.ndarray], language: str, limit: int = 440) -> list[str]:
    """What our decoder hears, in the order of the clips."""
    loaded = load_recogniser(str(model))
    decoder = loaded.family.decoder(loaded, Decoding(prompt=Prompt(language)))
    order = sorted(range(len(clips)), key=lambda i: -len(clips[i]))
    found = decoder.decode([clips[i] for i in order], [limit] * len(clips), lambda place, ids: False)
    texts = {order[one.place]: decoder.text(one.ids) for one in found}
    return [texts[i] for i in range(len(clips))]


def decoded(loaded: LoadedModel, clips: list[np.ndarray]) -> list[list[int]]:
    """Ids that our decoder writes of each clip alone, `LIMIT` at most."""
    decoder = loaded.family.decoder(loaded, Decoding(prompt=Prompt("English"), clips_at_once=1))
    return [next(decoder.decode([clip], [LIMIT], lambda place, ids: False)).ids for clip in clips]


def printed(usage: str, folder: Path, clips: list[np.ndarray], monkeypatch, limit: int | None = None) -> list[str]:
    """What the code of a card prints, run here: a process of its own takes seconds to start."""
    files, texts = [f"{i}.wav" for i in range(len(clips))], []
    for file, clip in zip(files, clips, strict=True):
        sf.write(folder / file, clip, 16000, subtype="FLOAT")
    monkeypatch.chdir(folder)
    code = code_of(usage)
    assert code.count(FILES) == 1
    code = code.replace(FILES, str(files))
    if limit:  # CTranslate2 writes half as many as the prompt of 2 and what it is told
        code = code.replace("max_new_tokens=440", f"max_new_tokens={limit}").replace(
            "compression_ratio_threshold", f"max_new_tokens={2 * limit - 2}, compression_ratio_threshold"
        )
    exec(compile(code, "card", "exec"), {"print": texts.append})
    return [text.rstrip("\ufffd") for text in texts]  # a limit may lie within a character


def test_native_is_the_same_files_bit_for_bit_and_nothing_else(tmp_path):
    source = save_whisper(tmp_path / "source")
    for name in ("trainer_state.json", "training_args.bin", "README.md"):
        (source / name).write_text("{}")
    convert(str(source), tmp_path / "copy", "native")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"trainer_state.json", "training_args.bin", "README.md"}
    assert all((source / name).read_bytes() == (tmp_path / "copy" / name).read_bytes() for name in names)
    with pytest.raises(ModelError, match="exists; name a new folder"):
        convert(str(source), tmp_path / "copy", "native")


def test_a_missing_feature_extractor_is_put_in(tmp_path):
    source = save_whisper(tmp_path / "source", num_mel_bins=128)
    for name in ("processor_config.json", "preprocessor_config.json"):
        (source / name).unlink(missing_ok=True)
    convert(str(source), tmp_path / "copy", "native")
    assert read_json(tmp_path / "copy" / "preprocessor_config.json")["feature_size"] == 128


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path, monkeypatch):
    source = save_whisper(tmp_path / "source")
    from ctranslate2.converters import TransformersConverter

    def fails(self, *args, **settings):
        raise OSError("the disk is full")

    monkeypatch.setattr(TransformersConverter, "convert", fails)
    with pytest.raises(ModelError, match="the disk is full"):
        convert(str(source), tmp_path / "made", "ctranslate2")
    assert not (tmp_path / "made").exists()


def test_ctranslate2s_folder_has_what_faster_whisper_reads_and_gives_our_texts(tmp_path, clips, monkeypatch):
    pytest.importorskip("faster_whisper")
    # CTranslate2 knows a multilingual Whisper by ids that a tiny tokenizer has not.
    monkeypatch.setattr(prompt, "is_multilingual", lambda tokenizer: False)
    source = talkative(tmp_path / "source")
    convert(str(source), tmp_path / "org" / "name", "ctranslate2")
    names = {path.name for path in (tmp_path / "org" / "name").iterdir()}
    assert names == {"config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.json"}
    family = family_named(str(source))
    usage = family.usage("org/name", "ctranslate2", model=tmp_path / "org" / "name", language="English")
    texts = written(source, clips, "English", limit=12)
    assert printed(usage, tmp_path, clips, monkeypatch, limit=12) == texts and len(set(texts)) == len(texts)


def test_it_is_not_converted_back_and_not_trained(tmp_path):
    pytest.importorskip("faster_whisper")
    convert(str(save_whisper(tmp_path / "source")), tmp_path / "made", "ctranslate2")
    for use in (lambda: convert(str(tmp_path / "made"), tmp_path / "back", "native"),
                lambda: load_recogniser(str(tmp_path / "made"))):  # fmt: skip
        with pytest.raises(ModelError, match=r"is in CTranslate2's format.* take the model that it was converted from"):
            use()


def test_a_layout_of_another_family_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="a Whisper has no layout 'legacy'; it has native, ctranslate2"):
        convert(str(save_whisper(tmp_path / "source")), tmp_path / "made", "legacy")


def test_the_cards_code_and_pipeline_give_our_texts(tmp_path, clips, monkeypatch):
    source = talkative(tmp_path / "org" / "name")
    family, texts = family_named(str(source)), written(source, clips, "Hebrew", limit=12)
    assert len(set(texts)) == len(texts)
    usage = family.usage("org/name", "native", model=source, language="Hebrew")
    assert printed(usage, tmp_path, clips, monkeypatch, limit=12) == texts
    by_pipeline = pipeline("automatic-speech-recognition", str(source), device="cpu", dtype=torch.float32)
    told = {"language": "he", "task": "transcribe", "num_beams": 1, "max_new_tokens": 12}
    heard = by_pipeline([{"raw": clip, "sampling_rate": 16000} for clip in clips], generate_kwargs=told)
    assert [one["text"].rstrip("\ufffd").strip() for one in heard] == texts


def test_the_card_says_language_and_beams_where_they_can_be_said(tmp_path):
    source = save_whisper(tmp_path / "source")
    family = family_named(str(source))
    usage = family.usage("org/name", "native", model=source, language="Hebrew", beam_size=4, length_penalty=0.5)
    code = code_of(usage)
    assert 'language="he", task="transcribe", max_new_tokens=440, num_beams=4, length_penalty=0.5' in code
    assert '{"language": "he", "task": "transcribe", "num_beams": 4}' in usage
    english = tmp_path / "english"
    english.mkdir()
    vocabulary = {"<|endoftext|>": 50256, "<|transcribe|>": 50358}
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel(vocabulary, "<|endoftext|>")).save(str(english / "tokenizer.json"))
    code = code_of(family.usage("org/name", "native", model=english, language="English"))
    assert "language=" not in code and "generate(**inputs, max_new_tokens=440" in code


def test_the_code_of_an_adapter_opens_it_on_its_base(tmp_path, clips, monkeypatch):
    source, texts = talkative(tmp_path / "base"), {}
    for change in (0.0, 1.0):
        model = load_recogniser(str(source)).model
        attach_lora(model, "decoder.layers", rank=4, alpha=8, dropout=0.0, targets=["q_proj", "v_proj"], seed=1)
        for weight in select(model, "lora").values():
            torch.nn.init.normal_(weight, 0, change, generator=torch.Generator().manual_seed(weight.numel()))
        save_lora(model, list(select(model, "lora")), tmp_path / f"{change:.0f}", str(source), torch.float32)
        usage = family_named(str(source)).adapter_usage(f"./{change:.0f}", str(source), "native", language="Hebrew")
        texts[change] = printed(usage, tmp_path, clips, monkeypatch, limit=12)
    assert texts[0.0] == written(source, clips, "Hebrew", limit=12) != texts[1.0]


@pytest.mark.parametrize("suppressed", [None, [], [1, 2]])
def test_faster_whisper_suppresses_what_the_model_does(tmp_path, suppressed):
    """By itself it suppresses the usual tokens of any model."""
    write_json(tmp_path / "config.json", {"suppress_ids": suppressed})
    family = family_named(str(save_whisper(tmp_path / "source")))
    code = code_of(family.usage("org/name", "ctranslate2", model=tmp_path, language="Hebrew"))
    assert ("suppress_tokens=[]" in code) == (not suppressed) and 'language="he"' in code


def test_the_reference_is_transformers_own_forward(tmp_path, clips):
    source = save_whisper(tmp_path / "source")
    family = family_named(str(source))
    theirs = family.reference(str(source), Prompt("Hebrew"), dtype=torch.float32, device="cpu")
    loaded = load_recogniser(str(source))
    targets = family.targets(loaded.tokenizer, Prompt("Hebrew"))
    (ids,) = targets.encode(["שלום עולם"])
    pack = family.lay_out(targets.frame, [ids], [family.num_frames(len(clips[0]))])
    features = family.features(loaded.extractor, torch.device("cpu"))
    with torch.inference_mode():
        ours = family.logits(loaded.model, family.with_audio(pack, clips[:1], features, torch.device("cpu")))
    logits = theirs.logits(clips[0], ids)
    assert logits.shape == ours.shape == (len(ids) + 1, loaded.model.config.vocab_size)
    assert (logits - ours).abs().max() < 1e-4 * logits.std()
    decoder = family.decoder(loaded, Decoding(prompt=Prompt("Hebrew"), clips_at_once=1))
    (one,) = decoder.decode(clips[:1], [9], lambda place, ids: False)
    assert theirs.write(clips[0], 9) == one.ids and len(one.ids) == 9
    assert len(theirs.write(clips[0], 1000)) <= 444


REAL = [("whisper-tiny.en", "native"), ("whisper-tiny.en", "ctranslate2"), ("whisper-base", "ctranslate2")]


def an4_clips(num: int) -> Iterator[np.ndarray]:
    rows = read_jsonl(real_speech())
    for row in rows[:: len(rows) // num][:num]:
        yield sf.read(real_speech().parent / row["audio"], dtype="float32")[0]


@pytest.mark.parametrize(("name", "layout"), REAL)
def test_real_models_write_ours_in_a_process_of_their_own(name, layout, tmp_path):
    """As `publish` checks it."""
    source, clips = real_model(name), list(an4_clips(20))
    convert(str(source), tmp_path / "org" / "name", layout)
    usage = family_named(str(source)).usage("org/name", layout, model=tmp_path / "org" / "name", language="English")
    files = [f"{i}.wav" for i in range(len(clips))]
    for file, clip in zip(files, clips, strict=True):
        sf.write(tmp_path / file, clip, 16000, subtype="FLOAT")
    heard = run_code(code_of(usage), tmp_path, files, on_cpu=True)
    same = sum(a == b for a, b in zip(heard, written(source, clips, "English"), strict=True))
    assert same >= 19 and len(set(heard)) > 10


def test_an_untied_head_comes_through(tmp_path, clips, monkeypatch):
    """transformers reads it back; CTranslate2 writes by it what we write."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    # CTranslate2 knows a multilingual Whisper by ids that a tiny tokenizer has not.
    monkeypatch.setattr(prompt, "is_multilingual", lambda tokenizer: False)
    loaded = load_recogniser(str(talkative(tmp_path / "base")))
    family, head = loaded.family, loaded.model.get_output_embeddings
    tied = decoded(loaded, clips)
    family.untie_head(loaded.model)
    with torch.no_grad():
        head().weight[:200] = head().weight[:200].flip(0)
    family.save(loaded, tmp_path / "source")
    assert not WhisperConfig.from_pretrained(tmp_path / "source").tie_word_embeddings
    again = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "source")
    assert torch.equal(again.proj_out.weight, head().weight)
    convert(str(tmp_path / "source"), tmp_path / "made", "ctranslate2")
    frame = family.targets(loaded.tokenizer, Prompt("English")).frame
    heard = ctranslate2.models.Whisper(str(tmp_path / "made"), device="cpu", compute_type="float32").generate(
        ctranslate2.StorageView.from_array(loaded.extractor(clips, sampling_rate=16000).input_features),
        [frame.prompt] * len(clips), beam_size=1, max_length=2 * LIMIT, suppress_tokens=[], suppress_blank=False,
    )  # fmt: skip
    expected = decoded(load_recogniser(str(tmp_path / "source")), clips)
    assert [one.sequences_ids[0][:LIMIT] for one in heard] == expected != tied
