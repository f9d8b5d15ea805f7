"""The training loop: phases outside, steps inside, the same mathematics whatever the ranks and packs.

A step: count targets, forward and backward each pack, did memory hold, all finite?, clip, update, record. What a step
does is a function of the weights, the moments and its number alone; so a run that was cut off continues bit for bit.
objective.py says what is minimised, guards.py watches, ladder.py gives way, keeper.py remembers.
"""

import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor, nn

from shibolet.errors import OutOfMemory, Preempted
from shibolet.records.documents.training import DevRates, StepRow
from shibolet.records.ledger import LedgerLine
from shibolet.train import guards
from shibolet.train.alarm import device_use, is_crowded, memory_alarm, step_memory
from shibolet.train.checkpoint import CheckpointStore, load_weights
from shibolet.train.config import PhaseConfig, TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.draws import seed_step
from shibolet.train.guards import RollBack
from shibolet.train.keeper import Keeper
from shibolet.train.ladder import DECODER_LAYERS, MemoryLadder, Narrowed
from shibolet.train.objective import Objective, TrainStep
from shibolet.train.optimizer import Carried, MasterAdamW, States, assert_optimizer_covers
from shibolet.train.packing import Draw, packs_of_rank
from shibolet.train.phases import Groups
from shibolet.train.ranks import any_rank, by_main, from_main
from shibolet.train.reader import PackRequest, Reader
from shibolet.train.records import MEMORY_FULL, Records, step_row
from shibolet.train.schedule import lr_factor, phase_steps
from shibolet.train.shards import give_homes
from shibolet.train.signals import StopSignals
from shibolet.train.state import Decisions, TrainState
from shibolet.train.update import Ran, update

LOG = logging.getLogger(__name__)

Made = TypeVar("Made")
StepCallback = Callable[[StepRow], None]  # gets the row of numbers of each step, on the main rank


class GradualUnfreezeTrainer:
    """Trains a model through the phases of a plan; calling `train` again after an interruption continues."""

    def __init__(
        self,
        *,
        model: nn.Module,
        thaw: Callable[[PhaseConfig], Groups],
        checkpoint_activations: Callable[[], None],
        release_launches: Callable[..., bool],  # `Family.release_launches` of the model
        objective_of: Callable[[PhaseConfig], Objective],
        reader: Reader,
        examples: Sequence[TrainExample],
        ledger: Sequence[LedgerLine],
        new_ladder: Callable[[Decisions], MemoryLadder],
        config: TrainConfig,
        seed: int,
        fingerprint: dict[str, str],
        last_phase: int,
        store: CheckpointStore,
        score_dev: Callable[[str], DevRates] | None,  # of the model as it is: `stage.DevScorer`
        release_dev: Callable[[], bool],  # lets go of what scoring keeps; whether it kept anything
        ranks: PartialState,
        records: Records,
        on_step: StepCallback | None = None,
        draw: Draw | None = None,  # None: of all examples, each once an epoch
    ) -> None:
        """`thaw` makes a phase's parameters, and no others, trainable, and returns them by part.
        `checkpoint_activations` makes the model compute activations again in the backward pass.
        """
        self.model, self.thaw, self.objective_of, self.reader = model, thaw, objective_of, reader
        self.examples, self.checkpoint_activations, self.new_ladder = examples, checkpoint_activations, new_ladder
        self.ledger, self.records, self.on_step, self.score_dev = ledger, records, on_step, score_dev
        self.config, self.seed, self.last_phase, self.release_dev = config, seed, last_phase, release_dev
        self.device, self.is_main, self.release_launches = ranks.device, ranks.is_main_process, release_launches
        self.rank, self.num_ranks = ranks.process_index, ranks.num_processes
        self.keeper = Keeper(model, store, fingerprint, is_main=self.is_main)
        self.draw = draw or Draw(num_own=len(examples), utterances_per_step=config.utterances_per_step, seed=seed)
        self.steps_per_epoch = self.draw.steps_per_epoch
        self.state = TrainState()
        self.ladder = new_ladder(self.state.decisions)
        self.stop_asked = False  # by a signal, or by who watches the steps of one rank alone
        self._checkpoint_s = 0.0  # stood still for a checkpoint since the last row

    def train(self, at_end: Callable[[TrainState], Made] = lambda state: state) -> Made:
        """Run what is left of the plan; what `at_end` gives, which every rank calls once there are no more steps.

        The last checkpoint is on its way to the disk then, and is there in the end. Preempted after a signal, with a
        checkpoint.
        """
        carried = self._resume()
        try:
            with StopSignals(deaf=self.num_ranks > 1) as self.signals:
                while (index := self.state.next_phase(self.last_phase)) is not None:
                    try:
                        carried = self._run_phase(index, carried)
                    except RollBack as order:
                        carried = self._roll_back(order)
            del carried
            made = at_end(self.state)
            self._commit()
            by_main(lambda: self.keeper.keep_only(self._kept()))  # a crash may have come in between
        finally:
            gc.unfreeze()
            self.reader.close()  # its threads work within torch: they have ended before Python does
            self.keeper.close()
            self.records.close()
        return made

    def _resume(self, at_most: int | None = None) -> States:
        self.state, carried = self.keeper.restore(at_most)
        self.ladder = self.new_ladder(self.state.decisions)
        self.records.open(self.state)
        self.records.ledger([*self.ledger, *self.ladder.left()])
        return carried

    def _roll_back(self, order: RollBack) -> States:
        """Resume where the guards say, with what was decided since."""
        self._commit()
        decisions = self.state.decisions
        carried = self._resume(order.step)
        self.state.decisions = decisions
        self.ladder = self.new_ladder(self.state.decisions)
        order.change(decisions)
        self.records.event(self.state, "roll_back", str(order))
        return carried

    def _run_phase(self, index: int, carried: Carried) -> MasterAdamW:
        if index != self.state.phase_index:
            is_same_loss = self.config.is_same_loss(self.state.phase_index, index)
            self.state.enter_phase(index)
            guards.enter_phase(self.state.losses, self.config.guards, is_same_loss)
        planned = self.config.phases[index]
        if index in self.state.decisions.lowered:
            planned = planned.model_copy(update={"lr_by_part": {**planned.lr_by_part, **planned.lr_if_diverged}})
        num_steps = phase_steps(planned, self.steps_per_epoch)
        while True:
            phase = self.ladder.narrowed(planned)
            optimizer = self._enter(phase, carried, self.state.step - self.state.step_in_phase + num_steps)
            try:
                self._try_largest_pack(optimizer, phase)
                gc.collect()
                gc.freeze()  # what is there now stays: looking through it for garbage stops the launches
                if self.state.step_in_phase == 0:
                    self.records.phase(self.state, phase.name, optimizer.num_parameters(), self.steps_per_epoch)
                    self._score_untrained(phase)
                while not self.state.phase_ended:
                    row = self._step(optimizer, phase, num_steps)
                    self._after_step(row, optimizer, phase, num_steps)
                return optimizer
            except Narrowed:
                carried = optimizer

    def _enter(self, phase: PhaseConfig, carried: Carried, end: int) -> MasterAdamW:
        """Thaw a phase that ends at step `end`, its parameters under an optimizer that goes on with their moments."""
        gc.unfreeze()
        self.release_dev()
        self.release_launches(for_good=False)
        groups, self.objective = self.thaw(phase), self.objective_of(phase)
        try:
            optimizer = MasterAdamW(groups, phase.lr_by_part, self.config.optimizer, carried)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"phase {phase.name}: the GPU does not hold the model with masters and moments of what trains, before "
                "any utterance; 'shibolet plan' says how much they take: train fewer parts, or use more or larger GPUs"
            ) from error
        assert_optimizer_covers(self.model, optimizer)
        carried.clear()  # what no longer trains is let go
        give_homes(self.model)
        self.keeper.enter_phase(optimizer)
        self._give_way()
        self.reader.enter_phase(
            self.state.step, lambda: (r for step in range(self.state.step, end) for r in self._requests(step))
        )
        self.model.train()
        return optimizer

    def _try_largest_pack(self, optimizer: MasterAdamW, phase: PhaseConfig) -> None:
        """Run the largest pack there can be through a step that changes nothing; smaller ones until every rank can."""
        most = math.ceil(self.config.utterances_per_step / self.num_ranks)
        while True:
            chosen = tuple(self.examples[u] for u in self.ladder.largest_pack(most))
            request = PackRequest(self.state.step, 0, self.state.step // self.steps_per_epoch, chosen)
            # Read here and now: the cache of encoder states must not know of it, nor those who read ahead.
            packs = (self.reader.longest_pack(r.examples) for r in [request])
            ran = self._run_packs(optimizer, [request], packs, TrainStep(chosen, 0.0, self.state.step))
            told = update(optimizer, ran, dry=True)
            if not told.failed_tokens:
                return
            self._make_room(told.failed_tokens, phase)

    def _utterances(self, step: int) -> list[int]:
        """Those of a step; none when a roll-back left it out."""
        if step in self.state.decisions.left_out:
            return []
        return [u for u in self.draw.utterances(step) if self.ladder.trains(u)]

    def _requests(self, step: int) -> list[PackRequest]:
        """This rank's packs of a step; none when the step has fewer utterances than there are ranks."""
        utterances, epoch = self._utterances(step), step // self.steps_per_epoch
        if not utterances:
            return []
        drawn = {u: self.examples[u].in_epoch(epoch) for u in utterances}  # a step may replay one twice
        lengths = dict(zip(drawn, self.reader.lengths(list(drawn.values()), epoch), strict=True))
        packs = packs_of_rank(
            utterances, lengths, rank=self.rank, world_size=self.num_ranks, pack_tokens=self.ladder.pack_tokens
        )
        return [PackRequest(step, number, epoch, tuple(drawn[u] for u in pack)) for number, pack in enumerate(packs)]

    def _prepare_next(self, num_steps: int) -> None:
        """Have the first pack of the phase's next step ready, where there will be one."""
        if self.state.step_in_phase + 1 < num_steps and not self.signals.received:
            self.reader.prepare(self._requests(self.state.step + 1))

    def _make_room(self, failed_tokens: int, phase: PhaseConfig) -> None:
        """Let go of what only saves time; where no rank held any of it, take the next rung of the memory ladder."""
        if any_rank(any([self.release_dev(), self.release_launches(for_good=True)])):
            return
        narrow = DECODER_LAYERS in self.state.decisions.rungs
        self.records.event(self.state, "out_of_memory", self.ladder.climb(failed_tokens, phase))
        self._give_way()
        torch.cuda.empty_cache()
        if not narrow and DECODER_LAYERS in self.state.decisions.rungs:
            raise Narrowed

    def _give_way(self) -> None:
        """Do what the rungs taken so far say."""
        if self.ladder.checkpoints_activations:
            self.checkpoint_activations()
        self.records.ledger([*self.ledger, *self.ladder.left()])

    def _step(self, optimizer: MasterAdamW, phase: PhaseConfig, num_steps: int) -> StepRow:
        """One optimizer step over its utterances; the row of numbers that describes it."""
        started = time.perf_counter()
        optimizer.set_lr(lr_factor(self.state.step_in_phase, phase, num_steps))
        while True:
            requests = self._requests(self.state.step)
            epoch = self.state.step // self.steps_per_epoch
            chosen = [self.examples[u].in_epoch(epoch) for u in self._utterances(self.state.step)]
            seed_step(self.seed, self.state.step, self.rank, self.device)
            step = TrainStep(chosen, self.state.step_in_phase / num_steps, self.state.step)
            ran = self._run_packs(optimizer, requests, self.reader.read(self.model, requests), step)
            told = update(
                optimizer, ran, dry=not chosen, flags=(self.signals.received, self.keeper.failed),
                levels=device_use(self.device), meanwhile=lambda: self._prepare_next(num_steps),
            )  # fmt: skip
            if not told.failed_tokens:
                break
            self._make_room(told.failed_tokens, phase)
        self.stop_asked, disk_failed = told.flags
        if disk_failed:
            self._commit()  # raises: the last checkpoint could not be written
        loss = told.loss_sum / self.objective.count(chosen) if chosen else None
        skipped = None if told.done else self._fault(loss, told.grad_norm, requests, ran.losses)
        self.reader.end_step(self.state.step + 1)
        row = step_row(
            self.state, phase, chosen, epoch_steps=self.steps_per_epoch,
            lr=optimizer.lr_by_part(), loss=loss, grad_norm=told.grad_norm, grad_norm_by_part=told.grad_norm_by_part,
            numbers=told.numbers, skipped=skipped,
            seconds={
                "step": time.perf_counter() - started, "data": self.reader.waited_s, "device": told.waited_s,
                "checkpoint": self._checkpoint_s,
            },
            memory=step_memory(self.device, told.highest),
        )  # fmt: skip
        self._checkpoint_s = self.reader.waited_s = 0.0
        return row

    def _run_packs(
        self, optimizer: MasterAdamW, requests: Sequence[PackRequest], packs: Iterator[Any], step: TrainStep
    ) -> Ran:
        """Forward and backward of this rank's packs of a step; gradients are summed over ranks from the last on."""
        count = self.objective.count(step.examples)
        ran, examples = Ran([], {name: [] for name in self.objective.numbers}), ()
        try:
            with self.objective.context(self.model):
                for number, request in enumerate(requests, start=1):
                    examples = request.examples
                    found = self.objective.loss(self.model, next(packs), step)
                    with optimizer.shards.early(is_last=number == len(requests)):
                        (found.total / count).backward()
                    ran.add(found)
            if requests:
                optimizer.assert_gradients()
        except torch.OutOfMemoryError:
            return replace(ran, failed_tokens=sum(e.tokens_of(e.longest(self.config.augment)) for e in examples))
        return ran

    def _fault(self, loss: float | None, norm: float, requests: Sequence[PackRequest], losses: Sequence[Tensor]) -> str:
        """Why a step has not changed the weights; the log says which utterances are to blame."""
        if loss is None:
            return "nothing to train on"
        for request, value in zip(requests, losses, strict=True):
            if not value.isfinite():
                ids = [example.id for example in request.examples]
                step, lost = self.state.step + 1, value.item()
                LOG.warning("step %d, rank %d: loss %s in a pack of %s", step, self.rank, lost, ids)
        return f"loss {loss}, gradient norm {norm}"

    def _after_step(self, row: StepRow, optimizer: MasterAdamW, phase: PhaseConfig, num_steps: int) -> None:
        """Record, judge, score, checkpoint and stop, in that order."""
        state, config = self.state, self.config
        state.step += 1
        state.step_in_phase += 1
        state.utterances_seen += row.utterances
        state.phase_ended = state.step_in_phase >= num_steps
        self.records.step(row)
        if row.skipped:
            self.records.event(state, "skipped", row.skipped)
        if row.utterances and (odd := guards.watch(state, row.loss, config.phases, config.guards)):
            self.records.event(state, "outlier", odd)
        if full := memory_alarm(row.memory, state.decisions):
            self.records.event(state, MEMORY_FULL, full)
        wanted = False
        if self.score_dev and self._is_to_be_scored():
            state.add_dev_score(phase.name, self.dev_score(f"after step {state.step:,}"))
            wanted = state.step in self._best_steps()  # it may be the result, or part of its average
            if config.patience is not None and state.scores_without_gain >= config.patience:
                state.phase_ended = True
            self.records.dev(state)
        if self.on_step and self.is_main:
            self.on_step(row)
        due = state.step % config.checkpoint_every_steps == 0
        if due or wanted or state.phase_ended or self.stop_asked:
            self._save(optimizer)
        if self.stop_asked:
            self._commit()
            raise Preempted(
                f"stopped by a signal after step {state.step}, with a checkpoint; the same command continues"
            )

    def _is_to_be_scored(self) -> bool:
        """Whether a dev score is due after this step, for one reason or for several."""
        state, config = self.state, self.config
        epoch_ended = config.eval_every_epoch and state.step % self.steps_per_epoch == 0
        return state.phase_ended or epoch_ended or state.step % config.eval_every_steps == 0

    def _score_untrained(self, phase: PhaseConfig) -> None:
        """Score the model before the first step of the run, once."""
        state = self.state
        if self.score_dev and self.config.eval_every_epoch and state.step == 0 and not state.dev:
            state.add_dev_score(phase.name, self.dev_score("before the first step"))
            self.records.dev(state)

    def dev_score(self, when: str) -> DevRates:
        """What the main rank finds on dev, the same on every rank; `when` says of which weights."""
        self.model.eval()
        with torch.no_grad():
            found = self.score_dev(when)
        self.model.train()
        if is_crowded(self.device):
            torch.cuda.empty_cache()  # what decoding held is not what steps need, and would be taken for it
        return from_main(found)

    def score_average(self, steps: Sequence[int]) -> DevRates:
        """The dev score of the mean of these checkpoints."""
        self._commit()
        self.keeper.fetch(steps)
        load_weights(self.model, self.keeper.weights(steps))
        return self.dev_score(f"of steps {', '.join(map(str, sorted(steps)))} averaged")

    def _save(self, optimizer: MasterAdamW) -> None:
        started = time.perf_counter()
        self._tell_committed()
        if self.state.phase_ended:
            self.state.phase_end_steps.append(self.state.step)
        self.records.sync()
        self.keeper.save(self.state, optimizer, self._kept())
        self._checkpoint_s += time.perf_counter() - started

    def _kept(self) -> set[int]:
        """Steps whose checkpoints stay: the end of each phase, the best by dev WER up to there, and the best so far.

        What goes on from the end of a phase may come to nothing better than what was best by then.
        """
        ends = self.state.phase_end_steps
        return {*ends, *self._best_steps(), *(step for end in ends for step in self._best_steps(end))}

    def _best_steps(self, up_to: int | None = None) -> set[int]:
        return {score.step for score in self.state.best_of(self.config.average_best or 1, up_to)}

    def _commit(self) -> None:
        """Until the last checkpoint is on disk, on every rank."""
        self.keeper.commit()
        self._tell_committed()

    def _tell_committed(self) -> None:
        for step in self.keeper.committed():
            if step in self.state.phase_end_steps:
                self.records.trackers.folder("checkpoint", step, self.keeper.store.path(step))
