"""Style words: protects from a source whose prompt says nothing, another's words, or more tokens than were counted."""

import io
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from tiny_run import make_rows, tiny_config, write_shard

from shibolet.errors import RecipeError
from shibolet.evaluate import dev
from shibolet.evaluate.config import EvaluateConfig, EvaluationSet
from shibolet.model.family import load_recogniser
from shibolet.model.protocols import Prompt, each_of
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.recipe import load_recipe
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.rounds import scoring
from shibolet.rounds.check import check_recipe
from shibolet.rounds.fit import misfits, untold_style
from shibolet.rounds.search.trials import SearchJob, carry_out, dev_examples
from shibolet.rounds.shared import open_round
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource
from shibolet.train.config import Replay, ReplaySource
from shibolet.train.data import Styles, read_examples
from shibolet.train.fingerprint import fingerprint_of
from shibolet.train.label_loss import label_losses
from shibolet.train.reader import PackReader, PackRequest
from shibolet.train.stage import Reached, run_train

STYLE = "no punctuation"


@pytest.fixture
def two_sources(prepared_dir, tmp_path):
    """The prepared shards, every second row of another source."""
    for shard in prepared_dir.glob("*.parquet"):
        table = pq.read_table(shard)
        names = ["plain" if row % 2 else "marked" for row in range(len(table))]
        pq.write_table(table.append_column("source", [names]), tmp_path / shard.name)
    return tmp_path


@pytest.fixture
def styles(loaded):
    return Styles.of({"plain": STYLE}, lambda style: FAMILY.targets(loaded.tokenizer, Prompt("Hebrew", style=style)))


def test_each_utterance_is_laid_out_in_the_prompt_of_its_source(two_sources, loaded, prompt, styles):
    """Token for token as if each were alone in a training with its prompt; labels are the same with and without."""
    examples, _ = read_examples(two_sources, "train", FAMILY, prompt, 4096, styles)
    plain, _ = read_examples(two_sources, "train", FAMILY, prompt, 4096)
    assert [one.style for one in examples[:4]] == ["", STYLE, "", STYLE]
    (said,) = prompt.encode([STYLE])
    assert [one.num_tokens - two.num_tokens for one, two in zip(examples[:2], plain[:2])] == [0, len(said)]
    assert examples[1].num_targets == plain[1].num_targets
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor)
    pack = reader.longest_pack(examples[:4])
    alone = [
        PackReader(FAMILY, styles.frames[STYLE] if one.style else prompt.frame, loaded.extractor).longest_pack(
            [replace(one, frame=None)]
        )
        for one in examples[:4]
    ]
    assert pack.input_ids.tolist() == torch.cat([one.input_ids for one in alone], dim=-1).tolist()
    assert pack.labels.tolist() == torch.cat([one.labels for one in alone], dim=-1).tolist()
    assert pack.num_tokens == sum(one.num_tokens for one in examples[:4])
    first = loaded.tokenizer.decode(alone[1].input_ids.flatten())
    assert f"system\n{STYLE}<|im_end|>" in first and STYLE not in loaded.tokenizer.decode(alone[0].input_ids.flatten())


def test_a_style_makes_another_training(two_sources, loaded, prompt, styles):
    recipe = load_recipe("demo", [])
    examples, _ = read_examples(two_sources, "train", FAMILY, prompt, 4096, styles)
    without, _ = read_examples(two_sources, "train", FAMILY, prompt, 4096)
    made = [fingerprint_of(loaded, some, recipe.train, "Hebrew", 0) for some in (examples, without)]
    assert {name for name in made[0] if made[0][name] != made[1][name]} == {"training data"}


def test_frames_are_as_many_as_utterances(prompt):
    assert each_of(prompt.frame, 2) == [prompt.frame] * 2
    with pytest.raises(ValueError, match="1 frames for 2 utterances"):
        each_of([prompt.frame], 2)


def test_marks_are_taken_out_of_a_source(tmp_path):
    """`punctuation: none` leaves numbers and gershayim as they are; a text of marks alone is a row without a text."""
    sf.write(tmp_path / "a.wav", np.zeros(8000, np.float32), 16_000)
    rows = ['{"audio": "a.wav", "text": "כן, צה\\"ל! 3.5?"}', '{"audio": "a.wav", "text": "..."}']
    (tmp_path / "m.jsonl").write_text("\n".join(rows), encoding="utf-8")
    source = DataSource(name="s", manifest=tmp_path / "m.jsonl", punctuation="none")
    utterances, ledger = read_source(source, tmp_path)
    assert [u.text for u in utterances] == ['כן צה"ל 3.5'] and [line.rule for line in ledger] == ["empty_text"]


def test_what_cannot_be_told_a_style_is_refused_before_a_round_begins():
    changes = [f"data.train.0.style={STYLE}", "models.base=openai/whisper-tiny"]
    (error,) = [error for error in misfits(load_recipe("demo", changes)) if "style of" in str(error)]
    assert "is a Whisper, which does not take a style" in str(error)
    assert not [error for error in misfits(load_recipe("demo", changes[:1])) if "style of" in str(error)]
    with pytest.raises(RecipeError, match=r"evaluate\.styles"):
        EvaluationSet(name="s", manifest="m.jsonl", style="x")
    with pytest.raises(RecipeError, match="a server does not take a style"):
        EvaluateConfig(styles={"baseline": "x"}, servers={"baseline": {"url": "http://localhost:1"}})


def test_a_style_that_nothing_was_trained_with_is_refused():
    """Misspelt, it would ask the result in a prompt that it never saw, and its score would be called its own."""
    trained = [f"data.train.0.style={STYLE}"]
    for styles, sentence in (
        (trained, "is the style of no source of data.train; did you mean 'no punctuation'"),
        ([], r"\(styles: none\)"),
    ):
        with pytest.raises(RecipeError, match=rf"evaluate\.styles\.candidate: 'no punctuatoin' .*{sentence}"):
            load_recipe("demo", [*styles, "evaluate.styles.candidate=no punctuatoin"])
    assert load_recipe("demo", [*trained, f"evaluate.styles.candidate={STYLE}"]).styles == {"synthetic": STYLE}
    load_recipe("demo", ["evaluate.styles.baseline=another model's own"])


def test_that_a_result_is_scored_without_any_style_it_knows_is_told(tmp_path, monkeypatch):
    """A choice where some sources have none, and a slip where all have one."""
    all_have, asked = f"data.train.0.style={STYLE}", f"evaluate.styles.candidate={STYLE}"
    some_have = ["data.train=[{name: a, manifest: a.jsonl, style: x}, {name: b, manifest: b.jsonl}]"]
    for changes in ([all_have, asked], some_have, []):
        assert untold_style(load_recipe("demo", changes)) is None
    recipe, told = load_recipe("demo", [all_have, "evaluate.sets=[{name: s, manifest: m.jsonl}]"]), []
    sentence = untold_style(recipe)
    assert f"every source of data.train has a style ({STYLE}), and {recipe.title} is scored without one" in sentence
    assert sentence in [one.found for one in check_recipe(recipe, tmp_path / "run").findings]
    monkeypatch.setattr(scoring, "do_audit_sets", lambda current: None)
    with open_round(recipe, tmp_path / "run", "evaluate", told.append) as current:
        monkeypatch.setattr(type(current), "sets", recipe.evaluate.sets)
        assert scoring.do_evaluate(current, ()) == {} and told == [f"evaluate: {sentence}"]


def test_requests_are_read_in_their_prompts(two_sources, loaded, prompt, styles):
    """Through the way that steps take, workers' copies included: a pack with audio has the words of its sources."""
    examples, _ = read_examples(two_sources, "train", FAMILY, prompt, 4096, styles)
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor)
    with FAMILY.packed(loaded.model):
        (pack,) = reader.read(loaded.model, [PackRequest(0, 0, 0, tuple(examples[:2]))])
    assert loaded.tokenizer.decode(pack.input_ids.flatten()).count(STYLE) == 1


def test_dev_is_asked_in_the_style_of_each_source(monkeypatch):
    """Protects a checkpoint from being chosen by how it writes when told nothing, and texts from changing rows."""
    asked = []

    class Writer:
        def __init__(self, loaded, language, *, style, **settings):
            self.style = style

        def transcribe(self, clips):
            asked.append((self.style, len(clips)))
            return [f"{len(clip)}{'' if self.style else '.'}" for clip in clips]

    monkeypatch.setattr(dev, "Transcriber", Writer)
    monkeypatch.setattr(dev, "encoder_is_frozen", lambda model: False)
    rows, loaded = rows_of_two_sources(), SimpleNamespace(model=torch.nn.Linear(1, 1), family=FAMILY)
    loaded.model.device = torch.device("cpu")
    scores = dev.dev_scorer(rows, "Hebrew", EvaluateConfig(), styles={"plain": STYLE})(loaded)
    assert asked == [(STYLE, 2), ("", 1)] and scores.wer.errors == 0
    asked.clear()
    scored = dev.transcribe_rows(loaded, rows, "Hebrew", EvaluateConfig(), {"plain": STYLE})
    assert asked == [(STYLE, 2), ("", 1)] and [row.words.errors for row in scored] == [0, 0, 0]


def rows_of_two_sources() -> list[dev.DevRow]:
    rows = []
    for i, source in enumerate(["plain", "marked", "plain"]):
        flac = io.BytesIO()
        sf.write(flac, np.zeros(8000 + i, np.float32), 16_000, format="FLAC")
        utterance = Utterance(id=f"u{i}", audio=AudioRef(path=""), text=str(8000 + i), duration_s=0.5, source=source)
        rows.append(dev.DevRow(utterance, flac.getvalue()))
    return rows


def test_the_losses_of_a_search_are_in_the_prompt_of_each_source(two_sources, loaded, prompt, styles):
    """Otherwise rates are chosen by how a model finds texts that it was never asked for like this."""
    examples, _ = read_examples(two_sources, "train", FAMILY, prompt, 4096, styles)
    plain, _ = read_examples(two_sources, "train", FAMILY, prompt, 4096)
    found, told_nothing = (label_losses(loaded, some[:4], "Hebrew") for some in (examples, plain))
    differ = [abs(one.loss - two.loss) > 1e-4 for one, two in zip(found, told_nothing, strict=True)]
    assert differ == [False, True, False, True]


def test_a_trial_goes_on_from_a_training_with_styles_and_replay(two_sources, base_dir, tmp_path, tmp_path_factory):
    """One without them is another training, which is refused, or is chosen for a prompt that nobody will use."""
    other = tmp_path_factory.mktemp("replayed")
    write_shard(other / "train-00000.parquet", [row | {"id": f"en/{row['id']}"} for row in make_rows(4, seed=8)])
    replay = Replay(share=0.25, sources=(ReplaySource(prepared_dir=other, language="English"),))
    shutil.copy(two_sources / "train-00000.parquet", two_sources / "dev-00000.parquet")
    common = {"prepared_dir": two_sources, "base": str(base_dir), "language": "Hebrew", "seed": 5, "num_threads": 1,
              "replay": replay}  # fmt: skip
    with pytest.raises(Reached):
        run_train(
            **common, out_dir=tmp_path / "train", config=tiny_config(), styles={"plain": STYLE}, score_dev=None,
            about={}, until_step=3,
        )  # fmt: skip
    job = SearchJob(
        **common, out_dir=tmp_path / "trial", train=tiny_config(), source=tmp_path / "train", shared_step=3,
        until_step=4, shares_cache=False, choosing=("u0000", "u0001"), styles={"plain": STYLE},
    )  # fmt: skip
    made = carry_out(job)
    assert made.why == "" and [id for id, *_ in made.losses] == ["u0000", "u0001"]
    assert [one.style for one in dev_examples(load_recogniser(str(base_dir)), job, job.choosing)] == ["", STYLE]
