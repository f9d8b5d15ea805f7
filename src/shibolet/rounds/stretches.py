"""The stretches of a round, each with its arithmetic and the seconds that come of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from shibolet.audit.selftest import num_copies
from shibolet.evaluate.doses import RobustnessConfig
from shibolet.recipe import Recipe
from shibolet.records.documents.plan import PhasePlan
from shibolet.records.documents.round_plan import Stretch
from shibolet.rounds import rates as of
from shibolet.rounds.rates import Rate, Rates
from shibolet.train.objectives.cost import asks_once, writes_texts
from shibolet.train.packing import steps_per_epoch
from shibolet.train.schedule import phase_steps

NOT_MEASURED = "no round of such a model was timed on such a machine; after one, --rates-from RUN predicts from it"
BY_PLAN = "the model's operations and bytes, as the training plan has them"


@dataclass(frozen=True, kw_only=True)
class Stretches:
    """A round on so many rows, at these rates."""

    recipe: Recipe
    rates: Rates
    phases: Sequence[PhasePlan]  # of the training plan
    rows: int | None
    train: int | None  # utterances
    dev: int | None
    mean_s: float  # of an utterance
    test: int | None  # utterances of the evaluation sets whose size is known; None: of none
    unknown_sets: tuple[str, ...]
    replay_rows: int | None = None  # of the sources that are replayed
    unlabelled_s: float | None = None  # audio without text; None: not known of a source
    teacher_pass_s: float | None = None  # for an utterance, as the training plan predicts it

    def all(self) -> tuple[Stretch, ...]:
        """In the order in which they come."""
        return tuple(self._priced(one) for one in self._all())

    def _all(self) -> Iterator[Stretch]:
        audit, prepare = self.recipe.audit, self.recipe.prepare
        yield self._hearing("hearing the sample", of.HEAR, self.rows)
        if prepare.unheard == "audit" and prepare.drop_low_quality:
            yield self._rest(audit.sample.num_utterances(self.rows) if self.rows else None)
        yield from self._labelling()
        yield self._of("preparing", of.PREPARE, self.rows)
        if self.recipe.data.replayed:
            yield self._of("preparing what is replayed", of.PREPARE, self.replay_rows)
        if self.recipe.gate.on_stop == "repair":
            kept = None if None in (self.train, self.dev) else self.train + self.dev
            yield self._hearing("hearing again after STOP", of.AGAIN, kept)
        if self.recipe.models.teacher:
            yield from self._teacher()
        yield self._of("training: start", of.START, 1)
        for planned in self.phases:
            yield self._steps(planned)
        checkpoints = len(self._every(self.recipe.train.checkpoint_every_steps))
        yield self._of("training: checkpoints", of.CHECKPOINT, checkpoints or None)
        yield self._dev_scores()
        yield self._of("training: end", of.END, 1)
        if self.recipe.evaluate.audit_sets:
            yield self._on_sets("hearing the test sets", of.SETS, 1)
        yield self._on_sets("scoring both models", of.SCORE, 2)
        if self.recipe.robustness:
            yield self._doses(self.recipe.robustness)
        if self.recipe.parts:
            yield self._on_sets("scoring parts, at most", of.SCORE, 2)
            if self.recipe.parts.tune_decoding:
                yield _unknown("ways to decode, on dev", NOT_MEASURED)
        yield self._of("verdicts, pages", of.PAGES, 1)

    def _labelling(self) -> Iterator[Stretch]:
        """Writer and listener hear the clips of the calibration twice, audio without text, and what is flagged."""
        config, data = self.recipe.label, self.recipe.data
        if config.recut and self.recipe.prepare.drop_low_quality:
            yield _unknown(
                "hearing long utterances again", "how many are longer than prepare.max_duration_s is not known before"
            )
        if not (data.unlabelled or config.flagged):
            return
        missing = "how much the audit flags, which is heard again, is not known before" if config.flagged else None
        for name, stretch in (("labelling: writing", of.SCORE), ("labelling: listening", of.HEAR)):
            if self.rows is None or self.unlabelled_s is None:
                yield _unknown(name, "the hours of data.unlabelled, or the number of rows, are not known")
                continue
            known, pieces = 2 * min(config.calibration_clips, self.rows), round(self.unlabelled_s / self.mean_s)
            hours = f"{self.unlabelled_s / 3600:.3g} h, as {pieces:,} clips of {self.mean_s:.3g} s"
            one = self._of(name, stretch, known + pieces, f"({known:,} + {pieces:,})")
            words = f"{one.arithmetic} ({hours})" if pieces else one.arithmetic
            yield one.model_copy(update={"arithmetic": words, "missing": one.missing or missing})

    def _teacher(self) -> Iterator[Stretch]:
        """Dev of teacher and student, the teacher's texts and their audit, and its one pass over the training set."""
        config = self.recipe
        if self.dev is None:
            yield _unknown("teacher: dev scores", "the number of rows is not known")
        else:
            num = min(self.dev, config.evaluate.dev_utterances or self.dev)
            yield self._of("teacher: dev scores", of.DEV, 2 * num, f"2 x {num:,}")
        if config.train.distil and config.train.distil.texts:
            written = self._of("teacher: writing its texts", of.SCORE, self.train)
            yield written.model_copy(update={"missing": written.missing or "the texts that are kept train too"})
            most = None if self.train is None else 2 * self.train
            yield self._of("teacher: audit of its texts, at most", of.AGAIN, most)
        if not asks_once(config.train):
            return
        name = "teacher: its pass over the training set"
        if self.rates.by_phase is not None:
            yield _unknown(name, "of a round that was measured it is in the dev scores, if there was a teacher")
        elif not self.train or self.teacher_pass_s is None:
            yield _unknown(name, NOT_MEASURED if self.train else "the number of rows is not known")
        else:
            yield Stretch(
                name=name, arithmetic=f"{self.train:,} x {1000 * self.teacher_pass_s:.3g} ms, forward alone",
                seconds=self.train * self.teacher_pass_s, usd=None, missing=None, rate_from=BY_PLAN,
            )  # fmt: skip

    def _hearing(self, name: str, stretch: str, rows: int | None) -> Stretch:
        """A sample with the self-test's copies."""
        if not rows:
            return _unknown(name, "the number of rows is not known")
        sample, num_clips = self.recipe.audit.sample, self.recipe.audit.selftest.num_clips
        num = sample.num_utterances(rows)
        copies = num_copies(min(num_clips, num))
        bound = " at most" if num < round(rows * sample.sample_frac) else ""
        words = f"{100 * sample.sample_frac:g}% of {rows:,},{bound} {num:,}, + {copies:,} copies = {num + copies:,}"
        return self._of(name, stretch, num + copies, words)

    def _rest(self, sampled: int | None) -> Stretch:
        if sampled is None:
            return _unknown("hearing the rest", "the number of rows is not known")
        rest = self.rows - sampled
        return self._of("hearing the rest", of.REST, rest, f"{self.rows:,} - {sampled:,} = {rest:,}")

    def _of(self, name: str, stretch: str, num: int | None, words: str | None = None) -> Stretch:
        """`num` utterances, clips or times at the rate of a stretch; `words` say how they come about."""
        if num is None:
            return _unknown(name, "the number of rows is not known")
        if (rate := self.rates.by_stretch.get(stretch)) is None:
            return _unknown(name, NOT_MEASURED)
        arithmetic, seconds = self._at(rate, num, words)
        return Stretch(name=name, arithmetic=arithmetic, seconds=seconds, usd=None, missing=None, rate_from=rate.source)

    def _at(self, rate: Rate, num: int, words: str | None = None) -> tuple[str, float]:
        """The arithmetic of so much at a rate, and its seconds; nothing takes nothing."""
        if rate.unit == "times":
            more = f" + {num:,} x {1 / rate.per_s:.2g} s" if rate.per_s != of.inf else ""
            return f"{rate.start_s:.3g} s{more}".removeprefix("0 s + "), (rate.start_s + num / rate.per_s) * (num > 0)
        is_audio = rate.unit == "audio s"
        said = f"{words or f'{num:,}'}{f' x {self.mean_s:.3g} s' if is_audio else ''}"
        speed = f"{rate.per_s:,.0f}" if rate.per_s >= 100 else f"{rate.per_s:.3g}"
        begun = f" + {rate.start_s:.3g} s" if rate.start_s else ""
        seconds = rate.start_s + num * (self.mean_s if is_audio else 1) / rate.per_s
        return f"{said} / {speed} {rate.unit} a second{begun}", seconds * (num > 0)

    @cached_property
    def _per_epoch(self) -> int | None:
        return steps_per_epoch(self.train, self.recipe.own_per_step) if self.train else None

    @cached_property
    def _num_steps(self) -> list[int]:
        """By phase; none where the size of the training set is not known."""
        if self._per_epoch is None:
            return []
        return [phase_steps(phase, self._per_epoch) for phase in self.recipe.train.phases]

    @cached_property
    def _ends(self) -> set[int]:
        """The last step of each phase."""
        return {sum(self._num_steps[: i + 1]) for i in range(len(self._num_steps))}

    def _every(self, interval: int) -> set[int]:
        """Steps at an interval, and the ends of phases; none where the size of the training set is not known."""
        return set(range(interval, sum(self._num_steps) + 1, interval)) | self._ends

    @cached_property
    def _epoch_ends(self) -> set[int]:
        """The steps after which dev is scored because an epoch ends."""
        if not (self._per_epoch and self.recipe.train.eval_every_epoch):
            return set()
        return set(range(self._per_epoch, sum(self._num_steps) + 1, self._per_epoch))

    def _steps(self, planned: PhasePlan) -> Stretch:
        name, config = f"training: {planned.name}", self.recipe.train
        if self._per_epoch is None:
            return _unknown(name, "the number of rows is not known")
        phase, missing = next(one for one in config.phases if one.name == planned.name), None
        steps = phase_steps(phase, self._per_epoch)
        counted = f"{planned.epochs:g} x {self._per_epoch:,} = {steps:,} steps"
        if self.rates.by_phase is None:
            if planned.step_s is None:
                return _unknown(name, NOT_MEASURED)
            arithmetic, seconds = f"{counted} x {planned.step_s:.3f} s", steps * planned.step_s
            source = BY_PLAN
            missing = "the texts that the model writes in every step" if writes_texts(config, phase) else None
        elif (rate := self.rates.by_phase.get(planned.name)) is None:
            return _unknown(name, f"the round that was measured has no phase {planned.name}")
        else:
            own_per_step = self.recipe.own_per_step
            replayed = -(-self.train * (config.utterances_per_step - own_per_step) // own_per_step)
            num = round(planned.epochs * (self.train + replayed))
            of_epoch = f"({self.train:,} + {replayed:,} replayed)" if replayed else f"{self.train:,}"
            arithmetic = f"{planned.epochs:g} x {of_epoch} utterances / {rate.per_s:.3g} a second"
            seconds, source = num / rate.per_s, rate.source
        return Stretch(name=name, arithmetic=arithmetic, seconds=seconds, usd=None, missing=missing, rate_from=source)

    def _dev_scores(self) -> Stretch:
        name, config = "training: dev scores", self.recipe
        if not self._num_steps or self.dev is None:
            return _unknown(name, "the number of rows is not known")
        scores = len(self._every(config.train.eval_every_steps) | self._epoch_ends)
        if config.train.eval_every_epoch and self.rates.by_phase is None:
            scores += 1  # before the first step: a round that was measured has it in its start
        of_each = min(self.dev, config.evaluate.dev_utterances or self.dev)
        return self._of(name, of.DEV, scores * of_each, f"{scores} x {of_each:,} = {scores * of_each:,}")

    def _on_sets(self, name: str, stretch: str, times: int) -> Stretch:
        """Every evaluation set, so many times."""
        if not self.recipe.evaluate.sets:
            return _unknown(name, "the recipe names no evaluate.sets")
        missing = f"rows not known of {', '.join(self.unknown_sets)}" if self.unknown_sets else None
        if (rate := self.rates.by_stretch.get(stretch)) is None:
            return _unknown(name, NOT_MEASURED)
        if not self.test and not rate.start_s:
            return _unknown(name, missing)
        arithmetic, seconds = f"{rate.start_s:.3g} s", rate.start_s
        if self.test:
            arithmetic, seconds = self._at(rate, self.test)
        if times > 1:
            arithmetic, seconds = f"{times} x ({arithmetic})", times * seconds
        return Stretch(
            name=name, arithmetic=arithmetic, seconds=seconds, usd=None, missing=missing, rate_from=rate.source
        )

    def _doses(self, config: RobustnessConfig) -> Stretch:
        """Copies of test utterances, as many of each set as the recipe asks for at most."""
        num_sets, num_doses = len(self.recipe.evaluate.sets), len(config.doses)
        num = 2 * num_doses * config.utterances_per_set * num_sets
        words = f"2 x {num_doses} doses x {num_sets} sets x {config.utterances_per_set:,} at most = {num:,}"
        return self._of("dose curves", of.SCORE, num, words)

    def _priced(self, one: Stretch) -> Stretch:
        price = self.recipe.train.price_per_gpu_hour_usd
        if one.seconds is None:
            return one
        seconds = round(one.seconds, 1)
        usd = None if price is None or not self.rates.num_gpus else seconds / 3600 * self.rates.num_gpus * price
        return one.model_copy(update={"seconds": seconds, "usd": None if usd is None else round(usd, 4)})


def _unknown(name: str, why: str) -> Stretch:
    return Stretch(name=name, arithmetic="", seconds=None, usd=None, missing=why, rate_from="")
