"""The mathematics of a step, what moves and what does not, and the guards."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import make_rows, rows, tiny_config, write_shard
from transformers import Qwen3ASRForConditionalGeneration

from shibolet.errors import RecipeError
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.model.qwen3_asr.packed import packed_attention
from shibolet.model.qwen3_asr.parts import part_of
from shibolet.records.documents.plan import Plan
from shibolet.records.documents.scores import Folds
from shibolet.records.documents.training import DevRates, DevScore
from shibolet.train import trainer
from shibolet.train.config import LoraSettings, TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.objective import TrainStep
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.phases import add_adapters, enter_phase
from shibolet.train.reader import PackReader
from shibolet.train.stage import run_train


def run(base_dir: Path, prepared_dir: Path, out_dir: Path, config: TrainConfig, **changes) -> dict:
    arguments = {"language": "Hebrew", "seed": 5, "score_dev": None, "about": {}, "num_threads": 1} | changes
    return run_train(prepared_dir=prepared_dir, out_dir=out_dir, base=str(base_dir), config=config, **arguments)


def without_dropout() -> LoraSettings:
    return LoraSettings(part="decoder.layers[0:2]", rank=4, alpha=8, dropout=0.0)


class FallingWer:
    """A dev score that improves, then gets worse; the one before the first step stands apart and is not counted."""

    def __init__(self, values: tuple[float, ...] = (0.5, 0.4, 0.3, 0.4, 0.5), untrained: float = 0.9) -> None:
        self.values, self.untrained, self.calls = values, untrained, 0

    def __call__(self, loaded: LoadedModel, when: str) -> DevRates:
        assert not loaded.model.training and loaded.model.config._attn_implementation == "sdpa"
        if when == "before the first step":
            return DevRates(wer=self.untrained, cer=0.1)
        self.calls += 1
        return DevRates(wer=self.values[self.calls - 1], cer=0.1)


def test_one_pack_and_many_give_the_same_training(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    for name, tokens in (("one", 4096), ("many", 100)):
        run(base_dir, prepared_dir, tmp_path / name, tiny_config(lora=without_dropout(), pack_tokens=tokens))
    one, many = rows(tmp_path / "one"), rows(tmp_path / "many")
    assert len(one) == len(many) == 6
    for a, b in zip(one, many, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        assert (a["targets"], a["utterances"]) == (b["targets"], b["utterances"])


def test_the_first_loss_is_the_mean_over_targets_of_the_stock_model(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, examples: list[TrainExample], reader: PackReader
):
    run(base_dir, prepared_dir, tmp_path, tiny_config(lora=without_dropout(), utterances_per_step=64))
    model = Qwen3ASRForConditionalGeneration.from_pretrained(base_dir)
    total = 0.0
    with torch.no_grad():
        for example in examples:
            pack = reader.pack([example])
            labels = torch.full_like(pack.input_ids, -100)
            labels[0, pack.keep_positions + 1] = pack.labels
            mask = (torch.arange(pack.features.shape[2])[None] < example.num_frames).long()
            out = model(pack.input_ids, pack.features, mask, labels=labels)
            total += out.loss.item() * example.num_targets
    first = rows(tmp_path)[0]
    assert first["utterances"] == 22 and first["targets"] == sum(e.num_targets for e in examples)
    assert first["loss"] == pytest.approx(total / first["targets"], rel=1e-5)


def test_frozen_weights_stay_bit_identical_and_trained_ones_move(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    config = tiny_config(lora=LoraSettings(part="decoder.layers[0:1]", rank=4, alpha=8))
    run(base_dir, prepared_dir, tmp_path, config)
    base = load_recogniser(str(base_dir)).model
    add_adapters(base, config, seed=5)
    for phase, step in zip(config.phases, (3, 6), strict=True):
        trained = {name for group in enter_phase(base, phase).values() for name in group}
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        saved = load_file(folder / "masters.safetensors")
        assert set(saved) == trained
        for name, weight in base.named_parameters():
            assert name not in saved or not weight.equal(saved[name]), f"{name} did not move"
        assert not (folder / "frozen.safetensors").exists()
    final = load_recogniser(str(tmp_path / "final")).model
    before = dict(load_recogniser(str(base_dir)).model.named_parameters())
    moved = {
        part_of(n) for n, p in final.named_parameters() if n in before and not p.equal(before[n].bfloat16().float())
    }
    expected = {
        ("projector", None),
        *(("encoder.layers", i) for i in (4, 5)),
        *(("decoder.layers", i) for i in (0, 2, 3)),
    }
    assert moved == expected  # layer 0 of the decoder through its merged adapters


def test_a_frozen_encoder_holds_no_graph(loaded: LoadedModel, examples: list[TrainExample], reader: PackReader):
    config = tiny_config()
    add_adapters(loaded.model, config, seed=0)
    seen = []
    for layer in loaded.model.model.audio_tower.layers:
        layer.register_forward_hook(lambda module, args, output: seen.append(output[0].requires_grad))
    for phase in config.phases:
        enter_phase(loaded.model, phase)
        with packed_attention(loaded.model):
            step = TrainStep(examples[:2], 0.0)
            assert Transcribe(FAMILY).loss(loaded.model, reader.pack(examples[:2]), step).total.requires_grad
    assert seen == [False] * 6 + [False] * 4 + [True] * 2


def test_the_next_step_is_made_ready_within_a_phase(base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch):
    """The next phase reads anew: its encoder may train, and nothing of it may be read before."""
    asked = []
    monkeypatch.setattr(PackReader, "prepare", lambda reader, requests: asked.append({one.step for one in requests}))
    run(base_dir, prepared_dir, tmp_path, tiny_config())
    assert asked == [{1}, {2}, {4}, {5}]  # of steps 0 to 2 and 3 to 5


def test_rates_are_those_of_the_recipe_in_both_phases(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    config = tiny_config()
    run(base_dir, prepared_dir, tmp_path, config)
    logged = rows(tmp_path)
    assert [row["step"] for row in logged] == [1, 2, 3, 4, 5, 6]
    assert [row["phase"] for row in logged] == ["B"] * 3 + ["A"] * 3
    for row, factor in zip(logged, (0.5, 1, 1, 1, 1, 1), strict=True):
        peaks = config.phases[row["phase_index"]].lr_by_part
        assert row["lr"] == pytest.approx({part: lr * factor for part, lr in peaks.items()})
        assert math.hypot(*row["grad_norm_by_part"].values()) == pytest.approx(row["grad_norm"], rel=1e-5)


def test_the_best_dev_wer_of_the_run_is_chosen_and_kept(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    score = FallingWer((0.5, 0.3, 0.3, 0.4))
    config = tiny_config(eval_every_steps=2, checkpoint_every_steps=1)
    result = run(base_dir, prepared_dir, tmp_path, config, score_dev=score)
    assert [score.step for score in result.dev] == [
        0,
        2,
        3,
        4,
        6,
    ]  # before, every two steps and at the end of each phase
    assert result.chosen_step == 4  # of equal scores the later one
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [f"step-0000000{step}" for step in (3, 4, 5, 6)]  # end of B, best, the last two
    assert run(base_dir, prepared_dir, tmp_path, config, score_dev=score) == result and score.calls == 4
    chosen = load_file(tmp_path / "checkpoints" / "step-00000004" / "masters.safetensors")
    final = load_file(tmp_path / "final" / "model.safetensors")
    assert final["lm_head.weight"].equal(chosen["lm_head.weight"].bfloat16())


@pytest.mark.parametrize("by_epoch", [True, False])
def test_dev_is_scored_before_training_and_after_each_epoch(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, by_epoch: bool
):
    """The curve has to begin at the model that is trained, and epoch 1 of a phase of two is a point of its own."""
    first, second = tiny_config().phases
    phases = (first.model_copy(update={"num_epochs": 2.0}), second)
    config = tiny_config(phases=phases, eval_every_steps=100, eval_every_epoch=by_epoch)
    result = run(base_dir, prepared_dir, tmp_path, config, score_dev=FallingWer())
    at = [0, 3, 6, 9] if by_epoch else [6, 9]
    assert [score.step for score in result.dev] == [score.step for score in DevScore.read_all(tmp_path / "dev.jsonl")]
    assert [score.step for score in result.dev] == at and {score.phase for score in result.dev[:-1]} == {"B"}
    assert rows(tmp_path)[-1]["epoch"] == 3


def test_the_score_before_training_is_no_candidate_and_a_loss_against_it_is_told(
    base_dir: Path, prepared_dir: Path, tmp_path: Path
):
    """There is no checkpoint of step 0: neither the result, an average nor patience may be measured by it."""
    for untrained, name in ((0.25, "better"), (0.3, "as good")):
        config = tiny_config(average_best=2, patience=4, checkpoint_every_steps=100)
        score = FallingWer((0.6, 0.5, 0.4, 0.3, 0.35), untrained=untrained)
        result = run(base_dir, prepared_dir, tmp_path / name, config, score_dev=score)
        assert (result.steps, result.chosen_step, result.chosen_dev.wer) == (6, 6, 0.3) and score.calls == 5
        assert result.warning == (
            "on dev the model had a WER of 25.0% before its first step and the result has 30.0%: training made it "
            "worse there" if name == "better" else None
        )  # fmt: skip


@pytest.mark.parametrize("untie_head", [True, False])
def test_the_result_loads_everywhere(base_dir: Path, prepared_dir: Path, tmp_path: Path, untie_head: bool):
    run(base_dir, prepared_dir, tmp_path, tiny_config(untie_head=untie_head))
    model = Qwen3ASRForConditionalGeneration.from_pretrained(tmp_path / "final")
    assert (model.lm_head.weight is model.get_input_embeddings().weight) != untie_head
    assert model.config.tie_word_embeddings != untie_head
    again = load_recogniser(str(tmp_path / "final"))
    for (name, a), b in zip(model.named_parameters(), again.model.parameters(), strict=True):
        assert a.float().equal(b), name


def test_patience_ends_a_phase_and_skips_none(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    score = FallingWer((0.2, 0.3, 0.1, 0.2))
    result = run(base_dir, prepared_dir, tmp_path, tiny_config(eval_every_steps=1, patience=1), score_dev=score)
    assert [(score.step, score.phase) for score in result.dev] == [(0, "B"), (1, "B"), (2, "B"), (3, "A"), (4, "A")]


def test_what_scoring_keeps_is_let_go_of_before_a_phase_takes_its_memory(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A later phase has more masters and moments, and a run that is continued there has kept nothing."""
    seen, score = [], FallingWer((0.5, 0.4))
    plain = trainer.MasterAdamW
    monkeypatch.setattr(trainer, "MasterAdamW", lambda *args: seen.append("optimizer") or plain(*args))
    run(
        base_dir, prepared_dir, tmp_path, tiny_config(eval_every_steps=100, eval_every_epoch=False),
        score_dev=lambda loaded, when: seen.append("score") or score(loaded, when),
        release_dev=lambda: bool(seen.append("release")),
    )  # fmt: skip
    assert seen == ["release", "optimizer", "score"] * 2


def test_a_set_smaller_than_a_step_trains_and_the_plan_says_so(base_dir: Path, tmp_path: Path):
    write_shard(tmp_path / "prepared" / "train-0.parquet", make_rows(5, seed=2))
    result = run(base_dir, tmp_path / "prepared", tmp_path / "train", tiny_config(utterances_per_step=64))
    assert result.steps == 2 and result.utterances_seen == 10
    assert (
        Plan.read(tmp_path / "train" / "plan.json")
        .notes[0]
        .startswith("the training set (5 utterances) is smaller than a step (64)")
    )


def test_a_folder_of_another_training_is_refused(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    config = tiny_config()
    run(base_dir, prepared_dir, tmp_path, config)
    phases = tuple(phase.model_copy(update={"warmup_steps": 0}) for phase in config.phases)
    with pytest.raises(RecipeError, match=r"another train\.phases\.0\.warmup_steps"):
        run(base_dir, prepared_dir, tmp_path, config.model_copy(update={"phases": phases}))
    with pytest.raises(RecipeError, match="another seed"):
        run(base_dir, prepared_dir, tmp_path, config, seed=6)


def test_a_pack_counted_wrongly_is_a_defect(examples: list[TrainExample], reader: PackReader):
    with pytest.raises(AssertionError, match="labels in a pack"):
        reader.pack([replace(examples[0], num_targets=1)])


def test_bfloat16_trains_through_float32_masters(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    run(base_dir, prepared_dir, tmp_path, tiny_config(precision="bf16"))
    logged = rows(tmp_path)
    assert logged[-1]["loss"] < logged[0]["loss"] - 0.5
    saved = load_file(tmp_path / "checkpoints" / "step-00000006" / "masters.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}


def test_moments_cross_the_switch_by_name_and_new_ones_start_empty(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    run(base_dir, prepared_dir, tmp_path, tiny_config())
    moments = load_file(tmp_path / "checkpoints" / "step-00000006" / "moments.safetensors")
    taken = {part_of(name.removeprefix("step/"))[0]: int(t) for name, t in moments.items() if name.startswith("step/")}
    assert taken == {"projector": 6, "decoder.layers": 6, "head": 6, "lora": 6, "encoder.layers": 3}


def test_a_phase_can_be_made_the_result_and_unmade(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    """The specification's "revert to strategy B only", while A is done, and before it begins."""
    config = tiny_config(eval_every_steps=100)
    arguments = (base_dir, prepared_dir, tmp_path, config)
    b = run(*arguments, score_dev=FallingWer((0.5,)), only_through="B")
    assert (b.steps, b.chosen_step, b.through) == (3, 3, "B")
    b_weights = load_file(tmp_path / "final" / "model.safetensors")
    whole = run(*arguments, score_dev=FallingWer((0.4,)), only_through="A")
    assert (whole.steps, whole.chosen_step, whole.chosen_by) == (6, 6, "dev WER")
    back = run(*arguments, score_dev=FallingWer(()), only_through="B")
    assert (back.steps, back.chosen_step, back.chosen_by) == (6, 3, "the end of phase B, as asked")
    assert back.chosen_dev == DevRates(wer=0.5, cer=0.1)
    final = load_file(tmp_path / "final" / "model.safetensors")
    assert all(final[name].equal(weight) for name, weight in b_weights.items())
    assert run(*arguments) == back  # and it stays the result until something else is asked
    with pytest.raises(RecipeError, match=r"no phase 'C' in train\.phases; they are B, A"):
        run(*arguments, only_through="C")


def test_what_is_a_beginning_leaves_no_result_and_goes_on(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    """The first phase of a search passed as a finished training: what its rates came to was never trained."""
    arguments = (base_dir, prepared_dir)
    run(*arguments, tmp_path / "one", tiny_config(), only_through="B", is_beginning=True)
    assert rows(tmp_path / "one")[-1]["step"] == 3 and not (tmp_path / "one" / "result.json").exists()
    assert not (tmp_path / "one" / "final").exists()
    found, whole = (run(*arguments, tmp_path / name, tiny_config()) for name in ("one", "whole"))
    assert (found.steps, found.through) == (6, "A") and found == whole
    one, other = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("one", "whole"))
    assert all(one[name].equal(weight) for name, weight in other.items())


def test_how_much_too_good_the_chosen_dev_score_is_comes_with_it(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    """Step 4 has the lowest WER of steps 2, 3, 4 and 6 and of an average, by one fold alone; without it step 6 has."""
    errors = iter([[0, 0, 0], [40, 40, 40], [40, 40, 40], [0, 25, 25], [30, 20, 20], [40, 40, 40]])

    def score(loaded: LoadedModel, when: str) -> DevRates:
        found = next(errors)
        return DevRates(wer=sum(found) / 300, cer=0.1, folds=Folds(errors=found, words=(100, 100, 100)))

    result = run(base_dir, prepared_dir, tmp_path, tiny_config(average_best=2), score_dev=score)
    assert result.chosen_step == 4 and [score.folds.errors[0] for score in result.dev] == [0, 40, 40, 0, 30]
    assert result.optimism.candidates == 5, "the average too; what was there before the first step cannot be chosen"
    assert result.optimism.points == pytest.approx(100 * (30 + 25 + 25 - 50) / 300)
    assert result.optimism.sentence == "chosen as the best of 5 on dev: its WER there is too good by about 10.0 points"
    alone = tmp_path / "alone"
    plain = run(base_dir, prepared_dir, alone, tiny_config(eval_every_steps=100), score_dev=FallingWer((0.5, 0.4)))
    assert plain.optimism is None, "nothing is known of folds"


@pytest.mark.parametrize("averaged_wer", [0.2, 0.3])
def test_an_average_is_the_result_only_when_it_is_better(
    base_dir: Path, prepared_dir: Path, tmp_path: Path, averaged_wer: float
):
    score = FallingWer((0.6, 0.5, 0.4, 0.3, averaged_wer))  # steps 2, 3 (B), 4, 6 (A), and the average of 6 and 4
    result = run(base_dir, prepared_dir, tmp_path, tiny_config(average_best=2), score_dev=score)
    assert score.calls == 5
    masters = [
        load_file(tmp_path / "checkpoints" / f"step-0000000{step}" / "masters.safetensors")["lm_head.weight"]
        for step in (6, 4)
    ]
    final = load_file(tmp_path / "final" / "model.safetensors")["lm_head.weight"]
    if averaged_wer < 0.3:
        assert result.averaged_steps == (6, 4) and result.chosen_dev.wer == 0.2
        torch.testing.assert_close(final.float(), sum(masters) / 2, rtol=0.01, atol=1e-6)  # bfloat16
        assert not final.equal(masters[0].bfloat16())
    else:
        assert result.averaged_steps == () and result.chosen_by == "dev WER"
        assert final.equal(masters[0].bfloat16())


def test_scores_that_an_average_may_take_have_checkpoints(base_dir: Path, prepared_dir: Path, tmp_path: Path):
    """Though none of them but the first was the best when it was made, or due."""
    score = FallingWer((0.3, 0.4, 0.5, 0.35, 0.36, 0.37, 0.2))
    config = tiny_config(average_best=3, eval_every_steps=1, checkpoint_every_steps=100)
    result = run(base_dir, prepared_dir, tmp_path, config, score_dev=score)
    assert result.chosen_step in (1, 4) and score.calls >= 6
