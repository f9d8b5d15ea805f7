"""`train/plan.json`, and a part of what `shibolet plan` prints: what a training will do, before it does it."""

from typing import ClassVar

from shibolet.records.documents.base import Document, Part


class ReplayPlan(Part):
    """Other data that each step has beside what trains."""

    share: float  # of the utterances of a step
    per_step: int  # utterances
    utterances: int | None = None  # None: nothing is prepared yet
    audio_h: float | None = None


class TrainingSet(Part):
    """What trains; lengths are None where they are assumed, as all is None while nothing is known."""

    utterances: int | None
    audio_h: float | None = None
    tokens: int | None = None
    targets: int | None = None
    longest_tokens: int | None = None
    replay: ReplayPlan | None = None  # in none of these counts; None: nothing is replayed


class StepPlan(Part):
    """An optimizer step; what is None follows from a training set that is not known yet."""

    utterances: int  # over all ranks
    steps_per_epoch: int | None
    arithmetic: str  # "512 utterances = 32 x 16 + 0 -> 32 steps an epoch"
    world_size: int
    pack_tokens: int  # the longest pack there may be
    packs_per_rank_and_step: float | None = None
    largest_pack_tokens: int | None = None  # of the packs of an epoch


class PartPlan(Part):
    """A part of the model that a phase trains."""

    part: str
    parameters: int
    tensors: int
    peak_lr: float


class PhasePlan(Part):
    """A phase: its length, what trains, what it needs of a GPU with the fullest pack there can be."""

    name: str
    epochs: float
    steps: int | None  # None: the training set is not known
    warmup_steps: int
    schedule: str
    highest_lr_factor: float | None  # of the peak rates, that a step reaches
    parts: tuple[PartPlan, ...]
    trainable: int  # parameters
    trainable_pct: float
    frozen: int
    gib: dict[str, float]  # purpose -> GiB
    total_gib: float
    peak_tensors_gib: float  # of that, what tensors take
    # Beside the total, at most: what graphs of layers hold, until memory runs out. 0: there is no room for them. None:
    # none are launched, or the GPU's memory is not known.
    graphs_gib: float | None = None
    fullest_pack_tokens: int
    margin_gib: float | None  # None: the GPU's memory is not known
    utilisation_pct: float | None
    encoder_kept: bool  # its output comes from the cache
    largest_pack_tokens: int | None  # that fits; 0: not even one utterance
    step_s: float | None  # None: nobody can predict it for this GPU
    hours: float | None


class ModelPlan(Part):
    """The model that trains."""

    parameters: int
    head: str


class PrecisionPlan(Part):
    """The kinds of numbers."""

    weights_and_compute: str
    masters: str
    moments: str


class GpuPlan(Part):
    """What a training runs on."""

    name: str | None  # None: no known GPU
    memory_gib: float | None  # of one
    number: int


class CostPlan(Part):
    """What the training steps take, predicted; evaluation and start-up come on top."""

    hours: float | None
    usd: float | None
    price_per_gpu_hour_usd: float | None  # None: the recipe names none
    specified_usd: dict[str, float] | None  # machine -> what the recipe says that others expect of the round


class Plan(Document):
    """Steps, parts, memory, time and cost of a training."""

    FORMAT: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "'shibolet train RECIPE' in a new run folder makes one"

    training_set: TrainingSet
    training_set_from: str | None = None  # None: a training's own plan, of what it trains on
    model_from: str | None = None
    step: StepPlan
    phases: tuple[PhasePlan, ...]
    steps: int | None
    model: ModelPlan
    precision: PrecisionPlan
    gpu: GpuPlan
    cost: CostPlan
    encoder_cache_gib: float | None  # on disk; None: the training set is not known
    # What a teacher expects at each label of the training set; None: nobody is asked, or the training set is not known.
    teacher_cache_gib: float | None = None  # on disk
    teacher_pass_s: float | None = None  # to hear it once; None: nobody can predict it for this GPU either
    notes: tuple[str, ...]  # what a reader of the recipe may not expect
