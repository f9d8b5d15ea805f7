"""The loss a label: the training's own loss, utterance by utterance, and a training that stops where it is told."""

import math
from pathlib import Path

import pytest
import torch
from tiny_run import outcome, tiny_config

from shibolet.errors import DataError
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.train.checkpoint import CheckpointStore
from shibolet.train.data import TrainExample
from shibolet.train.label_loss import label_losses, with_audio_of_next
from shibolet.train.objective import TrainStep
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.reader import PackReader
from shibolet.train.stage import Reached, run_train, trained_to


def test_the_losses_are_those_that_training_would_have(loaded: LoadedModel, examples: list[TrainExample], prompt):
    """Protects from labels of one utterance counted for another in a pack, and from another loss than training's."""
    examples = examples[:6]
    found = label_losses(loaded, examples, "Hebrew")
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor)
    objective = Transcribe(FAMILY, fast=False)
    assert [one.id for one in found] == [example.id for example in examples]
    for example, one in zip(examples, found, strict=True):
        with torch.no_grad(), objective.context(loaded.model):
            alone = objective.loss(loaded.model, reader.pack([example]), TrainStep([example], 0.0)).total
        assert one.labels == example.num_targets
        assert math.isclose(one.loss, float(alone), rel_tol=1e-4)


def test_no_utterance_to_measure_on_is_one_sentence(loaded: LoadedModel):
    """Where all of the choosing dev rows are too long, a search ended in a TypeError of max()."""
    with pytest.raises(DataError, match="no utterance is left to measure a loss on"):
        label_losses(loaded, [], "Hebrew")


def test_texts_with_other_audio_keep_their_labels(loaded: LoadedModel, examples: list[TrainExample]):
    """The control compares the same labels; lengths that do not fit the audio would be refused by the reader."""
    moved = with_audio_of_next(examples)
    assert [m.text for m in moved] == [e.text for e in examples] and moved[0].audio == examples[1].audio
    right, wrong = label_losses(loaded, examples, "Hebrew"), label_losses(loaded, moved, "Hebrew")
    assert [one.labels for one in wrong] == [one.labels for one in right]
    assert any(abs(a.loss - b.loss) > 1e-6 for a, b in zip(right, wrong, strict=True))


def test_stopped_at_a_step_and_gone_on_it_is_the_same_training(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    """What a trial trained is a part of the training that its settings make, so the winner's steps are not lost."""

    def train(out: Path, until: int | None = None):
        return run_train(
            prepared_dir=prepared_dir, out_dir=out, base=str(base_dir), config=tiny_config(), language="Hebrew", seed=5,
            score_dev=None, about={}, num_threads=1, until_step=until,
        )  # fmt: skip

    train(tmp_path / "whole")
    for until in (4, 5):
        with pytest.raises(Reached):
            train(tmp_path / "parts", until)
        store = CheckpointStore(tmp_path / "parts" / "checkpoints")
        assert store.steps()[-1] == until
        model = trained_to(str(base_dir), tiny_config(), 5, store, until).model
        weights = dict(model.named_parameters())
        assert all(torch.equal(weights[name], kept) for name, kept in store.at(until).weights().items())
    assert train(tmp_path / "parts").steps == 6
    parts, whole = outcome(tmp_path / "parts"), outcome(tmp_path / "whole")
    assert not [name for name in whole if "final" in name and parts[name] != whole[name]]
