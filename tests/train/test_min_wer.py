"""Expected word errors: the loss and its gradients against sums written out, what is drawn, and the training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rapidfuzz.distance import Levenshtein
from test_trainer import rows, run
from tiny_run import make_rows, save_base, tiny_config, write_shard
from whisper_models import save_whisper

from shibolet.errors import RecipeError
from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.protocols import Draw, Prompt
from shibolet.recipe import load_recipe
from shibolet.train.config import PhaseConfig, TrainConfig
from shibolet.train.data import TrainExample, read_examples
from shibolet.train.objective import TrainStep
from shibolet.train.objectives.config import MinWerConfig
from shibolet.train.objectives.given import Given
from shibolet.train.objectives.min_wer import MinWer
from shibolet.train.objectives.own_texts import Writer, recorded
from shibolet.train.reader import PackReader

RATES = {"projector": 1e-3, "decoder.layers[2:4]": 1e-3, "head": 1e-3}


def config_of(likelihood_weight: float = 0.0, **changes) -> TrainConfig:
    own = MinWerConfig(num_samples=2, likelihood_weight=likelihood_weight)
    phases = (PhaseConfig(name="W", num_epochs=1, lr_by_part=RATES, objective="min_wer"),)
    return tiny_config(**{"phases": phases, "lora": None, "utterances_per_step": 3, "min_wer": own} | changes)


@pytest.fixture(scope="module")
def few_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 prepared utterances: two steps an epoch."""
    path = tmp_path_factory.mktemp("few")
    write_shard(path / "train-0.parquet", make_rows(6, seed=2, high_s=1.0))
    return path


@pytest.fixture(scope="module", params=["qwen", "whisper"])
def toy(request, few_dir: Path, tmp_path_factory) -> tuple[LoadedModel, list[TrainExample], PackReader]:
    """A tiny model of each family, utterances and what reads them."""
    path = tmp_path_factory.mktemp("toy") / "model"
    loaded = load_recogniser(str(save_base(path) if request.param == "qwen" else save_whisper(path)))
    family = loaded.family
    targets = family.targets(loaded.tokenizer, Prompt("Hebrew"))
    examples, _ = read_examples(few_dir, "train", family, targets, family.max_tokens(loaded.model.config))
    return loaded, examples[:3], PackReader(family, targets.frame, loaded.extractor, needs=MinWer.needs)


def drawn_texts(loaded: LoadedModel, examples: list[TrainExample]) -> list[tuple[Draw, ...]]:
    """Texts that an untrained model finds about as likely: words turned round, twice, and one that does not end."""
    targets = loaded.family.targets(loaded.tokenizer, Prompt("Hebrew"))
    end, found = targets.frame.end_id, []
    for example in examples:
        good, turned = targets.encode([example.text, " ".join(reversed(example.text.split()))])
        texts = [Draw([*good, end], 0.0, "end"), Draw([*turned, end], 0.0, "end"), Draw([*good, good[0]], 0.0, "loop")]
        found.append((texts[0], texts[1], texts[1], texts[2]))
    return found


def brute_force(loaded: LoadedModel, examples: list[TrainExample], reader: PackReader, drawn) -> torch.Tensor:
    """The sum over utterances of expected errors, one text at a time and with whole logits."""
    family, total = loaded.family, torch.zeros(())
    targets = family.targets(loaded.tokenizer, Prompt("Hebrew"))
    for example, draws in zip(examples, drawn, strict=True):
        logps, errors, reference = [], [], example.text.split()
        for draw in {tuple(draw.ids): draw for draw in draws}.values():
            is_whole = draw.ending == "end"
            ids = draw.ids[:-1] if is_whole else draw.ids
            own = replace(
                example, text_ids=ids, num_targets=targets.frame.num_targets(len(ids)),
                num_tokens=targets.frame.num_tokens(family.num_audio_tokens(example.num_frames), len(ids)),
            )  # fmt: skip
            pack = reader.pack([own])
            labels = family.logits(loaded.model, pack).log_softmax(-1).gather(1, pack.labels[:, None])[:, 0]
            first, last = targets.frame.num_prefix, targets.frame.num_prefix + len(ids) + is_whole
            logps.append(labels[first:last].sum())
            text = loaded.tokenizer.decode(ids).split()
            errors.append(float(min(len(reference), Levenshtein.distance(reference, text))))
        logps, errors = torch.stack(logps), torch.tensor(errors)
        total = total + (logps.exp() / logps.exp().sum() * errors).sum()
    return total


@pytest.mark.parametrize("pack_tokens", [70, 100_000])
def test_gradients_are_those_of_a_sum_over_texts(toy, pack_tokens: int, monkeypatch):
    """In float32, with packs of one text and with one pack; a loop counts no more than a text without a right word."""
    loaded, examples, reader = toy
    drawn = drawn_texts(loaded, examples)
    monkeypatch.setattr(Writer, "write", lambda self, some, clips, step: drawn)
    pack = reader.pack(examples)
    monkeypatch.setattr(type(pack), "num_tokens", property(lambda self: pack_tokens))
    objective = MinWer(Given(loaded, config_of(), "Hebrew", 0))
    found = []
    with torch.enable_grad(), objective.context(loaded.model):
        for total in (
            lambda: objective.loss(loaded.model, pack, TrainStep(examples, 0.0)).total,
            lambda: brute_force(loaded, examples, reader, drawn),
        ):
            loaded.model.zero_grad()
            loss = total()
            loss.backward()
            found.append((loss, {n: w.grad.clone() for n, w in loaded.model.named_parameters() if w.grad is not None}))
    (ours, gradients), (wanted, expected) = found
    assert ours.item() == pytest.approx(wanted.item(), rel=1e-4) and wanted.item() > 0.1
    assert gradients.keys() == expected.keys() and len(expected) > 20
    largest = max(gradient.abs().max() for gradient in expected.values())
    assert largest > 1e-5
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-4 * largest.item(), msg=name)


def test_the_likelihood_is_added_with_its_weight_and_equal_texts_cost_no_pass(toy, monkeypatch):
    """Where every text has as many errors nothing is to be learned from them."""
    loaded, examples, reader = toy
    drawn = [(draws[1], draws[1]) for draws in drawn_texts(loaded, examples)]
    monkeypatch.setattr(Writer, "write", lambda self, some, clips, step: drawn)
    monkeypatch.setattr(MinWer, "_logps", lambda self, model, pack, texts: torch.zeros(0) if not texts else 1 / 0)
    totals = []
    for weight in (0.0, 0.5):
        objective = MinWer(Given(loaded, config_of(weight), "Hebrew", 0))
        with torch.no_grad(), objective.context(loaded.model):
            totals.append(objective.loss(loaded.model, reader.pack(examples), TrainStep(examples, 0.0)).total.item())
    with torch.no_grad():
        pack = reader.pack(examples)
        logits = loaded.family.logits(loaded.model, pack)
    likelihood = torch.nn.functional.cross_entropy(logits, pack.labels, reduction="sum").item()
    words = [example.text.split() for example in examples]
    assert totals[0] == sum(Levenshtein.distance(said, said[::-1]) for said in words) > 0
    assert totals[1] - totals[0] == pytest.approx(0.5 * likelihood, rel=1e-4)


def test_a_step_that_has_nothing_to_learn_has_gradients_of_zero(toy, monkeypatch):
    """Without the likelihood and with equal texts the loss is a constant, which has no backward pass."""
    loaded, examples, reader = toy
    drawn = [(draws[0], draws[0]) for draws in drawn_texts(loaded, examples)]
    monkeypatch.setattr(Writer, "write", lambda self, some, clips, step: drawn)
    objective = MinWer(Given(loaded, config_of(0.0), "Hebrew", 0))
    loaded.model.zero_grad()
    with torch.enable_grad(), objective.context(loaded.model):
        total = objective.loss(loaded.model, reader.pack(examples), TrainStep(examples, 0.0)).total
        total.backward()
    found = [weight.grad for weight in loaded.model.parameters() if weight.grad is not None]
    assert total.item() == 0 and len(found) > 20 and not any(gradient.any() for gradient in found)


def test_texts_follow_from_seed_step_and_utterance_alone(toy):
    """Another order, as other packs have it, draws the same; another step other ones."""
    loaded, examples, _ = toy
    writer = Writer(Given(loaded, config_of(), "Hebrew", 3), num=2, temperature=1.0)
    loaded.model.train()
    first = [[draw.ids for draw in draws] for draws in writer.write(examples, recorded(examples), step=5)]
    again = [[draw.ids for draw in draws] for draws in writer.write(examples[::-1], recorded(examples[::-1]), step=5)]
    later = [[draw.ids for draw in draws] for draws in writer.write(examples, recorded(examples), step=6)]
    assert loaded.model.training and loaded.model.eval()
    assert first == again[::-1]
    for one, other in zip(first, later, strict=True):
        assert one[0] == other[0] and one[1:] != other[1:]


@pytest.mark.slow("train", seconds=15)
def test_a_training_on_word_errors_is_the_same_in_packs(few_dir: Path, tmp_path: Path, base_dir: Path):
    for name, tokens in (("one", 4096), ("many", 70)):
        run(base_dir, few_dir, tmp_path / name, config_of(0.1, pack_tokens=tokens))
    one, many = rows(tmp_path / "one"), rows(tmp_path / "many")
    assert len(one) == 2
    for a, b in zip(one, many, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["numbers"] == pytest.approx(b["numbers"], rel=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


def test_settings_without_their_objective_and_a_teacher_without_pupils_are_refused():
    """A key that nothing reads would be believed to work."""
    with pytest.raises(RecipeError, match=r"train\.min_wer is set, and no phase has the objective min_wer"):
        load_recipe("demo", ["train.min_wer={num_samples: 4}"])
    with pytest.raises(RecipeError, match="no phase of train learns from it"):
        load_recipe("demo", ["models.teacher=builtin:round1"])
    with pytest.raises(RecipeError, match=r"models\.teacher names nobody"):
        load_recipe("demo", ["train.phases.0.objective=distil"]).require("train", "models", "train")


def test_recipes_of_before_there_were_objectives_are_the_same_trainings():
    """A run folder of an earlier version must not be trained anew for keys that it does not name."""
    identity = load_recipe("demo").train.identity()
    assert not {"distil", "min_wer"} & identity.keys() and identity["objective"] == "transcribe"
    assert all("objective" not in phase for phase in identity["phases"])
