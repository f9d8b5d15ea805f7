"""The student writes and the teacher judges: the divergence against sums written out, and the training."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_trainer import rows, run
from tiny_run import make_rows, save_base, tiny_config, write_shard
from torch import nn
from whisper_models import save_whisper

from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.fast.losses import divergences
from shibolet.model.protocols import Draw, Prompt
from shibolet.records.documents.training import DevRates
from shibolet.train.config import AugmentConfig, PhaseConfig, TrainConfig
from shibolet.train.data import read_examples
from shibolet.train.objective import TrainStep
from shibolet.train.objectives.config import DistilConfig
from shibolet.train.objectives.given import Given
from shibolet.train.objectives.on_policy import OnPolicy
from shibolet.train.objectives.own_texts import Writer
from shibolet.train.reader import PackReader

RATES = {"projector": 1e-3, "decoder.layers[2:4]": 1e-3, "head": 1e-3}


def config_of(likelihood_weight: float = 0.0, **changes) -> TrainConfig:
    distil = DistilConfig(likelihood_weight=likelihood_weight, jsd_beta=changes.pop("beta", 1.0))
    phases = (PhaseConfig(name="P", num_epochs=1, lr_by_part=RATES, objective="on_policy"),)
    return tiny_config(**{"phases": phases, "lora": None, "utterances_per_step": 3, "distil": distil} | changes)


class Taught:
    """A teacher that is there already."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded


@pytest.fixture(scope="module")
def few_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("few")
    write_shard(path / "train-0.parquet", make_rows(6, seed=2, high_s=1.0))
    return path


def scored(loaded: LoadedModel, when: str) -> DevRates:
    return DevRates(wer=0.1 if when == "of the teacher" else 0.9, cer=0.1)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_divergence_is_that_of_the_paper(beta: float):
    """Sums in float64; the gradient against differences of the sum, none for the teacher."""
    torch.manual_seed(0)
    student, teacher = (nn.Linear(4, 7, bias=False).double() for _ in range(2))
    hidden, expected = torch.randn(3, 4, dtype=torch.double), torch.randn(3, 4, dtype=torch.double)
    q, p = (head(x).softmax(-1).detach().numpy() for head, x in ((student, hidden), (teacher, expected)))
    kl = lambda a, b: (a * np.log(a / b)).sum(-1)  # noqa: E731
    middle = beta * p + (1 - beta) * q
    wanted = {0.0: kl(p, q), 1.0: kl(q, p)}.get(beta, beta * kl(p, middle) + (1 - beta) * kl(q, middle))
    hidden.requires_grad_()
    found = divergences(hidden, student, expected, teacher, beta)
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-5)
    found.sum().backward()
    assert teacher.weight.grad is None and student.weight.grad.abs().max() > 1e-3
    step, raised = 1e-2, hidden.detach().clone()
    raised[1, 2] += step
    lowered = raised.clone()
    lowered[1, 2] -= 2 * step
    with torch.no_grad():
        slope = sum(s * divergences(x, student, expected, teacher, beta).sum() for s, x in ((1, raised), (-1, lowered)))
    assert hidden.grad[1, 2].item() == pytest.approx(slope.item() / (2 * step), rel=2e-2, abs=1e-4)


@pytest.mark.parametrize("kind", ["qwen", "whisper"])
@pytest.mark.parametrize("pack_tokens", [70, 100_000])
def test_the_loss_is_the_mean_over_written_tokens_weighted_by_targets(
    kind, pack_tokens, few_dir, tmp_path, monkeypatch
):
    """One text at a time with whole logits; a text that does not end has no label for an end."""
    save = (lambda name, seed: save_base(tmp_path / name, seed)) if kind == "qwen" else None
    save = save or (lambda name, seed: save_whisper(tmp_path / name, seed))
    student, teacher = (load_recogniser(str(save(name, seed))) for seed, name in enumerate("st"))
    family = student.family
    targets = family.targets(student.tokenizer, Prompt("Hebrew"))
    examples = read_examples(few_dir, "train", family, targets, 4096)[0][:3]
    texts = targets.encode(["הלך אל הים", "בית", examples[2].text])
    end = targets.frame.end_id
    drawn = [Draw([*texts[0], end], 0.0, "end"), Draw(texts[1] * 9, 0.0, "loop"), Draw([*texts[2], end], 0.0, "end")]
    monkeypatch.setattr(Writer, "write", lambda self, some, clips, step: [(draw,) for draw in drawn])
    reader = PackReader(family, targets.frame, student.extractor, needs=OnPolicy.needs)
    pack, wanted = reader.pack(examples), 0.0
    for example, draw in zip(examples, drawn, strict=True):
        ids = draw.ids[:-1] if draw.ending == "end" else draw.ids
        own = replace(example, text_ids=ids, num_targets=targets.frame.num_targets(len(ids)))
        with torch.no_grad():
            q, p = (family.logits(one.model, reader.pack([own])).log_softmax(-1) for one in (student, teacher))
        kl = (q.exp() * (q - p)).sum(-1)[targets.frame.num_prefix :]
        written = kl if draw.ending == "end" else kl[:-1]
        assert len(written) == len(draw.ids)
        wanted += written.mean().item() * example.num_targets
    monkeypatch.setattr(type(pack), "num_tokens", property(lambda self: pack_tokens))
    objective = OnPolicy(Given(student, config_of(), "Hebrew", 0, Taught(teacher)))
    with torch.no_grad(), objective.context(student.model):
        found = objective.loss(student.model, pack, TrainStep(examples, 0.0)).total.item()
    assert found == pytest.approx(wanted, rel=1e-3) and not math.isclose(wanted, 0, abs_tol=1e-3)


@pytest.mark.slow("train", seconds=15)
def test_a_training_on_its_own_texts_is_the_same_in_packs(few_dir: Path, tmp_path: Path, base_dir: Path):
    """Also where the student hears faster audio than the teacher."""
    teacher = save_base(tmp_path / "teacher", seed=1)
    for name, tokens in (("one", 4096), ("many", 90)):
        config = config_of(0.1, pack_tokens=tokens, augment=AugmentConfig(speeds=(0.9, 1.1)))
        run(base_dir, few_dir, tmp_path / name, config, teacher=str(teacher), score_dev=scored)
    one, many = rows(tmp_path / "one"), rows(tmp_path / "many")
    assert len(one) == 2 and one[0]["numbers"]["divergence"] > 0
    for a, b in zip(one, many, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["numbers"] == pytest.approx(b["numbers"], rel=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
