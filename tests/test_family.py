"""Model families: protects from a second family that needs changes all over, and from one that is named outside of its
room."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from toy_family import FAMILY, Model

from shibolet.errors import ModelError, RecipeError
from shibolet.listen.open import open_recogniser
from shibolet.model.family import LoadedModel, family_of, load_recogniser
from shibolet.model.outline import FAMILIES
from shibolet.recipe import load_recipe
from shibolet.records.documents.plan import Plan
from shibolet.records.files import read_jsonl, write_json, write_jsonl
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import scoring, stages
from shibolet.rounds.plan import make_plan
from shibolet.rounds.shared import open_round
from shibolet.speech.audio import encode_flac

SOURCE = Path(__file__).parents[1] / "src" / "shibolet"
LETTERS = " אבגדהוזח"


@pytest.fixture
def toy(monkeypatch, tmp_path) -> Path:
    """The toy family among the others, and an untrained model of it on disk."""
    monkeypatch.setitem(FAMILIES, "toy", "toy_family")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = {"model_type": "toy", "encoder_layers": 2, "decoder_layers": 2, "letters": LETTERS}
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", config)
    model = Model(FAMILY.config_in(tmp_path / "model")[0])
    FAMILY.save(LoadedModel(model, LETTERS, None, tmp_path, ""), tmp_path / "model")
    return tmp_path / "model"


def whistled(text: str, rng: np.random.Generator) -> np.ndarray:
    """A tone of a tenth of a second for each letter, then noise."""
    tones = [np.sin(2 * np.pi * 300 * (LETTERS.index(letter) + 1) * np.arange(1600) / 16000) for letter in text]
    samples = np.concatenate([*(0.3 * tone for tone in tones), np.zeros(3200)])
    return (samples + 0.01 * rng.standard_normal(len(samples))).astype(np.float32)


def whistles(count: int, seed: int) -> list[tuple[dict, np.ndarray]]:
    """Utterances of two or three words with their samples, two a recording."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        text = " ".join("".join(rng.choice(list(LETTERS[1:]), 3)) for _ in range(2 + i % 2))
        about = {"id": f"{seed}-{i}", "text": text, "recording": f"{seed}-{i // 2}", "speaker": f"{seed}-{i // 2}"}
        made.append((about, whistled(text, rng)))
    return made


def prepare(folder: RunFolder) -> None:
    """A run folder as prepare leaves it."""
    stage = folder.stage("prepare", {})
    folder.prepared.mkdir()
    for split, count, seed in (("train", 64, 1), ("dev", 8, 2)):
        rows = [
            {**about, "audio": {"bytes": encode_flac(samples), "path": None}, "duration_s": len(samples) / 16000,
             "domain": "whistled", "language": "Hebrew"}
            for about, samples in whistles(count, seed)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), folder.prepared / f"{split}-00000.parquet")
    stage.finish()


@pytest.fixture
def recipe(toy: Path, tmp_path: Path) -> list[str]:
    """Overrides of the demo's recipe for a round of the toy: the decoder trains, then an encoder layer too."""
    rows = []
    for about, samples in whistles(24, 3):
        sf.write(tmp_path / f"{about['id']}.wav", samples, 16000)
        rows.append({**about, "audio": f"{about['id']}.wav"})
    write_jsonl(tmp_path / "new.jsonl", rows)
    phases = (
        "{name: B, num_epochs: 6, lr_by_part: {head: 0.01, decoder.layers: 0.01}}, "
        "{name: A, num_epochs: 6, lr_by_part: {head: 0.005, decoder.layers: 0.005, 'encoder.layers[1:2]': 0.005}}"
    )
    return [
        f"models={{base: {toy}, baseline: {toy}}}",
        f"evaluate.sets=[{{name: new, manifest: {tmp_path}/new.jsonl}}]",
        f"train={{phases: [{phases}], lora: null, precision: fp32, utterances_per_step: 8, encoder_cache: true}}",
        "num_threads=1",
    ]  # fmt: skip


def test_a_toy_family_goes_through_a_round_without_a_change_in_the_program(recipe, tmp_path):
    with open_round(load_recipe("demo", recipe), tmp_path / "run", "run", lambda sentence: None) as current:
        folder = current.folder
        prepare(folder)
        result = stages.do_train(current)
        scores = scoring.do_evaluate(current, scoring.candidates_of(current))
        compared = scoring.do_compare(current)
    rows = read_jsonl(folder.train / "metrics.jsonl")
    assert [row["phase"] for row in rows if row["epoch"] % 1 == 0] and {row["phase"] for row in rows} == {"B", "A"}
    assert rows[-1]["loss"] < rows[0]["loss"] / 5 and result.dev[-1].wer < 0.5
    before, after = (load_recogniser(str(path)).model.state_dict() for path in (tmp_path / "model", folder.final))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.rpartition(".")[0] for name in changed} == {"head", "decoder.0", "decoder.1", "encoder.1"}
    wer = {label: sets["new"].wer.rate for label, sets in scores.items()}
    assert wer["round2"] < 0.5 < wer["round1"]
    assert compared.overall.wer.shown == "better"
    plan = Plan.read(folder.plan)
    assert plan.encoder_cache_gib >= 0 and plan.training_set.tokens > 0
    clip = whistled("אבג דהו", np.random.default_rng(3))
    planned = make_plan(load_recipe("demo", recipe), tmp_path / "run").training
    assert planned.training_set_from.endswith("with their lengths"), "it has a tokenizer of its own"
    assert planned.training_set == plan.training_set
    (hearing,) = open_recogniser(str(folder.final), "Hebrew").hear([clip], [["אבג", "דהו"]])
    assert hearing.hypothesis == "אבג דהו" and hearing.text_score == 0


def test_what_a_family_cannot_do_is_said(toy, tmp_path):
    with pytest.raises(RecipeError, match="a Toy takes no adapters; set train"):
        FAMILY.adapter_pattern([0], ["q_proj"])
    with pytest.raises(ModelError, match="is a 'other', not a Qwen3-ASR, Whisper or Toy"):
        write_json(tmp_path / "config.json", {"model_type": "other"})
        load_recogniser(str(tmp_path))
    with pytest.raises(ModelError, match="a 'other' is none of the model families: qwen3_asr, whisper, toy"):
        family_of({"model_type": "other"})


QWEN = re.compile(
    r"(?i:qwen3[-_]?asr(?!-)|qwen2tokenizer|from qwen|import qwen|class qwen|thinker|audio_tower|multi_modal_projector)"
    r"|language_model\b|text_config|audio_config|lm_head|d_model\b|embed_tokens|ln_post|conv2d\d"
    r"|<\|(?:audio_pad|audio_start|audio_end|im_start|im_end)\|>|<asr_text>|<timestamp>|<\\\|im"
    r"|CHUNK_FRAMES|WINDOW_TOKENS|TOKENS_PER_CHUNK|num_mel_frames|PackedLogMel|packed_attention|decode_pack"
    r"|[*/] *13\b|\b13 *(?:[*/]|tokens)"
)
WHISPER = re.compile(
    r"proj_out|encoder_attn|embed_positions|max_(?:source|target)_positions|suppress_tokens|\bnum_mel_bins"
    r"|Whisper(?:For|Encoder|Decoder|Processor|Feature|Tokenizer|Config|Model)|openai/whisper|['\"]whisper['\"]"
    r"|model\.whisper|WINDOW_(?:FRAMES|STATES)|<\|(?:startof|transcribe|notimestamps|endoftext)"
)
# Tiny checkpoints of the first are made from nothing in demo/. A transcript with a language before it is a format of
# data, which the rules on text read. What people read may say what the program is for. An audit hears by Whispers of
# any library in modules of their own, with models of which many are of no family.
MAY = {
    "speech/text/rules.py": ("<asr_text>", "openai/whisper"),
    "cli/__init__.py": ("fine-tune Qwen3-ASR",),
    "listen/seq2seq.py": ("",),
    "listen/ctranslate2_whisper.py": ("",),
}


@pytest.mark.parametrize("names", [QWEN, WHISPER], ids=["Qwen3-ASR", "Whisper"])
def test_only_the_models_room_and_the_demos_builder_know_a_family(names: re.Pattern):
    found, read = [], 0
    for path in sorted([*SOURCE.rglob("*.py"), *SOURCE.rglob("*.jinja")]):
        name = path.relative_to(SOURCE).as_posix()
        if name.startswith(("model/", "demo/")):
            continue
        read += 1
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if names.search(line) and not any(word in line for word in MAY.get(name, ())):
                found.append(f"{name}:{number}: {line.strip()}")
    assert read > 150 and not found, "\n".join(found)


@pytest.mark.parametrize(
    ("family", "pattern", "names"),
    [
        ("qwen3_asr", QWEN, ("thinker", "audio_tower", "<|audio_pad|>", "<timestamp>", "CHUNK_FRAMES", "Qwen3ASR")),
        ("whisper", WHISPER, ("proj_out", "encoder_attn", "<|transcribe|>", "WINDOW_STATES", "WhisperForConditional")),
    ],
)
def test_the_list_of_names_finds_those_of_the_models_room(family: str, pattern: re.Pattern, names: tuple[str, ...]):
    """The search above cannot pass because it searches for nothing."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (SOURCE / "model" / family).glob("*.py"))
    for name in names:
        assert name in text and pattern.search(name), name
    assert QWEN.search("seconds * 13") and QWEN.search("13 tokens") and not QWEN.search("torch 2.13")
