"""The plan holds for the real 1.7B without weights, data or a network."""

from dataclasses import replace

import pytest
from tiny_run import tiny_config

from shibolet.errors import RecipeError
from shibolet.model.qwen3_asr.outline import OUTLINE
from shibolet.model.qwen3_asr.sizes import USUAL
from shibolet.records.documents.plan import ModelPlan, ReplayPlan
from shibolet.train.config import LoraSettings, PhaseConfig, TrainConfig
from shibolet.train.memory import assumed_sizes
from shibolet.train.objectives.config import DistilConfig
from shibolet.train.phases import blueprint_of
from shibolet.train.plan import make_plan

B = {"projector": 2e-4, "decoder.layers[16:28]": 5e-5, "head": 1e-4, "lora": 2e-4}
A = {"projector": 1e-4, "encoder.layers[16:24]": 3e-5, "decoder.layers[16:28]": 3e-5, "head": 1e-4, "lora": 2e-4}


def hebrew_round2(**changes) -> TrainConfig:
    phases = (
        PhaseConfig(name="B", num_epochs=2, lr_by_part=B, warmup_steps=500),
        PhaseConfig(name="A", num_epochs=3, lr_by_part=A, warmup_steps=100),
    )
    return TrainConfig(**{"phases": phases, **changes})


def test_the_real_model_from_its_configuration_alone():
    config = hebrew_round2()
    plan = make_plan(config, blueprint_of(USUAL, config), None, num_utterances=73_579)
    assert plan.step.arithmetic == "73,579 utterances = 1,149 x 64 + 43 -> 1,150 steps an epoch"
    assert [phase.steps for phase in plan.phases] == [2300, 3450] and plan.steps == 5750
    millions = [{part.part: round(part.parameters / 1e6, 1) for part in p.parts} for p in plan.phases]
    assert millions[0] == {"projector": 3.2, "decoder.layers[16:28]": 604.0, "head": 311.2, "lora": 3.7}
    assert millions[1] == millions[0] | {"encoder.layers[16:24]": 100.8}
    assert plan.phases[0].trainable + plan.phases[0].frozen == plan.model.parameters
    gib = plan.phases[1].gib
    assert gib["weights"] == pytest.approx(plan.model.parameters * 2 / 2**30, abs=1e-3)
    assert gib["masters"] == pytest.approx(plan.phases[1].trainable * 4 / 2**30, abs=1e-3)
    assert gib["moments"] == pytest.approx(2 * gib["masters"], abs=2e-3)
    assert plan.phases[1].total_gib == pytest.approx(sum(gib.values()), abs=5e-3)
    assert plan.notes == ("no training set yet: utterances of 0.5 to 15 s, 5.8 s on average, are assumed",)


def test_a_tied_head_is_said():
    config = hebrew_round2(
        untie_head=False, lora=None, phases=(PhaseConfig(name="B", num_epochs=1, lr_by_part={"head": 1e-4}),)
    )
    plan = make_plan(config, blueprint_of(USUAL, config), None)
    assert plan.model == ModelPlan(parameters=2_038_052_480, head="tied to the embeddings")
    assert "tied to the embeddings" in plan.notes[0] and plan.steps is None


def test_a_layer_that_the_model_does_not_have_is_refused():
    phases = (PhaseConfig(name="B", num_epochs=1, lr_by_part={"decoder.layers[20:29]": 1e-4}),)
    config = hebrew_round2(lora=None, phases=phases)
    with pytest.raises(RecipeError, match="this model's decoder has layers 0 to 27"):
        make_plan(config, blueprint_of(USUAL, config), None)
    config = hebrew_round2(lora=LoraSettings(part="decoder.layers[0:29]"))
    with pytest.raises(RecipeError, match="layers 0 to 27"):
        blueprint_of(USUAL, config)


def test_packs_and_a_warm_up_that_never_ends(examples, loaded):
    config = tiny_config(
        phases=(PhaseConfig(name="B", num_epochs=1, lr_by_part={"projector": 1e-4}, warmup_steps=12),), lora=None
    )
    plan = make_plan(config, loaded.model, examples, world_size=2)
    assert plan.training_set.utterances == 22
    assert plan.step.steps_per_epoch == 3 and plan.step.largest_pack_tokens <= config.pack_tokens
    assert plan.notes == ("phase B: its warm-up of 12 steps is longer than its 3 steps; rates reach 25% of the peak",)


def test_a_warm_up_that_takes_most_of_a_phase_is_noted(examples, loaded):
    """Settings of a large data set, copied for a small one, would train below their rates without a word."""

    def notes(warmup_steps: int) -> tuple[str, ...]:
        phase = PhaseConfig(name="B", num_epochs=1, lr_by_part={"projector": 1e-4}, warmup_steps=warmup_steps)
        return make_plan(tiny_config(phases=(phase,), lora=None), loaded.model, examples, world_size=2).notes

    assert not notes(1)
    assert notes(2) == ("phase B: its warm-up of 2 steps takes 67% of its 3 steps; a tenth is usual (warmup_steps)",)


def test_steps_are_timed_with_what_they_replay(examples, loaded):
    """It stands last in the list, so the first steps in its order would have none of it; a step's own part is less."""
    phase = PhaseConfig(name="B", num_epochs=1, lr_by_part={"projector": 1e-4})
    config = tiny_config(phases=(phase,), lora=None, pack_tokens=20_000)
    replay = ReplayPlan(share=0.5, per_step=4, utterances=len(examples))
    long = [replace(one, num_tokens=200 * one.num_tokens, num_frames=200 * one.num_frames) for one in examples]
    short, slow = (make_plan(config, loaded.model, [*examples * 10, *some], replay=replay) for some in (examples, long))
    assert slow.phases[0].step_s > 1.2 * short.phases[0].step_s
    few = make_plan(config, loaded.model, [*examples[:5], *examples], replay=replay)
    assert few.step.steps_per_epoch == 2 and not few.notes
    one_step = make_plan(config, loaded.model, [*examples[:3], *examples], replay=replay)
    assert (
        one_step.notes[0] == "the training set (3 utterances) is smaller than a step (4): every step is a whole epoch"
    )


def test_packs_are_planned_to_fit_the_gpu_and_every_byte_has_a_name():
    config = hebrew_round2(price_per_gpu_hour_usd=0.8, pack_tokens=8192)
    model = blueprint_of(USUAL, config)
    tight, roomy = (
        make_plan(config, model, None, num_utterances=73_579, gpu_memory_gib=gib, world_size=2) for gib in (24, 80)
    )
    for one, other in zip(tight.phases, roomy.phases, strict=True):
        assert one.largest_pack_tokens < config.pack_tokens < other.largest_pack_tokens
        assert one.total_gib <= 24 < other.total_gib <= 80  # the recipe's own pack is planned where it fits
        assert one.gib["activations"] < other.gib["activations"]
        assert one.margin_gib == pytest.approx(24 - one.total_gib, abs=2e-3)
        assert one.utilisation_pct == pytest.approx(one.total_gib / 0.24, abs=0.1)
        assert set(one.gib) >= {"activations", "logits", "gradients", "context", "nccl", "fragments", "workspace"}
    assert tight.phases[1].gib["activations"] > 0
    cost = roomy.cost
    hours = sum(phase.steps * phase.step_s for phase in roomy.phases) / 3600
    assert cost.hours == pytest.approx(hours, abs=0.02) and cost.usd == pytest.approx(cost.hours * 1.6, abs=0.02)


def test_without_a_length_of_packs_they_are_as_large_as_fit_in_every_phase():
    config = hebrew_round2()
    model = blueprint_of(USUAL, config)
    small, large = (make_plan(config, model, None, gpu_memory_gib=gib) for gib in (40, 141))
    fits = [phase.largest_pack_tokens for phase in small.phases]
    assert small.step.pack_tokens == min(fits) == fits[1] < fits[0]
    mean_tokens = sum(size[0] for size in assumed_sizes(OUTLINE, 4096)) / 64
    assert min(fits) > mean_tokens  # a step of 64 utterances is one pack in 40 GiB, as a rule
    assert all(phase.total_gib <= 40 for phase in small.phases)
    longest = sorted((size[0] for size in assumed_sizes(OUTLINE, 4096)), reverse=True)[:64]
    assert large.step.pack_tokens == sum(longest)  # and always in 141 GiB


def test_what_graphs_hold_stands_beside_the_total():
    """It is given back when memory runs out; counted in the total it would halve packs on a smaller GPU."""
    config = hebrew_round2(pack_tokens=8192)
    model = blueprint_of(USUAL, config)
    tight, small, roomy, unknown = (make_plan(config, model, None, gpu_memory_gib=gib) for gib in (20, 40, 141, None))
    assert tight.phases[1].graphs_gib == 0.0
    for phase in (*small.phases, *roomy.phases):  # on the small one as far as a quarter is free before a step
        assert 1.2 * phase.gib["activations"] < phase.graphs_gib < 2 * phase.gib["activations"]
        assert phase.total_gib == pytest.approx(sum(phase.gib.values()), abs=0.01)
    assert unknown.phases[1].graphs_gib is None
    for other in ({"precision": "fp32"}, {"fast": "off"}):  # which launch none
        assert make_plan(hebrew_round2(**other), model, None, gpu_memory_gib=141).phases[1].graphs_gib is None


def test_a_pack_takes_its_launches_however_small_it_is():
    config = hebrew_round2()
    model = blueprint_of(USUAL, config)
    small, large = (make_plan(config, model, None, gpu="H200", gpu_memory_gib=gib) for gib in (24, 141))
    assert small.step.pack_tokens < 3500
    for one, other in zip(small.phases, large.phases, strict=True):
        assert one.step_s > 1.3 * other.step_s


def test_a_gpu_that_holds_not_one_utterance_is_named():
    config = hebrew_round2()
    plan = make_plan(config, blueprint_of(USUAL, config), None, gpu_memory_gib=12)
    assert plan.phases[0].largest_pack_tokens == 0
    assert plan.notes[0] == "phase B: not even a pack of one utterance fits the GPU"
    assert plan.cost.usd is None
    with pytest.raises(RecipeError, match="known are A100, H100, H200"):
        make_plan(config, blueprint_of(USUAL, config), None, gpu="T4")


def test_the_encoders_kept_output_costs_disk_and_saves_operations():
    plans = [
        make_plan(config, blueprint_of(USUAL, config), None, num_utterances=73_579)
        for config in (hebrew_round2(), hebrew_round2(encoder_cache=True))
    ]
    assert [plan.encoder_cache_gib for plan in plans] == [
        0.0,
        pytest.approx(73_579 * 5.8 * 13 * 2048 / 2**30, rel=0.01),
    ]
    assert [phase.encoder_kept for phase in plans[1].phases] == [True, False]
    assert plans[1].phases[0].step_s < plans[0].phases[0].step_s
    assert plans[1].phases[1].step_s == plans[0].phases[1].step_s


def test_a_teacher_beside_the_student_has_its_bytes_and_texts_of_its_own_their_time():
    """A round that does not fit beside its teacher, or takes three times as long, has to say so before it is paid."""
    objectives = ("transcribe", "distil", "on_policy", "min_wer")
    config = hebrew_round2()
    phase = config.phases[0]
    phases = tuple(phase.model_copy(update={"name": name, "objective": name}) for name in objectives)
    config = config.model_copy(update={"phases": phases, "distil": DistilConfig(likelihood_weight=0.0)})
    model = blueprint_of(USUAL, config)
    plan = make_plan(config, model, None, num_utterances=1000, gpu_memory_gib=80, teacher=model)
    weights = 2 * sum(weight.numel() for _, weight in model.named_parameters()) / 2**30
    assert [phase.gib.get("teacher") for phase in plan.phases] == [None, None, pytest.approx(weights, abs=1e-3), None]
    plain, distil, on_policy, min_wer = (phase.step_s for phase in plan.phases)
    assert plain == distil and on_policy / plain == pytest.approx(4 / 3, rel=0.05)
    assert min_wer / plain == pytest.approx(1 + 5 * 4 / 3, rel=0.05)
    assert [note.split(":")[0] for note in plan.notes[-4:-1]] == ["phase distil", "phase on_policy", "phase min_wer"]
