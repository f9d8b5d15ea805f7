"""Objectives beyond the references where prompts differ: a replayed utterance is written, taught and scored in its own
language, and a prompt or text that changes from epoch to epoch is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_trainer import rows, run
from tiny_run import make_rows, outcome, save_base, tiny_config, write_shard
from whisper_models import save_whisper

from shibolet.errors import RecipeError
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.protocols import Draw, Prompt
from shibolet.model.whisper.outline import OUTLINE as WHISPER
from shibolet.records.documents.training import DevRates
from shibolet.train.config import ContextConfig, PhaseConfig, Replay, ReplaySource, TrainConfig
from shibolet.train.data import TrainExample, read_examples
from shibolet.train.given import Drawing
from shibolet.train.objective import TrainStep
from shibolet.train.objectives.config import DistilConfig, MinWerConfig
from shibolet.train.objectives.cost import notes_on_objectives
from shibolet.train.objectives.given import Given
from shibolet.train.objectives.min_wer import MinWer
from shibolet.train.objectives.on_policy import OnPolicy
from shibolet.train.objectives.own_texts import Writer, recorded
from shibolet.train.reader import PackReader
from shibolet.train.replay import read_replay
from shibolet.train.stage import Reached
from shibolet.train.teacher_cache import TeacherCache

RATES = {"projector": 1e-3, "decoder.layers[2:4]": 1e-3, "head": 1e-3}
SETTINGS = {"distil": DistilConfig(top_k=5, likelihood_weight=0.3), "min_wer": MinWerConfig(num_samples=2)}


def config_of(*objectives: str, **changes) -> TrainConfig:
    """A phase of each objective."""
    phases = tuple(PhaseConfig(name=one, num_epochs=1, lr_by_part=RATES, objective=one) for one in objectives)
    usual = {"distil": SETTINGS["distil"]} if {"distil", "on_policy"} & {*objectives} else {}
    usual |= {"min_wer": SETTINGS["min_wer"]} if "min_wer" in objectives else {}
    return tiny_config(**{"phases": phases, "lora": None, "utterances_per_step": 4, **usual, **changes})


@pytest.fixture(scope="module")
def replay(tmp_path_factory) -> Replay:
    """A quarter of each step, from three utterances of English."""
    folder = tmp_path_factory.mktemp("english")
    made = [row | {"id": f"english/{row['id']}", "text": "it's good"} for row in make_rows(3, seed=9, high_s=1.0)]
    write_shard(folder / "train-00000.parquet", made)
    return Replay(share=0.25, sources=(ReplaySource(prepared_dir=folder, language="English"),))


@pytest.fixture(scope="module")
def few_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("few")
    write_shard(path / "train-0.parquet", make_rows(6, seed=2, high_s=1.0))
    return path


@pytest.fixture(params=["qwen", "whisper"])
def both(request, tmp_path: Path, few_dir: Path, replay) -> tuple[LoadedModel, LoadedModel, list[TrainExample]]:
    """A student and a teacher of each family; two Hebrew utterances and an English one, which is replayed."""
    save = save_base if request.param == "qwen" else save_whisper
    student, teacher = (load_recogniser(str(save(tmp_path / name, seed))) for seed, name in enumerate("st"))
    family, most = student.family, student.family.max_tokens(student.model.config)
    targets = family.targets(student.tokenizer, Prompt("Hebrew"))
    own, _ = read_examples(few_dir, "train", family, targets, most)
    return student, teacher, [*own[:2], read_replay(replay, family, student.tokenizer, most, own).examples[0]]


def reader_of(loaded: LoadedModel, language: str) -> PackReader:
    frame = loaded.family.targets(loaded.tokenizer, Prompt(language)).frame
    return PackReader(loaded.family, frame, loaded.extractor, needs=MinWer.needs)


def alone_in(loaded: LoadedModel, example: TrainExample, language: str) -> TrainExample:
    """A replayed utterance as one of a training in that language."""
    frame, family = loaded.family.targets(loaded.tokenizer, Prompt(language)).frame, loaded.family
    num_text, num_audio_tokens = len(example.text_ids), family.num_audio_tokens(example.num_frames)
    num_tokens, num_targets = frame.num_tokens(num_audio_tokens, num_text), frame.num_targets(num_text)
    return replace(example, frame=None, replayed_in="", num_tokens=num_tokens, num_targets=num_targets)


def test_the_teacher_is_asked_in_the_language_of_each_utterance(both, tmp_path: Path):
    """As if each were alone in a training of its language; in another language its distributions are other ones."""
    _, teacher, examples = both

    def kept(some: list[TrainExample], language: str, name: str) -> torch.Tensor:
        cache = TeacherCache(tmp_path / name, "t", language, some, 5, 0.1, is_main=True, wait=lambda: None)
        assert not cache.is_whole
        cache.fill(teacher, teacher.family.targets(teacher.tokenizer, Prompt(language)).frame)
        return cache.read(some[-1:]).probs[-3:]

    english, hebrew = (alone_in(teacher, examples[-1], language) for language in ("English", "Hebrew"))
    mixed = kept(examples, "Hebrew", "a")
    torch.testing.assert_close(mixed, kept([english], "English", "b"), rtol=1e-2, atol=1e-5)  # float16
    other = kept([hebrew], "Hebrew", "b")  # under a key of its own: `b` was whole in English
    assert (mixed / other).log().abs().max() > 0.05


@pytest.mark.parametrize("objective", [OnPolicy, MinWer])
def test_own_texts_of_a_replayed_utterance_stand_in_its_prompt(both, objective, monkeypatch):
    """A mixed pack loses what its utterances lose in trainings of their languages; errors by their normalisers."""
    student, teacher, examples = both

    class Taught:
        loaded = teacher

    def drawn(self: Writer, some: list[TrainExample], clips: list, step: int) -> list[tuple[Draw, ...]]:
        targets = student.family.targets(student.tokenizer, Prompt("Hebrew"))
        encoded = [targets.encode([one.text, "it is good", "בית"]) for one in some]
        return [tuple(Draw([*ids, targets.frame.end_id], 0.0, "end") for ids in texts) for texts in encoded]

    def loss(some: list[TrainExample], language: str) -> float:
        given = Given(student, config_of("on_policy", "min_wer"), language, 0, Taught())
        made, pack = objective(given), reader_of(student, language).pack(some)
        with torch.no_grad(), made.context(student.model):
            return made.loss(student.model, pack, TrainStep(some, 0.0)).total.item()

    monkeypatch.setattr(Writer, "write", drawn)
    apart = [
        loss(examples[:2], "Hebrew"),
        *(loss([alone_in(student, examples[-1], one)], one) for one in ("English", "Hebrew")),
    ]
    assert loss(examples, "Hebrew") == pytest.approx(apart[0] + apart[1], rel=1e-4)
    assert apart[2] != pytest.approx(apart[1], rel=2e-3)


def test_texts_are_written_in_the_language_and_style_of_each(both, monkeypatch):
    """Greedily: what a training of that language would write."""
    student, _, examples = both
    given = [Given(student, config_of("min_wer"), language, 3) for language in ("Hebrew", "English")]
    english, hebrew = (alone_in(student, examples[-1], language) for language in ("English", "Hebrew"))
    mixed, english, hebrew = (
        [draw.ids for draw in Writer(one, num=1, temperature=1.0).write(some, recorded(some), step=2)[-1]]
        for one, some in ((given[0], examples), (given[1], [english]), (given[0], [hebrew]))
    )
    assert mixed == english != hebrew


@pytest.mark.parametrize("objective", ["distil", "on_policy", "min_wer"])
@pytest.mark.parametrize(
    ("name", "value"), [("context", ContextConfig()), ("previous_text_frac", 0.5), ("timestamps_frac", 0.1)]
)
def test_what_changes_from_epoch_to_epoch_is_refused_beside_other_objectives(objective: str, name: str, value):
    """What a teacher expects is kept once, and texts are written in one prompt: for other labels it would be wrong."""
    with pytest.raises(RecipeError, match=f"train.{name} gives an utterance another prompt .* objective {objective}"):
        config_of("transcribe", objective, **{name: value})
    config_of("transcribe", **{name: value})
    if name != "context":
        config_of(objective, **{name: 0})


def test_what_a_family_draws_by_itself_is_not_drawn_and_the_plan_says_so():
    """Whisper's halves of previous texts and timestamps are a default, and no default may break a recipe."""
    config = config_of("transcribe", "min_wer")
    assert Drawing.of(config, WHISPER, 0) is None and Drawing.of(config_of("transcribe"), WHISPER, 0) is not None
    said = "a Whisper learns previous texts and timestamps where its data have them, but not in this training"
    assert notes_on_objectives(config, WHISPER)[-1].startswith(said)
    silent = config_of("min_wer", previous_text_frac=0, timestamps_frac=0), config_of("transcribe")
    assert not [note for one in silent for note in notes_on_objectives(one, WHISPER) if said in note]


def test_the_plan_says_what_the_rows_take_in_which_a_model_writes():
    """A GPU that the plan calls full enough would run out of memory."""
    for objective in ("on_policy", "min_wer"):
        notes = notes_on_objectives(config_of(objective), WHISPER)
        assert any("take up to 9% of the GPU's memory, which is not in the predicted memory" in note for note in notes)
    assert not notes_on_objectives(config_of("transcribe"), WHISPER)


@pytest.mark.slow("train", seconds=40)
def test_a_training_of_every_objective_replays_and_goes_on(base_dir, few_dir, tmp_path: Path, replay):
    """The same bytes after a stop in every phase; the phase of the likelihood tells its parts apart."""
    config = config_of("distil", "on_policy", "min_wer", "transcribe")
    teacher = save_base(tmp_path / "teacher", seed=1)
    dev = lambda loaded, when: DevRates(wer=0.1 if when == "of the teacher" else 0.9, cer=0.1)  # noqa: E731
    about = {"teacher": str(teacher), "score_dev": dev, "replay": replay}
    run(base_dir, few_dir, tmp_path / "whole", config, **about)
    for step in (1, 3, 5, 7):
        with pytest.raises(Reached):
            run(base_dir, few_dir, tmp_path / "cut", config, until_step=step, **about)
    run(base_dir, few_dir, tmp_path / "cut", config, **about)
    whole, cut = outcome(tmp_path / "whole"), outcome(tmp_path / "cut")
    assert len(whole["metrics"]) == 8 and whole["metrics"] == cut["metrics"]
    names = [name for name in whole if name.startswith("final/")]
    assert len(names) > 4 and all(whole[name] == cut[name] for name in names)
    told = [set(row["numbers"]) for row in rows(tmp_path / "whole")][::2]
    assert told == [{"divergence"}, {"divergence"}, {"expected_wer", "endless"}, {"own_loss", "replay_loss"}]
