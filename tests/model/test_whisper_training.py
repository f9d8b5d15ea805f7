"""Tiny Whispers go through training and a round: protects from a program that knows the lengths of one family alone."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from transformers import WhisperForConditionalGeneration
from whisper_models import SENTENCES, save_whisper

from shibolet.errors import DataError, ModelError, OutOfMemory, RecipeError
from shibolet.model.family import load_recogniser
from shibolet.model.parts import select
from shibolet.model.protocols import Prompt
from shibolet.model.whisper import packed
from shibolet.recipe import load_recipe
from shibolet.records.documents.plan import Plan
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.records.runfolder import RunFolder
from shibolet.rounds import scoring, stages
from shibolet.rounds.shared import open_round
from shibolet.speech.audio import encode_flac
from shibolet.train.config import (
    AugmentConfig,
    LoraSettings,
    OptimizerConfig,
    OutOfMemoryConfig,
    PhaseConfig,
    SpecAugmentConfig,
    TrainConfig,
)
from shibolet.train.data import TrainExample, read_examples
from shibolet.train.label_loss import label_losses
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.reader import PackReader
from shibolet.train.stage import run_train

DECODER = {"cross_attention": 1e-3, "decoder.layers": 1e-3, "decoder.norm": 1e-3}


def spoken(count: int, seed: int) -> list[tuple[dict, np.ndarray]]:
    """Noise of a second or two with a text."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        about = {"id": f"{seed}-{i}", "text": SENTENCES[i % 4], "recording": f"{seed}-{i}", "speaker": f"{seed}-{i}"}
        made.append((about, (0.1 * rng.standard_normal(16000 + 4000 * (i % 4))).astype(np.float32)))
    return made


def write_rows(folder: Path, split: str, utterances: list[tuple[dict, np.ndarray]], **changes) -> None:
    rows = [
        {**about, "audio": {"bytes": encode_flac(samples), "path": None}, "duration_s": len(samples) / 16000,
         "domain": "noise", "language": "Hebrew", **changes}
        for about, samples in utterances
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000.parquet")


def settings(**changes) -> TrainConfig:
    """One epoch of a step with both parts of the decoder's layers."""
    usual = {
        "phases": (PhaseConfig(name="B", num_epochs=1, lr_by_part=DECODER, warmup_steps=0),),
        "lora": None, "optimizer": OptimizerConfig(), "utterances_per_step": 4, "pack_tokens": 3500,
        "precision": "fp32", "untie_head": False, "eval_every_epoch": False,
    }  # fmt: skip
    return TrainConfig(**{**usual, **changes})


def trained(base: Path, prepared: Path, out: Path, config: TrainConfig) -> dict[str, torch.Tensor]:
    """The weights of the result."""
    run_train(
        prepared_dir=prepared, out_dir=out, base=str(base), config=config, language="Hebrew", seed=5, score_dev=None,
        about={}, num_threads=1,
    )  # fmt: skip
    return load_recogniser(str(out / "final")).model.state_dict()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    write_rows(tmp_path / "prepared", "train", spoken(4, seed=1))
    return tmp_path / "prepared"


@pytest.mark.parametrize(
    ("parts", "changes"),
    [
        (("cross_attention", "decoder.layers[1:2]", "decoder.norm"), {}),
        (("encoder.conv", "encoder.layers[1:2]", "encoder.norm"), {}),
        (("embeddings", "decoder.positions"), {}),
        (("head",), {"untie_head": True}),
        (("lora",), {"lora": LoraSettings(part="decoder.layers", rank=2, alpha=4)}),
    ],
)
def test_what_is_named_moves_and_the_rest_keeps_its_bits(parts, changes, prepared: Path, tmp_path: Path):
    base = save_whisper(tmp_path / "base")
    phase = PhaseConfig(name="B", num_epochs=1, lr_by_part=dict.fromkeys(parts, 1e-3), warmup_steps=0)
    after = trained(base, prepared, tmp_path / "out", settings(phases=(phase,), **changes))
    loaded = load_recogniser(str(base))
    if changes.get("untie_head"):
        loaded.family.untie_head(loaded.model)
    before = loaded.model.state_dict()
    moved = {name for name in before if not before[name].equal(after[name])} - {"proj_out.weight"}
    wanted = {name for part in parts if part not in ("lora", "head") for name in select(loaded.model, part)}
    if "lora" in parts:  # merged; an adapter's B starts at 0 and moves in the first step
        attentions = [f"model.decoder.layers.{i}.{kind}_attn" for i in range(2) for kind in ("self", "encoder")]
        wanted = {f"{module}.{name}_proj.weight" for module in attentions for name in ("q", "k", "v", "out")}
    assert moved == wanted - {name for name in wanted if name.endswith("k_proj.bias")}
    assert before["proj_out.weight"].equal(after["proj_out.weight"]) == (parts[0] not in ("head", "embeddings"))


def test_one_pack_or_two_with_kept_states_are_the_same_training(prepared: Path, tmp_path: Path, monkeypatch):
    base, found, encoded, plain = save_whisper(tmp_path / "base"), {}, Counter(), packed.encoder_states

    def counting(model, features):
        encoded[name] += len(features)
        return plain(model, features)

    monkeypatch.setattr(packed, "encoder_states", counting)
    phase = PhaseConfig(name="B", num_epochs=2, lr_by_part=DECODER, warmup_steps=0)
    # 4 utterances of 1,500 states and a dozen tokens
    for name, changes in {"one": {"pack_tokens": 7000}, "two": {"pack_tokens": 3500, "encoder_cache": True}}.items():
        trained(base, prepared, tmp_path / name, settings(phases=(phase,), **changes))
        found[name] = [row["loss"] for row in read_jsonl(tmp_path / name / "metrics.jsonl")]
    assert len(found["one"]) == 2 and found["one"] == pytest.approx(found["two"], rel=1e-5)
    # the longest pack is tried before the first step; then two epochs, or one whose states the other reads
    assert encoded == {"one": 4 + 2 * 4, "two": 2 + 4}
    (states,) = (tmp_path / "two" / "encoder_cache").glob("*/states.bin")
    assert 4 * 1500 * 32 * 4 <= states.stat().st_size < 4 * 1510 * 32 * 4


def test_states_that_do_not_fit_the_disk_are_refused(prepared: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=700_000))
    with pytest.raises(RecipeError, match=r"needs 0\.0 GiB in .*make room, or set train\.encoder_cache to false"):
        trained(save_whisper(tmp_path / "base"), prepared, tmp_path / "out", settings(encoder_cache=True))


def test_what_would_save_no_memory_is_not_given_up(prepared: Path, tmp_path: Path, monkeypatch):
    """Every clip is 30 s of encoder states, and cross-attention trains in the layers that a span would leave out."""

    def full(*args):
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(Transcribe, "loss", full)
    allowed = OutOfMemoryConfig(max_audio_s=1.1, decoder_layers=1)
    with pytest.raises(OutOfMemory) as error:
        trained(save_whisper(tmp_path / "base"), prepared, tmp_path / "out", settings(on_out_of_memory=allowed))
    assert "so far: nothing; max_audio_s saves nothing: without audio over 1.1 s" in str(error.value)
    assert "decoder_layers narrows nothing in phase B: cross_attention trains in every layer" in str(error.value)


def test_a_base_that_draws_at_random_is_refused_before_anything_is_scored(prepared: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"sets attention_dropout 0\.1 and apply_spec_augment True, which training"):
        base = save_whisper(tmp_path / "base", attention_dropout=0.1, apply_spec_augment=True)
        trained(base, prepared, tmp_path / "out", settings())
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.fixture
def reader_of(prepared: Path, tmp_path: Path):
    """Rows to a reader of their packs, and its utterances."""
    loaded = load_recogniser(str(save_whisper(tmp_path / "base")))
    targets = loaded.family.targets(loaded.tokenizer, Prompt("Hebrew"))

    def made(utterances, augment: AugmentConfig | None = None, **changes) -> tuple[PackReader, list[TrainExample]]:
        write_rows(prepared, "train", utterances, **changes)
        examples, _ = read_examples(prepared, "train", loaded.family, targets, max_tokens=1948)
        return PackReader(loaded.family, targets.frame, loaded.extractor, augment=augment), examples

    return made


def lasting(seconds: float, text: str = "בית") -> tuple[dict, np.ndarray]:
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(16000 * seconds))
    return {"id": "one", "text": text, "recording": "r", "speaker": "s"}, samples.astype(np.float32)


def test_a_clip_of_another_length_than_its_table_says_is_named(reader_of):
    reader, examples = reader_of([lasting(1.0)], duration_s=1.2)
    with pytest.raises(DataError, match=r"'one': the table says 1\.20 s but its audio has 1\.00 s"):
        reader.pack(examples)
    reader, examples = reader_of([lasting(30.02)], duration_s=30.0)
    with pytest.raises(DataError, match=r"'one': its audio has 30\.020 s and a Whisper takes 30 s at most.*cut it"):
        reader.pack(examples)


def test_no_speed_makes_a_clip_longer_than_the_window(reader_of):
    augment = AugmentConfig(speeds=(0.9, 1.0, 1.1))
    for seconds, speeds in ((29.0, {1.0, 1.1}), (3.0, {0.9, 1.0, 1.1})):
        reader, examples = reader_of([lasting(seconds)], augment)
        assert {reader._decoder.augmentation(examples[0], epoch).speed for epoch in range(40)} == speeds
        assert reader.longest_pack(examples).features.shape == (1, 80, 3000)


def test_masks_lie_on_what_is_heard(reader_of):
    config = {"share": 1.0, "num_time_masks": 2, "max_time_frac": 0.2, "num_bin_masks": 0}
    reader, examples = reader_of([lasting(2.0)], AugmentConfig(spec_augment=SpecAugmentConfig(**config)))
    blank = [(reader.pack(examples, epoch).features == 0).all(dim=1)[0].nonzero() for epoch in range(12)]
    assert sum(map(len, blank)) > 60 and max(int(own.max()) for own in blank if len(own)) < 200


@pytest.mark.slow("train", seconds=10)
def test_a_round_of_it(tmp_path: Path):
    base, rows = save_whisper(tmp_path / "base"), []
    for about, samples in spoken(2, seed=3):
        sf.write(tmp_path / f"{about['id']}.wav", samples, 16000)
        rows.append({**about, "audio": f"{about['id']}.wav"})
    write_jsonl(tmp_path / "new.jsonl", rows)
    whole = {**DECODER, "encoder.conv": 1e-3, "encoder.layers": 1e-3, "embeddings": 1e-3}
    phases = [
        {"name": "B", "num_epochs": 2, "lr_by_part": DECODER}, {"name": "A", "num_epochs": 1, "lr_by_part": whole},
    ]  # fmt: skip
    changes = [
        f"models={{base: {base}, baseline: {base}}}",
        f"evaluate.sets=[{{name: new, manifest: {tmp_path}/new.jsonl}}]",
        f"train={{phases: {phases}, lora: null, untie_head: false, precision: fp32, utterances_per_step: 4, "
        "encoder_cache: true}",
        "num_threads=1",
    ]
    with open_round(load_recipe("demo", changes), tmp_path / "run", "run", lambda sentence: None) as current:
        folder: RunFolder = current.folder
        stage = folder.stage("prepare", {})
        for split, count in (("train", 4), ("dev", 2)):
            write_rows(folder.prepared, split, spoken(count, seed=count))
        stage.finish()
        result = stages.do_train(current)
        scores = scoring.do_evaluate(current, scoring.candidates_of(current))
        compared = scoring.do_compare(current)
    metrics = read_jsonl(folder.train / "metrics.jsonl")
    assert [row["phase"] for row in metrics] == ["B", "B", "A"] and metrics[-1]["loss"] < metrics[0]["loss"]
    assert len(result.dev) == 4 and set(scores) == {"round1", "round2"} and compared.overall.wer is not None
    plan = Plan.read(folder.plan)
    assert plan.training_set.tokens == metrics[0]["tokens"] > 4 * 1500 and plan.encoder_cache_gib is not None
    WhisperForConditionalGeneration.from_pretrained(folder.final)


def test_the_loss_a_label_of_a_whisper_is_that_of_each_utterance_alone(reader_of, tmp_path: Path):
    """A pack of a Whisper has another layout: labels of one utterance must not count for another there either."""
    _, examples = reader_of(spoken(4, seed=1))
    loaded = load_recogniser(str(tmp_path / "base"))
    together = label_losses(loaded, examples, "Hebrew")
    alone = [label_losses(loaded, [example], "Hebrew")[0] for example in examples]
    assert [(one.id, one.labels) for one in together] == [(one.id, one.labels) for one in alone]
    assert [one.loss for one in together] == pytest.approx([one.loss for one in alone], rel=1e-4)
    assert len({round(one.loss, 3) for one in together}) > 1
