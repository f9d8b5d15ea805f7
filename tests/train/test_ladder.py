"""Memory that runs out costs time, or what the recipe gives up for it; never the run, or its mathematics in silence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_guards import events
from test_trainer import rows, run, without_dropout
from tiny_run import PHASE_A, tiny_config
from transformers import PreTrainedModel

from shibolet.errors import OutOfMemory, RecipeError
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.packed import Pack, packed_attention
from shibolet.records.documents.training import DevRates
from shibolet.train.config import AugmentConfig, OutOfMemoryConfig, PauseConfig, PhaseConfig
from shibolet.train.ladder import MemoryLadder
from shibolet.train.objective import PackLoss, TrainStep
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.phases import add_adapters, enter_phase
from shibolet.train.state import Decisions
from shibolet.train.trainer import GradualUnfreezeTrainer


def limit(monkeypatch: pytest.MonkeyPatch, fits: Callable[[PreTrainedModel, Pack], bool]) -> list[int]:
    """Make packs that do not fit run out of memory, as CUDA would; their numbers of tokens."""
    failed = []
    plain = Transcribe.loss

    def loss(self: Transcribe, model: PreTrainedModel, pack: Pack, step: TrainStep) -> PackLoss:
        if not fits(model, pack):
            failed.append(pack.num_tokens)
            raise torch.OutOfMemoryError("injected")
        return plain(self, model, pack, step)

    monkeypatch.setattr(Transcribe, "loss", loss)
    return failed


def told(out: Path) -> list[str]:
    return [json.loads(line)["detail"] for line in (out / "events.jsonl").read_text().splitlines()]


def test_the_largest_pack_is_tried_first_and_smaller_packs_change_nothing(
    base_dir, prepared_dir, tmp_path: Path, monkeypatch
):
    config = tiny_config(lora=without_dropout(), pack_tokens=4096)
    run(base_dir, prepared_dir, tmp_path / "whole", config)
    failed = limit(monkeypatch, lambda model, pack: pack.num_tokens <= 150)
    run(base_dir, prepared_dir, tmp_path / "small", config)
    assert failed == sorted(failed, reverse=True) and len(failed) < 4  # once in the trial of B, kept for A
    assert events(tmp_path / "small") == [(0, "out_of_memory")] * len(failed)
    for a, b in zip(rows(tmp_path / "whole"), rows(tmp_path / "small"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)


def test_out_of_memory_within_a_step_takes_the_same_step_again(base_dir, prepared_dir, tmp_path: Path, monkeypatch):
    config = tiny_config(lora=without_dropout(), pack_tokens=4096)
    run(base_dir, prepared_dir, tmp_path / "whole", config)
    calls = []
    failed = limit(monkeypatch, lambda model, pack: calls.append(pack) or len(calls) != 3)  # one pack a step
    run(base_dir, prepared_dir, tmp_path / "retried", config)
    assert len(failed) == 1 and events(tmp_path / "retried") == [(1, "out_of_memory")]
    state = json.loads((tmp_path / "retried" / "checkpoints" / "step-00000003" / "state.json").read_text())
    assert state["decisions"]["pack_tokens"] == failed[0] // 2  # a continued run packs as this one would have
    for a, b in zip(rows(tmp_path / "whole"), rows(tmp_path / "retried"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)


def test_packs_shrink_to_one_utterance_whatever_an_epoch_draws(examples):
    """A pack is filled by drawn lengths and told by its longest: half of these would give the same packs again."""
    augment = AugmentConfig(pauses=PauseConfig(most_s=5.0))
    config = tiny_config(augment=augment, pack_tokens=300, on_out_of_memory=OutOfMemoryConfig(max_audio_s=2.0))
    ladder, said = MemoryLadder(config, examples, 4, Decisions()), []
    longest = max(example.tokens_of(example.longest(augment)) for example in examples)
    assert longest < 300
    while len(said) < 10:
        try:
            said.append(ladder.climb(10 * longest, config.phases[0]))
        except OutOfMemory:
            break
    assert said and len(said) < 4 and said[0].endswith("300 did not fit"), said


class Keeping:
    """A dev score that keeps memory."""

    def __init__(self) -> None:
        self.kept, self.released = False, 0

    def __call__(self, loaded: LoadedModel, when: str) -> DevRates:
        self.kept = True
        return DevRates(wer=0.5, cer=0.1)

    def release(self) -> bool:
        was_kept, self.kept = self.kept, False
        self.released += was_kept
        return was_kept


def test_memory_that_scoring_kept_goes_before_the_recipe_gives_up_anything(
    base_dir, prepared_dir, tmp_path: Path, monkeypatch
):
    """Rungs stay taken; and a run that is continued after a score, and so has kept nothing, would take none."""
    config = tiny_config(pack_tokens=4096, eval_every_steps=1)
    run(base_dir, prepared_dir, tmp_path / "whole", config, score_dev=Keeping())
    score = Keeping()
    failed = limit(monkeypatch, lambda model, pack: not score.kept)
    run(base_dir, prepared_dir, tmp_path / "full", config, score_dev=score, release_dev=score.release)
    # before each of six steps, and as the second phase begins instead of before its first step
    assert len(failed) == 5 and score.released == 6
    assert events(tmp_path / "full") == []
    for a, b in zip(rows(tmp_path / "whole"), rows(tmp_path / "full"), strict=True):
        assert (a["loss"], a["grad_norm"]) == (b["loss"], b["grad_norm"])


def test_every_rung_is_taken_in_order_and_only_where_the_recipe_allows_it(
    base_dir, prepared_dir, tmp_path: Path, monkeypatch, examples
):
    """Each limit falls once the rung before it is taken; the last one never does."""
    decoder = "decoder.layers[2:4]"
    trainers = []
    plain = GradualUnfreezeTrainer._enter
    monkeypatch.setattr(
        GradualUnfreezeTrainer, "_enter", lambda self, *args: trainers.append(self) or plain(self, *args)
    )

    def fits(model: PreTrainedModel, pack: Pack) -> bool:
        layers = model.model.language_model.layers
        thawed = [number for number, layer in enumerate(layers) if layer.mlp.up_proj.weight.requires_grad]
        return thawed == [3] and layers[0].gradient_checkpointing and "max_audio" in trainers[-1].state.decisions.rungs

    limit(monkeypatch, fits)
    allowed = OutOfMemoryConfig(max_audio_s=1.5, checkpoint_activations=True, decoder_layers=1)
    run(base_dir, prepared_dir, tmp_path / "all", tiny_config(on_out_of_memory=allowed))
    rungs = [sentence for sentence in told(tmp_path / "all") if not sentence.startswith("packs of at most")]
    long = [example for example in examples if example.duration_s > 1.5]
    assert rungs == [
        f"audio of at most 1.5 s: {len(long)} utterances leave",
        "activations are computed again in the backward pass",
        "only the top 1 decoder layers train",
    ]
    ledger = [json.loads(line) for line in (tmp_path / "all" / "ledger.jsonl").read_text().splitlines()]
    assert [line["id"] for line in ledger] == [example.id for example in long] and len(long) > 2
    assert {line["rule"] for line in ledger} == {"too_long:memory"}
    logged = rows(tmp_path / "all")
    assert sum(row["utterances"] for row in logged) == 2 * (22 - len(long))
    assert all(decoder not in row["lr"] and row["lr"]["decoder.layers[3:4]"] for row in logged)

    with pytest.raises(OutOfMemory, match=r"given up so far: checkpoint_activations; allow more in train\.on_out_of"):
        only = OutOfMemoryConfig(checkpoint_activations=True)
        run(base_dir, prepared_dir, tmp_path / "one", tiny_config(on_out_of_memory=only))
    with pytest.raises(OutOfMemory, match="given up so far: nothing"):
        run(base_dir, prepared_dir, tmp_path / "none", tiny_config())


@pytest.mark.parametrize("augment", [AugmentConfig(speeds=(0.5,)), AugmentConfig(pauses=PauseConfig(share=1.0))])
def test_slow_speech_and_pauses_are_longer_and_fit_their_packs_all_the_same(
    base_dir, prepared_dir, tmp_path, examples, monkeypatch, augment
):
    """One utterance a pack is the last step of the ladder, of its length at the slowest speed with its pauses."""
    slow = tiny_config(lora=without_dropout(), augment=augment, pack_tokens=4096)
    longest = max(example.tokens_of(example.longest(augment)) for example in examples)
    assert longest > max(example.num_tokens for example in examples)
    failed = limit(monkeypatch, lambda model, pack: pack.num_tokens <= longest)
    run(base_dir, prepared_dir, tmp_path / "out", slow)
    assert failed and f"packs of at most {longest} tokens" in told(tmp_path / "out")[-1]
    with pytest.raises(RecipeError, match="raise it to"):
        run(base_dir, prepared_dir, tmp_path / "no", slow.model_copy(update={"pack_tokens": longest - 1}))


@pytest.mark.parametrize("part", ["decoder.layers[1:4]", "decoder.layers[1:]", "decoder.layers"])
def test_the_top_decoder_layers_are_found_however_the_recipe_names_them(examples, part):
    config = tiny_config(pack_tokens=4096, on_out_of_memory=OutOfMemoryConfig(decoder_layers=2))
    decisions = Decisions(rungs=["decoder_layers"])
    phase = PhaseConfig(name="B", num_epochs=1, lr_by_part={part: 1e-4, "encoder.layers[0:1]": 1e-4})
    narrowed = MemoryLadder(config, examples, 4, decisions).narrowed(phase)
    assert narrowed.lr_by_part == {"decoder.layers[2:4]": 1e-4, "encoder.layers[0:1]": 1e-4}


def test_layers_are_not_narrowed_beside_a_part_that_trains_in_all_of_them(examples):
    """It would save few activations, and "only the top layers train" would not be so."""
    config = tiny_config(pack_tokens=4096, on_out_of_memory=OutOfMemoryConfig(decoder_layers=2))
    phases = [
        PhaseConfig(name=name, num_epochs=1, lr_by_part=dict.fromkeys(parts, 1e-4))
        for name, parts in {"B": ["decoder.layers"], "A": ["decoder.layers", "across"]}.items()
    ]
    ladder = MemoryLadder(config, examples, 4, Decisions(rungs=["decoder_layers"]), spread_parts={"across"})
    assert list(ladder.narrowed(phases[0]).lr_by_part) == ["decoder.layers[2:4]"]
    assert ladder.narrowed(phases[1]) == phases[1]
    fresh = MemoryLadder(config, examples, 4, Decisions(), spread_parts={"across"})
    with pytest.raises(OutOfMemory, match="so far: nothing; decoder_layers narrows nothing in phase A: across trains"):
        fresh.climb(1, phases[1])
    assert fresh.climb(1, phases[0]) == "only the top 2 decoder layers train"


def test_checkpointed_activations_give_the_same_gradients(loaded, examples, reader):
    """Through dropout too: the second forward draws what the first one drew."""
    config = tiny_config()
    add_adapters(loaded.model, config, seed=0)
    groups = enter_phase(loaded.model, PhaseConfig(name="A", num_epochs=1, lr_by_part=PHASE_A))
    loaded.model.train()
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            loaded.model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(3)
        with packed_attention(loaded.model):
            pack = reader.pack(examples[:3])
            Transcribe(FAMILY).loss(loaded.model, pack, TrainStep(examples[:3], 0.0)).total.backward()
        weights = {name: weight for group in groups.values() for name, weight in group.items()}
        found.append({name: weight.grad.clone() for name, weight in weights.items()})
        for weight in weights.values():
            weight.grad = None
    assert len(found[0]) > 50
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_the_largest_pack_is_the_fullest_a_rank_can_get(examples):
    lengths = [example.num_tokens for example in examples]
    ladder = MemoryLadder(tiny_config(pack_tokens=max(lengths) + min(lengths)), examples, 4, Decisions())
    largest = ladder.largest_pack(most_utterances=8)
    assert lengths[largest[0]] == max(lengths) and sum(lengths[u] for u in largest) <= ladder.pack_tokens
    assert len(largest) == 2
    assert len(MemoryLadder(tiny_config(pack_tokens=9999), examples, 4, Decisions()).largest_pack(4)) == 4
