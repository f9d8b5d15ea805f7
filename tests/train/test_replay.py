"""Replay: protects from a share that drifts, an order that ranks or restarts change, prompts of another language."""

from dataclasses import replace

import pytest
import ranks
import torch
from killed import PREEMPTED
from tiny_run import make_rows, outcome, rows, tiny_config, write_shard

from shibolet.errors import DataError, RecipeError
from shibolet.model.protocols import Prompt
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.records.documents.plan import Plan
from shibolet.train.config import PhaseConfig, Replay, ReplaySource
from shibolet.train.objective import TrainStep
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.packing import Draw
from shibolet.train.reader import PackReader
from shibolet.train.replay import read_replay
from shibolet.train.stage import Reached, run_train

DRAW = Draw(num_own=22, utterances_per_step=8, seed=5, num_replayed=5, replayed_per_step=2)


@pytest.fixture(scope="module")
def replay(tmp_path_factory) -> Replay:
    """A quarter of each step, from five utterances of English."""
    folder = tmp_path_factory.mktemp("english")
    made = [row | {"id": f"english/{row['id']}", "text": "good morning"} for row in make_rows(5, seed=9)]
    write_shard(folder / "train-00000.parquet", made)
    return Replay(share=0.25, sources=(ReplaySource(prepared_dir=folder, language="English"),))


def train(base_dir, prepared_dir, out, replay, **changes):
    config = tiny_config(
        phases=(PhaseConfig(name="B", num_epochs=1, lr_by_part={"projector": 2e-3}),), lora=None, untie_head=False
    )
    return run_train(
        prepared_dir=prepared_dir, out_dir=out, base=str(base_dir), config=config, language="Hebrew", seed=5,
        replay=replay, score_dev=None, about={}, num_threads=1, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("draw", [DRAW, Draw(num_own=100, utterances_per_step=16, seed=0, num_replayed=40,
                                             replayed_per_step=3)])  # fmt: skip
def test_an_epoch_is_one_pass_of_the_trainings_own_and_replay_keeps_its_share(draw: Draw):
    """Over three epochs: each own utterance once in each, every pass of the replayed in another order, and whole."""
    turns = []
    for epoch in range(3):
        steps = [draw.utterances(epoch * draw.steps_per_epoch + step) for step in range(draw.steps_per_epoch)]
        assert sorted(u for step in steps for u in step if u < draw.num_own) == list(range(draw.num_own))
        assert [len(step) for step in steps[:-1]] == [draw.utterances_per_step] * (draw.steps_per_epoch - 1)
        of_step = [sum(u >= draw.num_own for u in step) for step in steps]
        assert of_step[:-1] == [draw.replayed_per_step] * (len(steps) - 1) and of_step[-1] >= 1
        share = sum(of_step) / sum(map(len, steps))
        assert share == pytest.approx(draw.replayed_per_step / draw.utterances_per_step, abs=1 / sum(map(len, steps)))
        turns += [u - draw.num_own for step in steps for u in step if u >= draw.num_own]
    passes = [turns[at : at + draw.num_replayed] for at in range(0, len(turns), draw.num_replayed)]
    whole = [one for one in passes if len(one) == draw.num_replayed]
    assert len(whole) >= 1 and all(sorted(one) == list(range(draw.num_replayed)) for one in whole)
    assert len({tuple(one) for one in whole}) == len(whole)


def test_a_step_without_replay_is_what_it_was():
    plain = Draw(num_own=22, utterances_per_step=8, seed=5)
    assert [len(plain.utterances(step)) for step in range(3)] == [8, 8, 6] and plain.steps_per_epoch == 3
    assert DRAW.steps_per_epoch == 4 and len(DRAW.utterances(7)) == 6


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_share_that_is_no_utterance_or_all_of_them_is_refused(share: float):
    with pytest.raises(RecipeError, match=f"share is {share:g}, which is [08] of the 8 utterances of a step"):
        tiny_config().replay_per_step(share)


def test_each_utterance_has_the_prompt_of_its_own_language(loaded, prompt, examples, replay):
    """Token for token as if it were alone in a training of that language: no English speech under a Hebrew prompt."""
    replayed = read_replay(replay, FAMILY, loaded.tokenizer, 4096, examples)
    english = FAMILY.targets(loaded.tokenizer, Prompt("English"))
    mixed = [examples[0], replayed.examples[0], examples[1]]
    pack = PackReader(FAMILY, prompt.frame, loaded.extractor).longest_pack(mixed)
    alone = [
        PackReader(FAMILY, frame, loaded.extractor).longest_pack([replace(one, frame=None)])
        for one, frame in zip(mixed, (prompt.frame, english.frame, prompt.frame), strict=True)
    ]
    assert pack.input_ids.tolist() == torch.cat([one.input_ids for one in alone], dim=-1).tolist()
    assert pack.labels.tolist() == torch.cat([one.labels for one in alone], dim=-1).tolist()
    said = [loaded.tokenizer.decode(one.input_ids.flatten()) for one in alone]
    assert ["language English" in text for text in said] == [False, True, False]
    assert ["language Hebrew" in text for text in said] == [True, False, True]


def test_an_id_that_stands_twice_is_refused(loaded, examples, prepared_dir):
    twice = Replay(share=0.25, sources=(ReplaySource(prepared_dir=prepared_dir, language="Hebrew"),))
    with pytest.raises(DataError, match=r"'u0000' .* is replayed and has the id of another utterance"):
        read_replay(twice, FAMILY, loaded.tokenizer, 4096, examples)


def test_the_loss_is_over_all_labels_and_recorded_of_each_part(loaded, prompt, examples, replay):
    """The gradient of a mixed pack is that of an objective that knows nothing of replay; the parts add up to it."""
    replayed = read_replay(replay, FAMILY, loaded.tokenizer, 4096, examples)
    mixed = [*examples[:3], *replayed.examples[:2]]
    found = []
    for objective in (Transcribe(FAMILY), Transcribe(FAMILY, replays=True)):
        reader = PackReader(
            FAMILY, prompt.frame, loaded.extractor, needs=objective.needs
        )  # fmt: skip
        loaded.model.zero_grad()
        with objective.context(loaded.model):
            loss = objective.loss(loaded.model, reader.pack(mixed), TrainStep(mixed, 0.0))
            loss.total.backward()
        found.append((loss, loaded.model.get_output_embeddings().weight.grad.clone()))
    (plain, plain_grad), (split, split_grad) = found
    torch.testing.assert_close(split.total, plain.total)
    torch.testing.assert_close(split_grad, plain_grad)
    own, other = (sum(e.num_targets for e in some) for some in (mixed[:3], mixed[3:]))
    parts = split.numbers["own_loss"] * own + split.numbers["replay_loss"] * other
    torch.testing.assert_close(parts, plain.total.detach())
    assert split.numbers["own_loss"] != pytest.approx(float(split.numbers["replay_loss"]))


def test_a_training_that_stops_in_the_middle_comes_to_the_same_bytes(base_dir, prepared_dir, tmp_path, replay):
    """And its rows say what each part lost; with another share it is another training, which cannot go on from it."""
    train(base_dir, prepared_dir, tmp_path / "whole", replay)
    with pytest.raises(Reached):
        train(base_dir, prepared_dir, tmp_path / "cut", replay, until_step=3)
    with pytest.raises(RecipeError, match="replay"):
        train(base_dir, prepared_dir, tmp_path / "cut", replay.model_copy(update={"share": 0.5}))
    train(base_dir, prepared_dir, tmp_path / "cut", replay)
    whole, cut = outcome(tmp_path / "whole"), outcome(tmp_path / "cut")
    results = [name for name in whole if name.startswith("final/") or name in ("metrics", "result.json", "plan.json")]
    assert len(results) > 6 and not [name for name in results if cut[name] != whole[name]]
    made = rows(tmp_path / "whole")
    assert [row["utterances"] for row in made] == [8, 8, 8, 6]
    assert all(row["numbers"]["own_loss"] > 0 and row["numbers"]["replay_loss"] > 0 for row in made)
    plan = Plan.read(tmp_path / "whole" / "plan.json")
    assert plan.training_set.utterances == 22 and plan.training_set.replay.utterances == 5
    assert plan.step.arithmetic == "22 utterances = 3 x 6 + 4 -> 4 steps an epoch, and 2 replayed in each"


@pytest.mark.slow("train", seconds=60)
def test_two_ranks_replay_what_one_does(base_dir, prepared_dir, tmp_path, replay):
    """Step by step the same losses, of each part too, through a restart of both in the middle."""
    assert ranks.train(1, base_dir, prepared_dir, tmp_path / "one", replay=replay) == [0]
    assert ranks.train(2, base_dir, prepared_dir, tmp_path / "two", replay=replay, terminate_at=3) == [PREEMPTED] * 2
    assert ranks.train(2, base_dir, prepared_dir, tmp_path / "two", replay=replay) == [0, 0]
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5) and two["utterances"] == one["utterances"]
        assert two["numbers"] == pytest.approx(one["numbers"], rel=1e-5)
