"""A student learns what a teacher expects: the loss, what is kept of the teacher, who is refused, and the training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_trainer import rows, run, without_dropout
from tiny_run import make_rows, save_base, tiny_config, write_shard
from torch import nn
from whisper_models import save_whisper

from shibolet.errors import ModelError, RecipeError
from shibolet.model.family import LoadedModel
from shibolet.model.fast import losses
from shibolet.model.fast.losses import Mixed, TopTokens, plain_distillation, summed_distillation, top_tokens
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.records.documents.training import DevRates
from shibolet.train.config import PhaseConfig, TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.objectives.config import DistilConfig
from shibolet.train.reader import PackReader
from shibolet.train.teacher_cache import TeacherCache

RATES = {"projector": 2e-3, "decoder.layers[2:4]": 5e-4, "head": 1e-3, "lora": 2e-3}


def taught(**changes) -> TrainConfig:
    """A phase that distils and one that goes on with the likelihood."""
    phases = (
        PhaseConfig(name="T", num_epochs=1, lr_by_part=RATES, objective="distil"),
        PhaseConfig(name="A", num_epochs=1, lr_by_part=RATES),
    )
    settings = {
        "phases": phases,
        "lora": without_dropout(),
        "utterances_per_step": 3,
        "distil": DistilConfig(top_k=5, likelihood_weight=0.25),
    }
    return tiny_config(**settings | changes)


def scored(teacher: float = 0.1, student: float = 0.9) -> Callable[[LoadedModel, str], DevRates]:
    """A dev score by who is scored; of all later models the student's."""
    return lambda loaded, when: DevRates(wer=teacher if when == "of the teacher" else student, cer=0.1)


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("teacher"), seed=1)


@pytest.fixture(scope="module")
def few_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 prepared utterances: two steps an epoch."""
    path = tmp_path_factory.mktemp("few")
    write_shard(path / "train-0.parquet", make_rows(6, seed=2, high_s=1.0))
    return path


@pytest.fixture
def random_case() -> tuple[torch.Tensor, nn.Linear, torch.Tensor, TopTokens]:
    """Hidden states `[7, 6]`, a head to 11 tokens, labels, and a teacher's 3 tokens and mass of the others."""
    torch.manual_seed(0)
    head = nn.Linear(6, 11, bias=False)
    with torch.no_grad():
        ids, logps = top_tokens(2 * torch.randn(7, 6), nn.Linear(6, 11, bias=False), 3)
    return torch.randn(7, 6), head, torch.randint(11, (7,)), TopTokens(ids, logps.exp())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_is_the_divergence_over_kept_tokens_and_the_rest(random_case, temperature: float):
    """Against sums in float64 that are written out; a wrong tail would still fall in a training."""
    hidden, head, labels, teacher = random_case
    logits = (hidden.double() @ head.weight.double().t()).detach().numpy()
    student, hot = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (logits, logits / temperature))
    divergence = likelihood = 0.0
    for row, one, label, ids, probs in zip(hot, student, labels.tolist(), teacher.ids.tolist(), teacher.probs.tolist()):
        assert sum(probs) == pytest.approx(1, abs=1e-6)
        binned = [*(row[i] for i in ids), sum(row[i] for i in range(11) if i not in ids)]
        divergence += temperature**2 * sum(p * np.log(p / q) for p, q in zip(probs, binned))
        likelihood -= np.log(one[label])
    for loss in (summed_distillation, plain_distillation):
        total, told = loss(hidden, head, labels, teacher, Mixed(0.25, temperature))
        entropy = (teacher.probs * teacher.probs.log()).sum().item()
        assert told.item() == pytest.approx(divergence, rel=1e-5) and divergence > 0.1 and entropy < 0
        assert total.item() == pytest.approx(0.25 * likelihood + 0.75 * divergence, rel=1e-5)


@pytest.mark.parametrize(("chunk", "weight", "temperature"), [(3, 0.25, 1.0), (512, 0.25, 3.0), (512, 0.0, 2.0)])
def test_gradients_are_those_of_torch_whatever_the_chunks(random_case, chunk, weight, temperature, monkeypatch):
    """The gradient is written by hand; scaled as a mean over targets scales it."""
    monkeypatch.setattr(losses, "_SMALL_CHUNK", chunk)
    hidden, head, labels, teacher = random_case
    found = []
    for loss in (plain_distillation, summed_distillation):
        hidden.grad, head.weight.grad = None, None
        total, _ = loss(hidden.requires_grad_(), head, labels, teacher, Mixed(weight, temperature))
        (total / 7).backward()
        found.append((hidden.grad.clone(), head.weight.grad.clone()))
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(plain, fast, rtol=1e-5, atol=1e-7)
        assert plain.abs().max() > 1e-3


def open_cache(root: Path, examples: list[TrainExample], teacher: str = "t", top_k: int = 5) -> TeacherCache:
    return TeacherCache(root, teacher, "Hebrew", examples, top_k, 2.0, is_main=True, wait=lambda: None)


def test_the_cache_holds_the_teachers_likeliest_tokens_of_each_label(
    loaded: LoadedModel, prompt, examples: list[TrainExample], tmp_path: Path
):
    """By packs as the pass makes them; read in another order, against one utterance at a time."""
    cache = open_cache(tmp_path, examples)
    assert not cache.is_whole
    cache.fill(loaded, prompt.frame)
    again = open_cache(tmp_path, examples)
    assert again.is_whole and not open_cache(tmp_path / "other", examples, top_k=4).is_whole
    chosen = [examples[7], examples[2]]
    kept, at = again.read(chosen), 0
    torch.testing.assert_close(kept.probs.sum(-1), torch.ones(len(kept.probs)), rtol=0, atol=1e-6)
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor)
    for example in chosen:
        with torch.no_grad():
            probs = (FAMILY.logits(loaded.model, reader.pack([example])) / 2).softmax(-1)
        own = slice(at, at := at + example.num_targets)
        for row, ids, told in zip(probs, kept.ids[own], kept.probs[own], strict=True):
            assert told[:-1].tolist() == pytest.approx(row[ids].tolist(), rel=5e-3)  # float16
            assert row[ids].tolist() == pytest.approx(row.topk(5).values.tolist(), rel=1e-4)
            assert told[-1].item() == pytest.approx(1 - row[ids].sum().item(), rel=5e-3)
    assert at == len(kept.ids) > 10


def test_a_pass_that_was_cut_off_goes_on_and_another_teacher_starts_anew(
    loaded: LoadedModel, prompt, examples: list[TrainExample], tmp_path: Path, monkeypatch
):
    """Two ranks' shares are done apart; what one has done is not done again, whoever asks."""
    monkeypatch.setattr("shibolet.train.teacher_cache.PASS_TOKENS", 100)
    cache, packs = open_cache(tmp_path, examples), []
    pack = PackReader.pack
    monkeypatch.setattr(PackReader, "pack", lambda self, some: packs.append(len(some)) or pack(self, some))
    cache.fill(loaded, prompt.frame, rank=0, num_ranks=2)
    first = sum(packs)
    assert 0 < first < len(examples) and not cache.is_whole
    again = open_cache(tmp_path, examples)
    again.fill(loaded, prompt.frame)
    assert again.is_whole and sum(packs) == len(examples)
    assert not open_cache(tmp_path, examples, teacher="another").is_whole
    assert len(list(tmp_path.iterdir())) == 1, "what nobody can use any more is deleted"


def test_a_cache_of_another_boot_is_kept_when_whole_alone(
    loaded: LoadedModel, prompt, examples: list[TrainExample], tmp_path: Path, monkeypatch
):
    """Files are synced at the end alone: before it a machine that went down may have lost any page of them."""
    boot = "first"
    monkeypatch.setattr("shibolet.train.teacher_cache.boot_id", lambda: boot)
    open_cache(tmp_path, examples)._done[:3] = 1
    assert open_cache(tmp_path, examples)._done.sum() == 3
    boot = "second"
    cache = open_cache(tmp_path, examples)
    assert cache._done.sum() == 0
    cache.fill(loaded, prompt.frame)
    boot = "third"
    assert open_cache(tmp_path, examples).is_whole


def test_a_taught_training_is_the_same_in_packs_and_learns_from_the_teacher(
    base_dir, few_dir, teacher_dir, tmp_path: Path
):
    """The teacher's pass is done once, for both; the phase after it minimises the likelihood again."""
    for name, tokens in (("one", 4096), ("many", 70)):
        config = taught(pack_tokens=tokens)
        run(base_dir, few_dir, tmp_path / name, config, teacher=str(teacher_dir), score_dev=scored())
    one, many = rows(tmp_path / "one"), rows(tmp_path / "many")
    assert [row["phase"] for row in one] == ["T"] * 2 + ["A"] * 2
    for a, b in zip(one, many, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["numbers"] == pytest.approx(b["numbers"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    with pytest.raises(RecipeError, match="another teacher"):  # a checkpoint that one teacher made
        run(base_dir, few_dir, tmp_path / "one", config, teacher=str(base_dir), score_dev=scored())
    assert one[1]["numbers"]["divergence"] < one[0]["numbers"]["divergence"] and not one[2]["numbers"]


def test_a_training_that_is_taught_by_itself_has_no_divergence(base_dir, few_dir, tmp_path: Path):
    """A mistake in the order of labels or in the prompt would show as a divergence from oneself."""
    config = taught(distil=DistilConfig(top_k=20, likelihood_weight=0.0))
    run(base_dir, few_dir, tmp_path, config, teacher=str(base_dir), score_dev=scored())
    assert abs(rows(tmp_path)[0]["numbers"]["divergence"]) < 1e-4


@pytest.mark.parametrize(
    ("changes", "teacher", "sentence"),
    [
        ({}, 0.9, "has a WER of 90.0% on dev, and models.base, which is to learn from it, has 90.0% already"),
        (
            {"distil": DistilConfig(max_teacher_wer_pct=20)},
            0.21,
            r"21.0% on dev, over train.distil.max_teacher_wer_pct",
        ),
    ],
)
def test_a_teacher_that_cannot_help_is_refused_before_a_step(
    base_dir, few_dir, teacher_dir, tmp_path: Path, changes, teacher, sentence
):
    with pytest.raises(RecipeError, match=sentence):
        run(base_dir, few_dir, tmp_path, taught(**changes), teacher=str(teacher_dir), score_dev=scored(teacher))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_taught_phase_without_a_teacher_is_refused(base_dir, few_dir, tmp_path: Path):
    """A search of rates and a verification of a model name none."""
    with pytest.raises(RecipeError, match="there is none here: name one in models"):
        run(base_dir, few_dir, tmp_path, taught(), score_dev=scored())


def test_a_teacher_of_other_tokens_is_refused(base_dir, few_dir, tmp_path: Path):
    """Its probabilities would be of other tokens under the same ids."""
    other = save_whisper(tmp_path / "whisper")
    with pytest.raises(ModelError, match="have different vocabularies"):
        run(base_dir, few_dir, tmp_path / "out", taught(), teacher=str(other), score_dev=scored())


def test_a_whisper_learns_from_a_whisper(few_dir, tmp_path: Path):
    """No family is named outside of its package: the other one is taught by the same code."""
    student, teacher = (save_whisper(tmp_path / name, seed, decoder_layers=1) for seed, name in enumerate("st"))
    rates = {"decoder.layers": 1e-3}
    phases = (PhaseConfig(name="T", num_epochs=1, lr_by_part=rates, objective="distil"),)
    config = taught(phases=phases, lora=None, untie_head=False, pack_tokens=None, utterances_per_step=3)
    run(student, few_dir, tmp_path / "out", config, teacher=str(teacher), score_dev=scored())
    assert len(rows(tmp_path / "out")) == 2 and rows(tmp_path / "out")[0]["numbers"]["divergence"] > 0


def test_a_teachers_texts_train_beside_the_references(base_dir, few_dir, teacher_dir, tmp_path: Path):
    """The same audio under another text is one more utterance, with its own place in what the teacher expects."""
    texts = {"u0001": "בית ספר", "u0004": "ילד", "gone": "חם"}
    config = taught(phases=taught().phases[:1])
    about = {"teacher": str(teacher_dir), "score_dev": scored(), "texts": texts}
    result = run(base_dir, few_dir, tmp_path, config, **about)
    assert [row["utterances"] for row in rows(tmp_path)] == [3, 3, 2] and result.utterances_seen == 8
    with pytest.raises(RecipeError, match="another training data"):
        run(base_dir, few_dir, tmp_path, config, **about | {"texts": {"u0001": "אחר"}})
