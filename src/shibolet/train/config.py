"""Settings of the train stage: phases, adapters, optimizer, memory, schedule of evaluation and checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from shibolet.errors import RecipeError
from shibolet.model.spans import LayerSpan
from shibolet.records.config import Config
from shibolet.records.files import hash_json
from shibolet.speech.text.terms import read_terms
from shibolet.train.objectives.config import TAUGHT, DistilConfig, MinWerConfig, ObjectiveName

Rate = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]  # a part with rate 0 is one that is not named


class PhaseConfig(Config):
    """A stretch of training in which a fixed set of model parts is trainable."""

    name: str  # "B", "A": shown in every tracker
    num_epochs: float = Field(gt=0)  # passes over the training set
    lr_by_part: Mapping[str, Rate]  # part -> peak learning rate; a part not named here is frozen
    objective: ObjectiveName | None = None  # what it minimises; null: train.objective
    warmup_steps: int = Field(0, ge=0)  # linear from 0, at the start of this phase
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # after warm-up; linear and cosine fall to 0
    lr_if_diverged: Mapping[str, Rate] = {}  # part -> peak rate of the one more try after a divergence; empty: no try

    @model_validator(mode="after")
    def _trains_something(self) -> "PhaseConfig":
        if not self.lr_by_part:
            raise RecipeError(f"phase '{self.name}' trains nothing: lr_by_part is empty")
        if unknown := sorted(set(self.lr_if_diverged) - set(self.lr_by_part)):
            raise RecipeError(f"phase '{self.name}': lr_if_diverged names {unknown}, which lr_by_part does not train")
        return self


class LoraSettings(Config):
    """Low-rank adapters on decoder layers that stay frozen in every phase."""

    part: str = "decoder.layers[0:16]"  # of the decoder: servers skip an encoder's adapters
    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    targets: tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj"], ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"), min_length=1
    )

    @model_validator(mode="after")
    def _sits_on_the_decoder(self) -> "LoraSettings":
        if (span := LayerSpan.parse(self.part)) is None or span.tower != "decoder":
            raise RecipeError(
                f"train.lora.part: '{self.part}' is not a span of decoder layers, such as decoder.layers[0:16]"
            )
        return self


class OptimizerConfig(Config):
    """AdamW; norms and biases carry no weight decay."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)  # of the global gradient, over all ranks and packs


class GuardsConfig(Config):
    """When a training is taken back to a checkpoint, and when it is given up."""

    max_skips: int = Field(3, gt=0)  # steps in a row without a finite loss and gradient, before a roll-back
    max_rollbacks: int = Field(3, ge=0)  # one more ends the run
    window_steps: int = Field(50, gt=0)  # the rolling median of the loss
    baseline_steps: int = Field(200, gt=0)  # the median before the switch, over at most this many steps
    diverged_above: float = Field(2.0, gt=1)  # times the baseline: a divergence at once
    recovered_below: float = Field(1.1, ge=1)  # times the baseline: the spike of the switch is over ...
    recover_within_steps: int = Field(400, gt=0)  # ... which it has to be by then


class OutOfMemoryConfig(Config):
    """What may be given up, in this order, when packs cannot be made smaller; what is not named here may not."""

    max_audio_s: float | None = Field(None, gt=0)  # longer utterances leave the training, with a ledger line
    checkpoint_activations: bool = False  # compute activations again in the backward pass; a third slower
    decoder_layers: int | None = Field(None, gt=0)  # train only that many of the top decoder layers


class NoiseConfig(Config):
    """Noise at a ratio of mean powers drawn evenly from a range."""

    share: float = Field(0.3, ge=0, le=1)  # of the utterances of an epoch
    snr_db: tuple[float, float] = (5.0, 30.0)
    kinds: tuple[Literal["white", "pink", "babble"], ...] = Field(("white", "pink", "babble"), min_length=1)


class PacketLossConfig(Config):
    """Packets of 20 ms that are lost on the way, as in a call; a voice message arrives whole."""

    share: float = Field(0.5, ge=0, le=1)  # of the utterances that go through Opus
    loss_pct: tuple[float, float] = (1.0, 20.0)  # of an utterance's packets, drawn evenly
    mean_burst: tuple[Annotated[float, Field(ge=1)], ...] = Field((1.0, 4.0), min_length=1)  # lost in a row; 1: chance
    concealed_share: float = Field(0.5, ge=0, le=1)  # gaps filled by libopus; the others have silence there

    @model_validator(mode="after")
    def _some_arrive(self) -> "PacketLossConfig":
        low, high = self.loss_pct
        if not 0 < low <= high <= 50:
            raise RecipeError(
                f"train.augment.codec.packet_loss.loss_pct: {low:g} to {high:g} is not a range within 0 to 50, lower "
                "end first; to lose nothing leave packet_loss out"
            )
        return self


class CodecConfig(Config):
    """A lossy channel; telephone is G.711's band, 300 to 3,400 Hz."""

    share: float = Field(0.3, ge=0, le=1)  # of the utterances of an epoch
    channels: tuple[Literal["opus", "mp3", "telephone"], ...] = Field(("opus", "mp3", "telephone"), min_length=1)
    bitrate_kbps: tuple[float, float] = (8.0, 32.0)  # of Opus and MP3, drawn evenly
    packet_loss: PacketLossConfig | None = None  # null: every packet arrives


class SpecAugmentConfig(Config):
    """Stretches of the features set to 0 (Park et al. 2019), after all else."""

    share: float = Field(1.0, ge=0, le=1)  # of the utterances of an epoch
    num_time_masks: int = Field(2, ge=0)
    max_time_frac: float = Field(0.05, gt=0, lt=1)  # of the utterance, each; the length is drawn evenly
    num_bin_masks: int = Field(2, ge=0)
    max_bins: int = Field(27, gt=0)  # of 128 mel bins, each


class AugmentConfig(Config):
    """What training hears and nobody else does, drawn from (seed, epoch, utterance id); what is left out is off."""

    speeds: tuple[float, ...] = ()  # factors, one drawn for each utterance; 1.0 leaves it as it is
    noise: NoiseConfig | None = None
    codec: CodecConfig | None = None  # after the noise: what a messenger does to a noisy room
    spec_augment: SpecAugmentConfig | None = None

    @property
    def slowest_speed(self) -> float:
        return min(self.speeds, default=1.0)

    @model_validator(mode="after")
    def _can_be_meant(self) -> "AugmentConfig":
        if not (self.speeds or self.noise or self.codec or self.spec_augment):
            raise RecipeError("train.augment has no setting that is on; leave it out")
        if bad := [factor for factor in self.speeds if not 0.5 <= factor <= 2]:
            raise RecipeError(f"train.augment.speeds: {bad[0]} is outside 0.5 to 2")
        for name, span in (("noise.snr_db", self.noise and self.noise.snr_db),
                           ("codec.bitrate_kbps", self.codec and self.codec.bitrate_kbps)):  # fmt: skip
            if span and span[0] > span[1]:
                raise RecipeError(f"train.augment.{name}: {span[0]:g} is above {span[1]:g}; the lower end comes first")
        if self.codec and self.codec.packet_loss and "opus" not in self.codec.channels:
            raise RecipeError("train.augment.codec.packet_loss: only Opus has packets to lose, and channels lacks opus")
        if self.codec and self.codec.bitrate_kbps[0] < 6:
            raise RecipeError(
                f"train.augment.codec.bitrate_kbps: Opus needs 6, the range starts at {self.codec.bitrate_kbps[0]:g}"
            )
        return self


class ContextConfig(Config):
    """Names and rare terms that the prompt of an utterance has in some epochs, drawn from (seed, epoch, utterance id).

    Shares are of an epoch's utterances; those that are left are told nothing. Dev is always told nothing.
    """

    right_share: float = Field(0.25, ge=0, le=1)  # are told terms that are said in them, among distractors
    distractor_share: float = Field(0.25, ge=0, le=1)  # are told terms that are not
    max_right: int = Field(3, gt=0)  # of the terms that are said; from 1 up to this are drawn
    num_distractors: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 10)  # drawn evenly
    file: Path | None = None  # a term a line; null: words of the training texts that few utterances have
    max_utterances: int = Field(5, gt=0)  # that have a word, for it to be rare
    min_letters: int = Field(3, gt=0)  # of a rare word
    max_tokens: int = Field(100, gt=0, le=200)  # of a list; longer ones lose their last terms

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "ContextConfig":
        if not 0 < self.right_share + self.distractor_share <= 1:
            raise RecipeError(
                f"train.context: right_share and distractor_share add up to "
                f"{self.right_share + self.distractor_share:g}; give more than 0 and at most 1, or leave context out"
            )
        if self.num_distractors[0] > self.num_distractors[1]:
            raise RecipeError("train.context.num_distractors: the lower end comes first")
        return self


# YAML reads a bare `off` as false.
Fast = Annotated[Literal["auto", "off"], BeforeValidator(lambda value: "off" if value is False else value)]


class ExpectedConfig(Config):
    """What the author of a recipe expects; the page holds it against what is measured. No limit follows from it."""

    wer_pct: Mapping[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0)]] = {}  # finished epochs -> WER on dev
    loss_at_switch: tuple[float, float] | None = None  # before and after the switch to the second phase


# Settings of `TrainConfig` that may differ from one start of a training to the next: how long it takes, when it is
# looked at, and what follows from now on when it goes wrong.
FREE_TO_CHANGE = frozenset({
    "pack_tokens", "feature_cache_gib", "num_workers", "encoder_cache", "eval_every_steps", "eval_every_epoch",
    "expected", "checkpoint_every_steps", "price_per_gpu_hour_usd", "specified_usd", "guards",
    "on_out_of_memory",
    "fast", "num_threads",  # like packs and ranks: the same mathematics, rounded differently
})  # fmt: skip
_LATER = ("previous_text_frac", "timestamps_frac", "context", "distil", "min_wer")  # they came later, and may be None


class TrainConfig(Config):
    """How a phase plan is run."""

    phases: tuple[PhaseConfig, ...]
    objective: ObjectiveName = "transcribe"  # what is minimised, where a phase names nothing else
    distil: DistilConfig | None = None  # of the objectives distil and on_policy
    min_wer: MinWerConfig | None = None  # of the objective min_wer
    untie_head: bool = True  # give the output projection weights of its own: it trains, and embeddings stay frozen
    lora: LoraSettings | None = LoraSettings()
    optimizer: OptimizerConfig = OptimizerConfig()
    utterances_per_step: int = Field(64, gt=0)  # over all ranks, whatever the hardware
    pack_tokens: int | None = Field(None, gt=0)  # longest pack in decoder tokens; null: what the GPU's memory holds
    precision: Literal["bf16", "fp32"] = "bf16"  # weights and compute; masters and moments are fp32 either way
    fast: Fast = "auto"  # faster layers and loss, where the family has them; off: transformers' own and torch's
    eval_every_steps: int = Field(500, gt=0)  # dev WER and CER; also at the end of each phase
    eval_every_epoch: bool = True  # also before the first step and at the end of each epoch
    expected: ExpectedConfig = ExpectedConfig()
    checkpoint_every_steps: int = Field(500, gt=0)
    patience: int | None = None  # dev evaluations without a better WER before a phase ends early; it never skips one
    average_best: int | None = Field(None, gt=1)  # also score the average of that many best; the result if it is better
    guards: GuardsConfig = GuardsConfig()
    on_out_of_memory: OutOfMemoryConfig = OutOfMemoryConfig()
    augment: AugmentConfig | None = None  # of training audio only, never of dev
    # Of the utterances whose data have what was said before, or timestamps, the fraction that an epoch gives the one to
    # the decoder and asks for the other; null: as the family is trained by others, a Whisper 0.5 and 0.5; neither where
    # a phase has another objective than transcribe.
    previous_text_frac: float | None = Field(None, ge=0, le=1)
    timestamps_frac: float | None = Field(None, ge=0, le=1)
    context: ContextConfig | None = None  # names and rare terms in the prompt of some utterances; null: none
    num_threads: int | None = Field(None, gt=0)  # CPU threads of torch in a training; None: the recipe's `num_threads`
    num_workers: int | None = Field(None, ge=0)  # decoding processes a rank; None: on a GPU its cores less 1, up to 15
    feature_cache_gib: float = Field(1.0, ge=0)  # log-mel features kept in memory where no workers decode, on a CPU
    encoder_cache: bool = False  # keep the encoder's output on disk while all of it is frozen: no pass through it twice
    price_per_gpu_hour_usd: float | None = None
    specified_usd: Mapping[str, float] = {}  # machine -> what others expect of the round; `plan` says why it differs

    @property
    def slowest_speed(self) -> float:
        """The factor at which training hears an utterance longest."""
        return self.augment.slowest_speed if self.augment else 1.0

    def objective_of(self, phase: PhaseConfig) -> ObjectiveName:
        """What a phase minimises."""
        return phase.objective or self.objective

    def is_same_loss(self, one: int, other: int) -> bool:
        """Whether the losses of two phases, by their places, can be compared."""
        return self.objective_of(self.phases[one]) == self.objective_of(self.phases[other])

    @property
    def is_taught(self) -> bool:
        """Whether a phase learns from a teacher."""
        return any(self.objective_of(phase) in TAUGHT for phase in self.phases)

    @property
    def learns_references_alone(self) -> bool:
        """Whether no phase learns from a teacher, or from texts that the model writes."""
        return all(self.objective_of(phase) == "transcribe" for phase in self.phases)

    def replay_per_step(self, share: float) -> int:
        """Utterances of a step that are replayed; RecipeError where a share of it is none or all of them."""
        number = round(share * self.utterances_per_step)
        if share and not 0 < number < self.utterances_per_step:
            raise RecipeError(
                f"data.replay.share is {share:g}, which is {number} of the {self.utterances_per_step} utterances of a "
                f"step: between 1 and {self.utterances_per_step - 1} can be replayed; change the share or "
                "train.utterances_per_step"
            )
        return number

    def identity(self) -> dict[str, Any]:
        """The settings that make two trainings the same one, as plain data; DataError without the file of terms."""
        # What is not named has no entry: trainings of before there were these settings are the same ones.
        unnamed = [name for name in _LATER if getattr(self, name) is None]
        phases = {place: {"objective"} for place, phase in enumerate(self.phases) if phase.objective is None}
        found = self.model_dump(
            mode="json", exclude={**dict.fromkeys([*FREE_TO_CHANGE, *unnamed], True), "phases": phases}
        )
        if self.context and self.context.file:  # its terms decide, wherever the file lies
            terms = hash_json(read_terms(self.context.file))
            found |= {"context": self.context.model_dump(mode="json") | {"file": terms}}
        return found

    @model_validator(mode="after")
    def _cache_holds(self) -> "TrainConfig":
        if self.encoder_cache and self.augment:
            raise RecipeError(
                "train.encoder_cache keeps what the encoder made of an utterance, and train.augment gives it other "
                "audio in every epoch; turn one of them off"
            )
        return self

    @model_validator(mode="after")
    def _utterances_have_one_form(self) -> "TrainConfig":
        drawn = [name for name in ("context", "previous_text_frac", "timestamps_frac") if getattr(self, name)]
        for phase in self.phases if drawn else ():
            if (objective := self.objective_of(phase)) != "transcribe":
                raise RecipeError(
                    f"train.{drawn[0]} gives an utterance another prompt or text from epoch to epoch, and phase "
                    f"'{phase.name}' has the objective {objective}, which knows one of each; leave {drawn[0]} out, or "
                    "train with it in a round of its own"
                )
        return self

    @model_validator(mode="after")
    def _settings_are_of_an_objective(self) -> "TrainConfig":
        used = {self.objective_of(phase) for phase in self.phases}
        for section, objectives in (("distil", TAUGHT), ("min_wer", {"min_wer"})):
            if getattr(self, section) is not None and not used & objectives:
                raise RecipeError(
                    f"train.{section} is set, and no phase has the objective {' or '.join(sorted(objectives))}; name "
                    "one in a phase, or leave it out"
                )
        return self

    @model_validator(mode="after")
    def _phases_named_once(self) -> "TrainConfig":
        names = [phase.name for phase in self.phases]
        if not names or len(set(names)) < len(names):
            raise RecipeError(f"train.phases: names must be there and differ, got {names}")
        return self


class ReplaySource(Config):
    """A source of `data.replay` as it was prepared."""

    prepared_dir: Path
    language: str  # of its prompts
    style: str = ""  # what its prompts say of how to write


class Replay(Config):
    """What a training replays: plain data, for a job."""

    share: float  # of the utterances of each step
    sources: tuple[ReplaySource, ...]
