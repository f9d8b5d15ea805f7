"""An objective is all that a training minimises: its loss, what divides it, what it needs, and what is recorded."""

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from test_trainer import rows, run, without_dropout
from tiny_run import tiny_config
from torch import nn

from shibolet.demo import tiny
from shibolet.errors import RecipeError
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.packed import Pack, build_pack, encoder_states
from shibolet.model.qwen3_asr.prompt import AlignmentPrompt, TranscriptionPrompt
from shibolet.recipe import load_recipe
from shibolet.train.config import TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.objective import Extras, PackLoss, TrainStep
from shibolet.train.objectives.align import Align
from shibolet.train.objectives.mixture import Mixture, Term
from shibolet.train.objectives.registry import OBJECTIVES
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.reader import PackReader


def length_of(example: TrainExample) -> Extras:
    return {"length": len(example.text)}


class LoudEncoder:
    """Half the squares of the encoder's output, a mean over utterances."""

    numbers: tuple[str, ...] = ("seen",)
    needs = staticmethod(length_of)

    def __init__(self) -> None:
        self.inside, self.extras = False, []

    def count(self, examples: Sequence[TrainExample]) -> int:
        return len(examples)

    @contextmanager
    def context(self, model: nn.Module) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def loss(self, model: nn.Module, pack: Pack, step: TrainStep) -> PackLoss:
        assert self.inside
        self.extras += [extras["length"] for extras in pack.extras]
        total = model.model.audio_tower.ln_post(pack.encoded).float().square().sum() / 2
        return PackLoss(total, {"seen": torch.tensor(float(pack.num_utterances))})


def halving(progress_frac: float) -> float:
    return 0.5 ** (1 + progress_frac)


def test_a_recipe_names_one_that_is_registered_and_no_other():
    assert get_args(TrainConfig.model_fields["objective"].annotation) == tuple(OBJECTIVES)
    assert load_recipe("demo", []).train.objective == "transcribe"
    with pytest.raises(RecipeError, match=r"train\.objective"):
        load_recipe("demo", ["train.objective=transcripe"])


def test_a_mixture_is_the_weighted_sum_of_the_means_and_the_encoder_runs_once(
    loaded, examples: list[TrainExample], prompt: TranscriptionPrompt, monkeypatch
):
    passes, plain = [], encoder_states
    counted = lambda *args: passes.append(1) or plain(*args)  # noqa: E731
    monkeypatch.setattr(type(FAMILY), "encode", staticmethod(counted))
    monkeypatch.setattr("shibolet.model.qwen3_asr.packed.encoder_states", counted)
    loud = LoudEncoder()
    mixture = Mixture(FAMILY, [Term("transcribe", Transcribe(FAMILY), lambda _: 1.0), Term("loud", loud, halving)])
    assert mixture.numbers == ("transcribe", "loud", "loud/seen")
    step = TrainStep(examples[:5], progress_frac=0.5)
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor, needs=mixture.needs)
    packs = [reader.pack(examples[:2]), reader.pack(examples[2:5])]
    with torch.no_grad(), mixture.context(loaded.model):
        found = [mixture.loss(loaded.model, pack, step) for pack in packs]
    assert len(passes) == 2 and not loud.inside
    assert loud.extras == [len(example.text) for example in examples[:5]]
    mean = {name: sum(pack.numbers[name].item() for pack in found) for name in mixture.numbers}
    assert mean["loud/seen"] == 5
    with torch.no_grad(), Transcribe(FAMILY).context(loaded.model):
        losses = sum(Transcribe(FAMILY).loss(loaded.model, pack, step).total.item() for pack in packs)
    assert mean["transcribe"] == pytest.approx(losses / sum(example.num_targets for example in examples[:5]))
    total = sum(pack.total.item() for pack in found) / mixture.count(step.examples)
    assert total == pytest.approx(mean["transcribe"] + 0.5**1.5 * mean["loud"])


def test_a_training_records_the_numbers_of_its_objective(base_dir, prepared_dir, tmp_path: Path, monkeypatch):
    """With a pack a step and with many, which have to come to the same."""

    def mixture(given):
        return Mixture(
            given.family, [Term("main", Transcribe(given.family), lambda _: 1.0), Term("loud", LoudEncoder(), halving)]
        )

    monkeypatch.setitem(OBJECTIVES, "transcribe", mixture)
    for name, tokens in (("one", 4096), ("many", 100)):
        run(base_dir, prepared_dir, tmp_path / name, tiny_config(lora=without_dropout(), pack_tokens=tokens))
    one, many = rows(tmp_path / "one"), rows(tmp_path / "many")
    assert len(one) == 6 and one[-1]["numbers"]["loud"] < one[0]["numbers"]["loud"]
    for a, b in zip(one, many, strict=True):
        assert a["numbers"] == pytest.approx(b["numbers"], rel=1e-4) and a["numbers"]["loud/seen"] == a["utterances"]
        weight = halving((a["step_in_phase"] - 1) / 3)
        assert a["loss"] == pytest.approx(a["numbers"]["main"] + weight * a["numbers"]["loud"], rel=1e-4)


@pytest.mark.slow("train", seconds=20)
def test_workers_get_what_a_pack_needs_and_not_the_objective(base_dir, prepared_dir, tmp_path: Path, monkeypatch):
    """An objective with a teacher, which no process could be sent, trains with workers as without."""

    class Taught(LoudEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = lambda: None

    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(Taught())

    def mixture(given):
        return Mixture(
            given.family, [Term("main", Transcribe(given.family), lambda _: 1.0), Term("loud", Taught(), halving)]
        )

    monkeypatch.setitem(OBJECTIVES, "transcribe", mixture)
    for num_workers in (0, 1):
        run(base_dir, prepared_dir, tmp_path / str(num_workers), tiny_config(num_workers=num_workers))
    here, there = rows(tmp_path / "0"), rows(tmp_path / "1")
    assert [row["loss"] for row in here] == [row["loss"] for row in there] and len(here) == 6
    assert [row["numbers"] for row in here] == [row["numbers"] for row in there]


def test_two_terms_that_need_one_name_are_refused(examples: list[TrainExample]):
    mixture = Mixture(FAMILY, [Term(name, LoudEncoder(), halving) for name in ("loud", "louder")])
    with pytest.raises(ValueError, match="'loud' and 'louder' of a mixture both need 'length'"):
        mixture.needs(examples[0])


def test_a_time_one_class_off_is_nearly_right(loaded):
    """The classes of times, and the loss against the library's cross-entropy."""
    model, prompt = tiny.new_aligner(loaded.tokenizer, seed=0).eval(), AlignmentPrompt(loaded.tokenizer)
    spans = {"u": ((0.0, 0.41), (0.43, 99.0))}
    align = Align(FAMILY, lambda example: spans[example], num_classes=tiny.NUM_TIME_CLASSES)
    classes = align.needs("u")["classes"]
    assert classes == [0, 5, 5, 499]
    pack = build_pack(
        prompt.examples([13], [["שלום", "עולם"]], [classes]), [torch.randn(128, 100)], prompt.audio_id, shift=False
    )
    with torch.no_grad(), align.context(model):
        total = align.loss(model, pack, TrainStep([], 0.0)).total
        logp = F.log_softmax(FAMILY.logits(model, pack).float(), dim=-1)
    wanted = 0.0
    for row, right in zip(logp, classes, strict=True):
        for target, weight in ((right, 0.8), (max(0, right - 1), 0.1), (min(499, right + 1), 0.1)):
            wanted -= weight * row[target].item()
    assert total.item() == pytest.approx(wanted, rel=1e-5)
