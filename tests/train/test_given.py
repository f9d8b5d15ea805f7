"""Previous texts and timestamps in training: protects from labels on what is given, and from draws of chance."""

from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from real_models import real_model
from tokenizers import AddedToken
from transformers import WhisperTokenizer
from whisper_models import save_whisper

from shibolet.errors import RecipeError
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.protocols import Prompt
from shibolet.model.qwen3_asr.outline import OUTLINE as QWEN
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt as QwenPrompt
from shibolet.model.whisper.outline import OUTLINE as WHISPER
from shibolet.model.whisper.prompt import MAX_CONTEXT_TOKENS
from shibolet.records.files import read_jsonl
from shibolet.speech.audio import encode_flac
from shibolet.train.config import (
    AugmentConfig,
    OptimizerConfig,
    PauseConfig,
    PhaseConfig,
    Replay,
    ReplaySource,
    TrainConfig,
)
from shibolet.train.data import TrainExample, read_examples
from shibolet.train.fingerprint import fingerprint_of
from shibolet.train.given import Drawing
from shibolet.train.reader import PackReader
from shibolet.train.replay import read_replay
from shibolet.train.stage import Reached, run_train

ROWS = [  # text, what was said before, text between timestamps
    ("שלום עולם", "בית. ספר גדול", "<|0.00|> שלום<|0.40|><|0.52|> עולם<|1.00|>"),
    ("the sea is blue", None, "<|0.10|> the sea is blue<|0.90|>"),
    ("בית", "הילד הלך אל הים", None),
    ("ספר גדול על השולחן", None, None),
]
TIMES = [AddedToken(f"<|{number / 50:.2f}|>", normalized=False) for number in range(1501)]
PHASE = PhaseConfig(name="B", num_epochs=2, lr_by_part={"decoder.layers": 1e-3, "decoder.norm": 1e-3}, warmup_steps=0)


def settings(**changes) -> TrainConfig:
    usual = {
        "phases": (PHASE,), "lora": None, "optimizer": OptimizerConfig(), "utterances_per_step": 2,
        "precision": "fp32", "untie_head": False, "eval_every_epoch": False, "checkpoint_every_steps": 2,
    }  # fmt: skip
    return TrainConfig(**{**usual, **changes})


def write_rows(folder: Path, rows=ROWS) -> Path:
    """A shard of a second of noise for each row."""
    rng, table = np.random.default_rng(1), []
    for number, (text, previous, timed) in enumerate(rows):
        audio = {"bytes": encode_flac((0.1 * rng.standard_normal(16000)).astype(np.float32)), "path": None}
        row = {"id": f"u{number}", "audio": audio, "text": text, "duration_s": 1.0, "previous": previous}
        table.append({**row, "timed_text": timed})
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(table), folder / "train-00000.parquet")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_whisper(tmp_path / "base")


@pytest.fixture
def loaded(base: Path) -> LoadedModel:
    return load_recogniser(str(base))


def examples_of(
    loaded: LoadedModel, folder: Path, config: TrainConfig | None = None, max_tokens: int = 1948, rows=ROWS
) -> tuple[list[TrainExample], PackReader]:
    """Utterances with their forms, and what reads them."""
    config = config or settings(previous_text_frac=1.0, timestamps_frac=1.0)
    targets = loaded.family.targets(loaded.tokenizer, Prompt("Hebrew"))
    drawing = Drawing.of(config, loaded.family, seed=5)
    prepared = write_rows(folder / "prepared", rows)
    examples, _ = read_examples(prepared, "train", loaded.family, targets, max_tokens, drawing=drawing)
    return examples, PackReader(loaded.family, targets.frame, loaded.extractor, augment=config.augment, seed=5)


def said_by_transformers(tokenizer: WhisperTokenizer, text: str, previous: str | None, timed: str | None) -> list[int]:
    """The whole sequence as transformers' own tokenizer makes it, its end included."""
    tokenizer.set_prefix_tokens(language="he", task="transcribe", predict_timestamps=timed is not None)
    ids = tokenizer(timed or f" {text}").input_ids
    ids[1] = tokenizer.convert_tokens_to_ids("<|he|>")  # transformers counts on in its list, of which a tiny one has 4
    return [*(tokenizer.get_prompt_ids(previous).tolist() if previous else []), *ids]


@pytest.mark.parametrize("name", ["tiny", "whisper-base"])
def test_the_loss_and_the_tokens_are_those_of_transformers(name: str, tmp_path: Path):
    """Labels lie on the text with its timestamps and its end; -100 on the previous text and the rest of the prompt."""
    loaded = load_recogniser(str(save_whisper(tmp_path / "base") if name == "tiny" else real_model(name)))
    loaded.tokenizer.add_tokens(TIMES)
    examples, reader = examples_of(loaded, tmp_path)
    drawn = [example.in_epoch(0) for example in examples]
    pack, summed, count = reader.pack(drawn), 0.0, 0
    starts = pack.cu_seqlens.tolist()
    for number, (text, previous, timed) in enumerate(ROWS):
        expected = said_by_transformers(loaded.tokenizer, text, previous, timed)
        assert pack.input_ids[starts[number] : starts[number + 1]].tolist() == expected[:-1]
        first = expected.index(loaded.tokenizer.convert_tokens_to_ids("<|transcribe|>")) + (1 if timed else 2)
        labels = torch.tensor([[-100] * (first - 1) + expected[first:]])
        given = {
            "input_features": pack.features[number : number + 1],
            "decoder_input_ids": torch.tensor([expected[:-1]]),
        }
        with torch.inference_mode():
            mean = loaded.model(**given, labels=labels).loss.item()
        summed, count = summed + mean * (labels != -100).sum().item(), count + (labels != -100).sum().item()
        assert drawn[number].num_targets == (labels != -100).sum()
    with torch.inference_mode():
        logits = loaded.family.logits(loaded.model, pack)
    assert torch.nn.functional.cross_entropy(logits, pack.labels).item() == pytest.approx(summed / count, rel=1e-5)
    assert len(pack.labels) == count and pack.num_tokens == sum(one.num_tokens for one in drawn)
    tokens = loaded.tokenizer.convert_ids_to_tokens(drawn[0].text_ids)
    assert [token for token in tokens if token.startswith("<|")] == ["<|0.00|>", "<|0.40|>", "<|0.52|>", "<|1.00|>"]


@pytest.mark.parametrize("name", ["whisper-base", "whisper-tiny.en"])
def test_the_tokens_of_real_tokenizers_are_those_of_transformers(name: str, tmp_path: Path):
    tokenizer = WhisperTokenizer.from_pretrained(real_model(name))  # of CTranslate2's files, which lack the last tokens
    tokenizer.add_tokens(TIMES)
    assert len(tokenizer) == (51_864 if name.endswith("en") else 51_865)
    targets = WHISPER.targets(tokenizer, Prompt("English"))
    rows, drawing = [row for row in ROWS if row[2]], Drawing(1.0, 1.0, 0, None)
    found = [
        [*frame.prompt, *frame.with_times(beside.segments), frame.end_id]
        for beside in drawing.beside([row[1:] for row in rows], targets)
        for frame in [targets.frame.given(beside.previous_ids, True)]
    ]
    asked = {} if name.endswith("en") else {"language": "en", "task": "transcribe"}
    tokenizer.set_prefix_tokens(**asked, predict_timestamps=True)
    before = [tokenizer.get_prompt_ids(previous).tolist() if previous else [] for _, previous, _ in rows]
    expected = [[*own, *tokenizer(timed).input_ids] for own, (*_, timed) in zip(before, rows)]
    assert found == expected and len(found) == 2


def test_a_draw_follows_from_seed_epoch_and_utterance_alone(loaded: LoadedModel, tmp_path: Path):
    rows = [(f"{text} {n}", previous, timed) for n in range(50) for text, previous, timed in ROWS[:1]]
    examples, reader = examples_of(loaded, tmp_path, settings(previous_text_frac=0.3, timestamps_frac=0.7), rows=rows)
    plain = min(one.in_epoch(e).num_tokens for one in examples for e in range(20))
    drawn = [[one.in_epoch(epoch) for one in examples] for epoch in range(10)]
    starts = [[(len(one.frame.prompt) > 4, one.num_targets) for one in epoch] for epoch in drawn]
    found = [flag for epoch in starts for flag, _ in epoch]
    assert 0.25 < np.mean(found) < 0.35 and len({str(epoch) for epoch in starts}) == 10
    timed = [one.text_ids != examples[0].forms.text_ids and len(one.text_ids) for epoch in drawn for one in epoch]
    assert len(timed) == 500
    times = [sum(id > one.frame.end_id for id in one.text_ids) for epoch in drawn for one in epoch]  # timestamps follow
    assert set(times) == {0, 4} and 0.65 < np.mean([bool(n) for n in times]) < 0.75
    again = [examples[u].in_epoch(3) for u in reversed(range(50))][::-1]
    assert again == drawn[3]
    for one in (one for epoch in drawn for one in epoch):
        assert plain <= one.num_tokens <= examples[0].num_tokens + 8 and one.forms is None
    longest = reader.longest_pack(examples[:3])
    assert longest.num_tokens == sum(one.num_tokens for one in examples[:3])
    assert all(one.num_tokens >= epoch[u].num_tokens for epoch in drawn for u, one in enumerate(examples))


def test_what_has_no_room_is_cut_at_its_start_or_never_drawn(loaded: LoadedModel, tmp_path: Path):
    """As Whisper's own code cuts: 223 tokens of what was said before, fewer beside a long text; a target never."""
    long = " ".join(["ים"] * 300)
    rows = [("בית", long, None), ("בית", long, f"<|0.00|> {' '.join(['בית'] * 9)}<|1.00|>")]
    (one, _), _ = examples_of(loaded, tmp_path, rows=rows)
    ids = loaded.tokenizer.get_prompt_ids(long).tolist()
    assert list(one.in_epoch(0).frame.prompt[:-4]) == [ids[0], *ids[-MAX_CONTEXT_TOKENS:]]
    plain = one.family.num_audio_tokens(3000) + 4 + len(one.forms.text_ids)
    (cut, untimed), _ = examples_of(loaded, tmp_path, max_tokens=plain + 6, rows=rows)
    assert list(cut.in_epoch(0).frame.prompt[:-4]) == [ids[0], *ids[-5:]] and cut.num_tokens == plain + 6
    assert untimed.forms.segments == () and untimed.in_epoch(0).text_ids == untimed.forms.text_ids


def test_faster_speech_has_earlier_times(loaded: LoadedModel, tmp_path: Path):
    config = settings(augment=AugmentConfig(speeds=(0.8, 1.25)), previous_text_frac=0.0, timestamps_frac=1.0)
    examples, reader = examples_of(loaded, tmp_path, config)
    made = {}
    for epoch in range(12):
        drawn = examples[1].in_epoch(epoch)
        tokens = loaded.tokenizer.convert_ids_to_tokens(drawn.text_ids)
        made[reader._decoder.augmentation(examples[1], epoch).speed] = (tokens[0], tokens[-1])
        assert reader.lengths([drawn], epoch) == [examples[1].num_tokens]
    assert made == {0.8: ("<|0.12|>", "<|1.12|>"), 1.25: ("<|0.08|>", "<|0.72|>")}


def test_speech_after_a_pause_has_later_times(loaded: LoadedModel, tmp_path: Path):
    augment = AugmentConfig(pauses=PauseConfig(share=0.7, most_s=2.0))
    config = settings(augment=augment, previous_text_frac=0.0, timestamps_frac=1.0)
    examples, reader = examples_of(loaded, tmp_path, config)
    later_s = set()
    for epoch in range(12):
        tokens = loaded.tokenizer.convert_ids_to_tokens(examples[1].in_epoch(epoch).text_ids)
        before, _ = reader._decoder.augmentation(examples[1], epoch).pauses
        first_s, last_s = (float(token.strip("<|>")) - at_s for token, at_s in ((tokens[0], 0.1), (tokens[-1], 0.9)))
        assert abs(first_s - before / 16_000) <= 0.0101 and abs(last_s - before / 16_000) <= 0.0101
        later_s.add(round(first_s, 1))
    assert 0.0 in later_s and max(later_s) > 1.0


def test_only_what_is_drawn_makes_another_training(loaded: LoadedModel, tmp_path: Path):
    """A recipe that says nothing has the fingerprint of trainings before; the text before and the times are data."""
    config = settings()
    assert not {"previous_text_frac", "timestamps_frac"} & config.identity().keys()
    assert settings(timestamps_frac=0.5).identity()["timestamps_frac"] == 0.5
    augment = AugmentConfig(speeds=(0.9, 1.1))
    assert "pauses" not in settings(augment=augment).identity()["augment"]
    paused = augment.model_copy(update={"pauses": PauseConfig()})
    assert settings(augment=paused).identity()["augment"]["pauses"] == {"share": 0.5, "most_s": 1.0}
    assert Drawing.of(config, WHISPER, 0) == Drawing(0.5, 0.5, 0, None) and Drawing.of(config, QWEN, 0) is None
    rows = [ROWS[0], (ROWS[0][0], "אחר", ROWS[0][2]), (ROWS[0][0], *ROWS[0][:1], ROWS[0][2].replace("0.40", "0.42"))]
    made = [examples_of(loaded, tmp_path, rows=[row])[0] for row in [*rows, (ROWS[0][0], None, None)]]
    prints = [fingerprint_of(loaded, some, config, "Hebrew", 0)["training data"] for some in made]
    assert len(set(prints)) == 4
    without = [replace(one, forms=None, frame=None) for one in made[0]]
    assert prints[3] == fingerprint_of(loaded, without, config, "Hebrew", 0)["training data"]


def train(base: Path, prepared: Path, out: Path, config: TrainConfig, until: int | None = None) -> list[dict]:
    run_train(
        prepared_dir=prepared, out_dir=out, base=str(base), config=config, language="Hebrew", seed=5, score_dev=None,
        about={}, num_threads=1, until_step=until,
    )  # fmt: skip
    return [{key: row[key] for key in ("loss", "tokens", "targets")} for row in read_jsonl(out / "metrics.jsonl")]


def test_a_training_that_was_stopped_draws_the_same(base: Path, tmp_path: Path):
    """Cut off within an epoch and continued, other packs and no kept encoder states: the same losses."""
    prepared, kept = write_rows(tmp_path / "prepared", ROWS[:3]), settings(encoder_cache=True)
    whole = train(base, prepared, tmp_path / "whole", kept)
    with pytest.raises(Reached):
        train(base, prepared, tmp_path / "cut", kept, until=1)
    assert train(base, prepared, tmp_path / "cut", settings(pack_tokens=1800)) == [
        {**row, "loss": pytest.approx(row["loss"], rel=1e-5)} for row in whole
    ]
    assert len(whole) == 4 and len({(row["tokens"], row["targets"]) for row in whole[::2]}) > 1  # epochs differ


def test_a_qwen_has_the_text_before_as_context_and_no_timestamps():
    """Token for token what `Prompt.context` says, with a style and without; in no epoch unless the recipe asks."""
    tokenizer, said = QWEN.tokenizer("builtin:round1"), "מה שנאמר קודם"
    for style in ("", "no punctuation"):
        frame = QwenPrompt(tokenizer, Prompt("Hebrew", style=style)).frame
        (ids,) = QwenPrompt(tokenizer, "Hebrew").encode([said])
        assert list(frame.given(ids, False).before) == QwenPrompt(tokenizer, Prompt("Hebrew", said, style)).frame.before
        assert frame.given((), False) == frame
    with pytest.raises(RecipeError, match=r"train\.timestamps_frac is 0\.5, and a Qwen3-ASR writes no timestamps"):
        Drawing.of(settings(timestamps_frac=0.5), QWEN, 0)
    assert Drawing.of(settings(previous_text_frac=0.2), QWEN, 0) == Drawing(0.2, 0.0, 0, None)


def test_shards_of_an_earlier_version_have_neither(loaded: LoadedModel, tmp_path: Path):
    prepared = write_rows(tmp_path / "prepared")
    table = pq.read_table(prepared / "train-00000.parquet").drop_columns(["previous", "timed_text"])
    pq.write_table(table, prepared / "train-00000.parquet")
    targets = loaded.family.targets(loaded.tokenizer, Prompt("Hebrew"))
    drawing = Drawing(1.0, 1.0, 0, None)
    examples, _ = read_examples(prepared, "train", loaded.family, targets, 1948, drawing=drawing)
    assert [one.forms for one in examples] == [None] * 4
    assert examples[0].text_ids == array("i", targets.encode([ROWS[0][0]])[0])


def test_what_is_replayed_has_its_previous_texts_and_timestamps(loaded, tmp_path):
    """In the prompt of its own language, as if it were the training's own; and it is another training without them."""
    folder = write_rows(tmp_path / "replayed")
    replay = Replay(share=0.5, sources=(ReplaySource(prepared_dir=folder, language="English"),))
    drawing = Drawing.of(settings(previous_text_frac=1.0, timestamps_frac=1.0), loaded.family, seed=5)
    made, plain = (read_replay(replay, loaded.family, loaded.tokenizer, 1948, (), one) for one in (drawing, None))
    targets = loaded.family.targets(loaded.tokenizer, Prompt("English"))
    alone, _ = read_examples(folder, "train", loaded.family, targets, 1948, drawing=drawing)
    drawn = [one.in_epoch(0) for one in made.examples]
    for one, other in zip(drawn, (one.in_epoch(0) for one in alone), strict=True):
        assert (one.num_tokens, list(one.text_ids)) == (other.num_tokens, list(other.text_ids))
        assert one.frame == (other.frame or targets.frame) and one.replayed_in == "English"
    assert [one.forms is not None for one in made.examples] == [True, True, True, False]
    assert made.fingerprint() != plain.fingerprint() and not any(one.forms for one in plain.examples)
