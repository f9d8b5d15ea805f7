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

    name: str  # name of the phase in trackers and checkpoints, such as B
    num_epochs: float = Field(gt=0)  # passes over the training set
    # Part of the model, such as `head` or `decoder.layers[16:28]` -> peak learning rate; all other parts are frozen
    lr_by_part: Mapping[str, Rate]
    objective: ObjectiveName | None = None  # what the phase minimises; null: `train.objective`
    warmup_steps: int = Field(0, ge=0)  # steps in which the rate rises linearly from 0, at the start of this phase
    # The rate after the warm-up; linear and cosine fall to 0 at the end of the phase
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    # Part -> peak rate of one more try after a divergence; empty: no second try
    lr_if_diverged: Mapping[str, Rate] = {}

    @model_validator(mode="after")
    def _trains_something(self) -> "PhaseConfig":
        if not self.lr_by_part:
            raise RecipeError(f"phase '{self.name}' trains nothing: lr_by_part is empty")
        if unknown := sorted(set(self.lr_if_diverged) - set(self.lr_by_part)):
            raise RecipeError(f"phase '{self.name}': lr_if_diverged names {unknown}, which lr_by_part does not train")
        return self


class LoraSettings(Config):
    """Low-rank adapters on decoder layers that stay frozen in every phase."""

    # Span of decoder layers that get adapters; an encoder's adapters would be ignored by servers
    part: str = "decoder.layers[0:16]"
    rank: int = Field(16, gt=0)  # rank of the adapters
    alpha: int = Field(32, gt=0)  # scale of the adapters: their product counts alpha / rank times
    dropout: float = Field(0.1, ge=0, lt=1)  # dropout on the input of the adapters
    # Projections of attention that get adapters
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

    # Decay rates of the first and the second moment
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)  # added to the denominator of each update
    weight_decay: float = Field(0.01, ge=0)  # decoupled weight decay, not on norms and biases
    # Largest norm of the gradient, over all ranks and packs; a larger one is scaled down
    max_grad_norm: float = Field(1.0, gt=0)


class GuardsConfig(Config):
    """When a training is taken back to a checkpoint, and when it is given up."""

    max_skips: int = Field(3, gt=0)  # steps in a row without a finite loss and gradient that cause a roll-back
    max_rollbacks: int = Field(3, ge=0)  # roll-backs that are allowed; one more ends the run
    window_steps: int = Field(50, gt=0)  # steps of the rolling median of the loss
    # Steps before a switch of phases, at most, whose median loss is the baseline
    baseline_steps: int = Field(200, gt=0)
    # A rolling median of more than this times the baseline is a divergence at once
    diverged_above: float = Field(2.0, gt=1)
    # The spike after a switch is over when the rolling median is at most this times the baseline
    recovered_below: float = Field(1.1, ge=1)
    recover_within_steps: int = Field(400, gt=0)  # steps within which that must happen, or it is a divergence


class OutOfMemoryConfig(Config):
    """What may be given up, in this order, if memory runs out with the smallest packs too; nothing else may."""

    # First: drop utterances longer than this many seconds, with a ledger line; null: not allowed
    max_audio_s: float | None = Field(None, gt=0)
    # Then: compute activations again in the backward pass, which takes a third longer
    checkpoint_activations: bool = False
    # Last: train only this many of the top decoder layers; null: not allowed
    decoder_layers: int | None = Field(None, gt=0)


class PauseConfig(Config):
    """Quiet before and after what is said, as recordings have it that are not cut to their words.

    An utterance that would be longer with them than the model hears at once, such as 30 s, has none.
    """

    share: float = Field(0.5, ge=0, le=1)  # share of the utterances of an epoch that get pauses
    # Longest pause in seconds; one before and one after are drawn evenly from 0
    most_s: float = Field(1.0, gt=0, le=5)


class NoiseConfig(Config):
    """Noise at a signal-to-noise ratio (of mean powers) that is drawn for each utterance."""

    share: float = Field(0.3, ge=0, le=1)  # share of the utterances of an epoch that get noise
    # Lowest and highest signal-to-noise ratio in dB; one is drawn evenly between them
    snr_db: tuple[float, float] = (5.0, 30.0)
    # Kinds of noise, one is drawn for each utterance; babble has the spectrum of speech
    kinds: tuple[Literal["white", "pink", "babble"], ...] = Field(("white", "pink", "babble"), min_length=1)


class PacketLossConfig(Config):
    """Packets of 20 ms that are lost on the way, as in a call; a voice message arrives whole."""

    share: float = Field(0.5, ge=0, le=1)  # share of the utterances sent through Opus that lose packets
    # Lowest and highest percent of lost packets; one is drawn evenly between them
    loss_pct: tuple[float, float] = (1.0, 20.0)
    # Mean numbers of packets lost in a row, one is drawn; 1: losses are independent
    mean_burst: tuple[Annotated[float, Field(ge=1)], ...] = Field((1.0, 4.0), min_length=1)
    concealed_share: float = Field(0.5, ge=0, le=1)  # share whose gaps libopus conceals; the others have silence there

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
    """A lossy channel, such as a messenger or a telephone."""

    share: float = Field(0.3, ge=0, le=1)  # share of the utterances of an epoch that are sent through a channel
    # Channels, one is drawn for each utterance; telephone is the band of G.711, 300 to 3,400 Hz
    channels: tuple[Literal["opus", "mp3", "telephone"], ...] = Field(("opus", "mp3", "telephone"), min_length=1)
    # Lowest and highest bit rate of Opus and MP3 in kbit/s; one is drawn evenly between them
    bitrate_kbps: tuple[float, float] = (8.0, 32.0)
    packet_loss: PacketLossConfig | None = None  # packets of Opus that are lost; null: every packet arrives


class SpecAugmentConfig(Config):
    """Stretches of the features that are set to 0 (SpecAugment, Park et al. 2019), after all else."""

    share: float = Field(1.0, ge=0, le=1)  # share of the utterances of an epoch that are masked
    num_time_masks: int = Field(2, ge=0)  # masks along time in each utterance
    # Longest time mask, as a share of the utterance; the length is drawn evenly from 0
    max_time_frac: float = Field(0.05, gt=0, lt=1)
    num_bin_masks: int = Field(2, ge=0)  # masks along frequency in each utterance
    max_bins: int = Field(27, gt=0)  # widest frequency mask, in mel bins; the width is drawn evenly from 0


class AugmentConfig(Config):
    """Changes to the audio that only training hears, drawn from (seed, epoch, utterance id); each is off by default."""

    # Factors of speed and pitch, one is drawn for each utterance; 1.0 leaves it as it is
    speeds: tuple[float, ...] = ()
    pauses: PauseConfig | None = None  # quiet at both ends, at the level of the quietest there is; null: off
    noise: NoiseConfig | None = None  # noise that is added; null: off
    codec: CodecConfig | None = None  # codecs and telephone bands, after the noise; null: off
    spec_augment: SpecAugmentConfig | None = None  # masks on the features, after all else; null: off

    @property
    def slowest_speed(self) -> float:
        return min(self.speeds, default=1.0)

    @property
    def longest_pauses_s(self) -> float:
        """Both pauses of an utterance together."""
        return 2 * self.pauses.most_s if self.pauses else 0.0

    @property
    def mean_pauses_s(self) -> float:
        """The same on average."""
        return self.pauses.share * self.pauses.most_s if self.pauses else 0.0

    @model_validator(mode="after")
    def _can_be_meant(self) -> "AugmentConfig":
        if not (self.speeds or self.pauses or self.noise or self.codec or self.spec_augment):
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

    # Share that is told terms which are said in the utterance, among distractors
    right_share: float = Field(0.25, ge=0, le=1)
    distractor_share: float = Field(0.25, ge=0, le=1)  # share that is only told terms which are not said
    max_right: int = Field(3, gt=0)  # most terms that are said; a number from 1 to this is drawn
    # Fewest and most terms that are not said; a number is drawn evenly between them
    num_distractors: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (0, 10)
    file: Path | None = None  # file with one term on each line; null: rare words of the training texts
    max_utterances: int = Field(5, gt=0)  # a word is rare if at most this many utterances have it
    min_letters: int = Field(3, gt=0)  # fewest letters of a rare word
    max_tokens: int = Field(100, gt=0, le=200)  # most tokens of a list; a longer list loses its last terms

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
    """What the author of a recipe expects; the page compares it with what is measured. It is not a limit."""

    # Number of finished epochs -> WER on dev, in percent
    wer_pct: Mapping[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=0)]] = {}
    # Loss before and after the switch to the second phase; null: none
    loss_at_switch: tuple[float, float] | None = None


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
    """How the model is trained: phases, adapters, optimizer, memory, and when it is scored and saved."""

    phases: tuple[PhaseConfig, ...]  # the phases, in their order
    objective: ObjectiveName = "transcribe"  # what is minimised in a phase that names no objective
    distil: DistilConfig | None = None  # settings of the objectives `distil` and `on_policy`; null: their defaults
    min_wer: MinWerConfig | None = None  # settings of the objective `min_wer`; null: its defaults
    # Give the output projection weights of its own, so that it trains while the embeddings stay frozen
    untie_head: bool = True
    lora: LoraSettings | None = LoraSettings()  # low-rank adapters on decoder layers that stay frozen; null: none
    optimizer: OptimizerConfig = OptimizerConfig()  # settings of AdamW
    utterances_per_step: int = Field(64, gt=0)  # utterances of an optimizer step, over all GPUs
    # Decoder tokens of the longest pack; null: as many as the GPU's memory holds
    pack_tokens: int | None = Field(None, gt=0)
    # Precision of weights and compute; the optimizer's copies and moments are fp32 in both cases
    precision: Literal["bf16", "fp32"] = "bf16"
    # `auto` uses faster layers and a faster loss if the family has them; `off` uses those of transformers and torch
    fast: Fast = "auto"
    eval_every_steps: int = Field(500, gt=0)  # steps between scores on dev (WER and CER); each phase ends with one too
    eval_every_epoch: bool = True  # also score dev before the first step and after each epoch
    expected: ExpectedConfig = ExpectedConfig()  # what the author expects, shown beside what is measured
    checkpoint_every_steps: int = Field(500, gt=0)  # steps between checkpoints
    patience: int | None = None  # scores on dev without a better WER after which a phase ends early; null: never
    # Also score the average of this many best checkpoints, which is the result if it is better; null: no
    average_best: int | None = Field(None, gt=1)
    guards: GuardsConfig = GuardsConfig()  # when a training goes back to a checkpoint, and when it gives up
    on_out_of_memory: OutOfMemoryConfig = OutOfMemoryConfig()  # what may be given up if memory is too small
    augment: AugmentConfig | None = None  # changes to the audio of training, never of dev; null: none
    # Share of the utterances with a previous text that get it in the prompt, in each epoch; null: 0.5 for a Whisper,
    # and otherwise, or if a phase has another objective than transcribe, 0.
    previous_text_frac: float | None = Field(None, ge=0, le=1)
    # Share of the utterances with timestamps that are asked for them, in each epoch; null: as for `previous_text_frac`.
    timestamps_frac: float | None = Field(None, ge=0, le=1)
    context: ContextConfig | None = None  # names and rare terms in the prompt of some utterances; null: none
    num_threads: int | None = Field(None, gt=0)  # CPU threads of torch in training; null: the recipe's `num_threads`
    # Processes on each rank that decode audio; null: on a GPU its cores less 1, up to 15, otherwise none
    num_workers: int | None = Field(None, ge=0)
    feature_cache_gib: float = Field(1.0, ge=0)  # GiB of log-mel features kept in memory on a CPU without `num_workers`
    # Keep the encoder's output on disk while all of it is frozen, so that it runs only once
    encoder_cache: bool = False
    # Price in US dollars of a GPU for an hour, for the cost in `shibolet plan`; null: no cost
    price_per_gpu_hour_usd: float | None = None
    # Machine -> cost in US dollars that others expect; `shibolet plan` says why its own differs
    specified_usd: Mapping[str, float] = {}

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
        parts = {"phases": phases} | ({"augment": {"pauses"}} if self.augment and self.augment.pauses is None else {})
        found = self.model_dump(mode="json", exclude={**dict.fromkeys([*FREE_TO_CHANGE, *unnamed], True), **parts})
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
