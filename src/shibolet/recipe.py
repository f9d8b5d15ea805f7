"""The recipe: what one round does, as the stages' own settings put together; read from YAML and `--set a.b=c`.

No stage runs here, nothing heavy is imported.
"""

from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from shibolet.audit.config import AuditConfig, CalibrateConfig
from shibolet.compare import CompareConfig, PartsConfig
from shibolet.errors import RecipeError, did_you_mean
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.doses import RobustnessConfig
from shibolet.gate.config import GateConfig
from shibolet.label.config import LabelConfig
from shibolet.model.spans import LayerSpan
from shibolet.prepare.config import PrepareConfig
from shibolet.publish.config import PublishConfig
from shibolet.records.candidate import label_of
from shibolet.records.config import Config
from shibolet.records.files import write_bytes
from shibolet.records.names import check_name, check_names
from shibolet.records.settings import peek, read_settings, settings_yaml
from shibolet.speech.sources import DataSource, UnlabelledSource
from shibolet.speech.text import get_language
from shibolet.tracking.config import TrackingConfig
from shibolet.train.config import TrainConfig


class ModelsConfig(Config):
    """The model that is trained and the one it has to beat: Hub ids, folders, or `builtin:NAME`."""

    base: str | None = None  # the model that training starts from; null: `shibolet next` writes it here
    baseline: str | None = None  # the model that the result has to beat: in a second round, the model of the first
    # The model that the objectives `distil` and `on_policy` learn from, of the base's family
    teacher: str | None = None
    baseline_title: str = Field("Round 1", min_length=1)  # name of the baseline on pages and in tables
    # Names of sources of `data.train` that the baseline was trained on: it has learned their errors, so it gives no
    # second opinion on them
    baseline_trained_on: tuple[str, ...] = ()


class ReplayConfig(Config):
    """Other data in each step of training, usually in a language that the base knows, so that it is not forgotten.

    They are read and checked for length and empty texts. They are never audited.
    """

    share: float = Field(0.1, ge=0, lt=1)  # share of the utterances of each step; 0 turns replay off
    # The data that are replayed; a source of another language needs `language`
    sources: tuple[DataSource, ...] = Field(min_length=1)


class DataConfig(Config):
    """The data sets that the round may train on."""

    # Sources with texts, of which the audit hears a sample; empty: enough to score and compare
    train: tuple[DataSource, ...] = ()
    # Sources of audio without texts; section `label` says which models write them
    unlabelled: tuple[UnlabelledSource, ...] = ()
    replay: ReplayConfig | None = None  # other data in each step of training; null: none

    @property
    def roles(self) -> dict[str, tuple[DataSource, ...]]:
        """By their key in the recipe, the sources that training reads."""
        return {"train": self.train, "unlabelled": self.unlabelled, "replay": self.replayed}

    @property
    def trained(self) -> tuple[DataSource, ...]:
        """All of these: what has texts, what machines write texts for, and what is replayed."""
        return tuple(source for sources in self.roles.values() for source in sources)

    @property
    def replayed(self) -> tuple[DataSource, ...]:
        """Sources of which each step of training has a share beside its own data."""
        return self.replay.sources if self.replay and self.replay.share else ()


class Recipe(Config):
    """One round, from data to verdict."""

    name: str = Field(min_length=1)  # name of the round; its run folder is `runs/NAME` unless a command names another
    title: str = Field("Round 2", min_length=1)  # name of the model that this round trains, on pages and in tables
    # Run folder of the round before; stages with the same inputs are taken over from there. null: none
    parent: Path | None = None
    language: str = "Hebrew"  # language of the data and of the model's prompt, such as Hebrew
    seed: int = Field(0, ge=0)  # seed of every random choice that has no seed of its own
    # CPU threads of torch; results differ in bits between numbers of threads. null: torch's own choice
    num_threads: int | None = Field(None, gt=0)
    # The model that is trained and the one it has to beat; null: enough for an audit
    models: ModelsConfig | None = None
    data: DataConfig = DataConfig()  # the data sets of the round; none are needed to score and compare
    audit: AuditConfig = AuditConfig()  # how the data are heard and judged
    calibrate: CalibrateConfig = CalibrateConfig()  # how much `shibolet calibrate` hears
    gate: GateConfig = GateConfig()  # the limits of the gate, and what `run` does after each verdict
    label: LabelConfig = LabelConfig()  # how models write texts for audio, and which of these texts may train
    prepare: PrepareConfig = PrepareConfig()  # which utterances may train, and how they are cut and split
    train: TrainConfig | None = None  # how the model is trained; null: enough to audit, or to score and compare
    evaluate: EvaluateConfig = EvaluateConfig()  # the test sets, and how they are transcribed and scored
    compare: CompareConfig = CompareConfig()  # how the result is compared with the baseline, and when it is kept
    # Measure robustness against noise and codecs as a part of the round; null: only `shibolet robustness` does
    robustness: RobustnessConfig | None = None
    # Measure what each part of the round gained; null: only `shibolet compare --chain` does
    parts: PartsConfig | None = None
    tracking: TrackingConfig = TrackingConfig()  # where the round is tracked beside TensorBoard
    publish: PublishConfig | None = None  # where a kept model is uploaded; null: nothing is uploaded

    def model_names(self) -> dict[str, str]:
        """By role, the models that the recipe names."""
        roles = {role: getattr(self.models, role) for role in ("base", "baseline", "teacher")} if self.models else {}
        if self.audit.recogniser:
            roles |= {name: getattr(self.audit, name) for name in ("aligner", "recogniser", "second_gate_recogniser")}
        if self.has_hearers:
            roles |= {name: getattr(self.label, name) for name in ("writer", "listener")}
        return {role: name for role, name in roles.items() if name}

    @property
    def has_hearers(self) -> bool:
        """Whether `label.writer` is asked for anything."""
        return bool(self.data.unlabelled or self.label.flagged or self.label.recut)

    @property
    def replay_share(self) -> float:
        return self.data.replay.share if self.data.replay else 0.0

    @property
    def own_per_step(self) -> int:
        """Utterances of a step that are of the training's own data."""
        return self.train.utterances_per_step - self.train.replay_per_step(self.replay_share)

    @property
    def styles(self) -> dict[str, str]:
        """What training says of how to write, by source, of those that have a style."""
        return {source.name: source.style for source in self.data.train if source.style}

    def evaluate_in(self, language: str) -> EvaluateConfig:
        """How sets in a language are transcribed: n-gram and context are of the recipe's own, and others go without."""
        if get_language(language) is get_language(self.language):
            return self.evaluate
        return self.evaluate.model_copy(update={"ngram": None, "context": None})

    def require(self, command: str, *sections: str, named: bool = True) -> None:
        """RecipeError where a section is missing that a command needs, or a model of it that has to be `named`."""
        keys = {"data": ("data.train", self.data.train), "audit": ("audit.recogniser", self.audit.recogniser)}
        keys |= {name: (f"section '{name}'", getattr(self, name)) for name in sections if name not in keys}
        if missing := [key for key, value in map(keys.get, sections) if not value]:
            raise RecipeError(
                f"recipe '{self.name}' has no {' and no '.join(missing)}, so it is not used for '{command}'; "
                "hebrew-round2 shows what to write"
            )
        for key in ("base", "baseline") if named and self.models and "models" in sections else ():
            if getattr(self.models, key) is None:
                raise RecipeError(
                    f"recipe '{self.name}' names no models.{key}: 'shibolet next RUN --from {self.name} -o FILE' "
                    f"writes it with the model of the round before, or give --set models.{key}=MODEL"
                )
        is_taught = (
            named and {"models", "train"} <= set(sections) and self.models and self.train and self.train.is_taught
        )
        if is_taught and not self.models.teacher:
            raise RecipeError(
                f"recipe '{self.name}': a phase of train learns from a teacher, and models.teacher is missing; give "
                "--set models.teacher=MODEL"
            )

    @model_validator(mode="after")
    def _names_can_be_folders(self) -> Self:
        check_name("name", self.name)
        roles = {**self.data.roles, "replay": self.data.replay.sources if self.data.replay else ()}
        of_training = " and ".join(f"data.{role}" for role, sources in roles.items() if sources)
        trained = [source for sources in roles.values() for source in sources]
        silent = self.evaluate.non_speech.sources if self.evaluate.non_speech else ()
        for key, sources in (
            (of_training, trained), ("evaluate.sets", self.evaluate.sets), ("evaluate.non_speech.sources", silent)
        ):  # fmt: skip
            check_names(key, [source.name for source in sources])
        known = [source.name for source in self.data.train]
        for name in self.models.baseline_trained_on if self.models else ():
            if name not in known:
                remedy = did_you_mean(name, known) or "; name those that the baseline was trained on, or delete the key"
                raise RecipeError(f"models.baseline_trained_on: '{name}' is not a source of data.train{remedy}")
        known = [source.name for source in self.evaluate.sets]
        for name in self.compare.accept_overlap:
            if name not in known:
                raise RecipeError(
                    f"compare.accept_overlap: '{name}' is not a set of evaluate.sets{did_you_mean(name, known)}"
                )
        return self

    @model_validator(mode="after")
    def _titles_name_folders(self) -> Self:
        """What is scored lies in a folder named after its title."""
        baseline_title = self.models.baseline_title if self.models else self.title
        for key, title in (("title", self.title), ("models.baseline_title", baseline_title)):
            if not label_of(title):
                raise RecipeError(f"{key}: '{title}' has no letter or digit to name a folder by")
            check_name(key, label_of(title))
        if self.models and label_of(self.title) == label_of(baseline_title):
            raise RecipeError(
                f"title and models.baseline_title are both '{self.title}': a round and what it has to beat need "
                "different titles"
            )
        return self

    @model_validator(mode="after")
    def _a_teacher_teaches(self) -> Self:
        teacher, is_taught = self.models and self.models.teacher, self.train is not None and self.train.is_taught
        if teacher and self.train is not None and not is_taught:
            raise RecipeError(
                f"models.teacher is '{teacher}', and no phase of train learns from it; give one the objective distil "
                "or on_policy, or leave the teacher out"
            )
        return self

    @model_validator(mode="after")
    def _languages_are_known(self) -> Self:
        others = (*self.evaluate.sets, *(self.data.replay.sources if self.data.replay else ()))
        for language in (self.language, *(source.language for source in others if source.language)):
            get_language(language)
        own = get_language(self.language)
        sets = {get_language(source.language or self.language).name for source in self.evaluate.sets}
        for limited in map(get_language, self.compare.limits):
            if limited is own or limited.name not in sets:
                why = "is the recipe's own" if limited is own else "has no set in evaluate.sets"
                raise RecipeError(
                    f"compare.limits: {limited.name} {why}; limits are for sets in other languages than {own.name} "
                    "(language: of the set)"
                )
        for source in self.data.train:
            if source.language and get_language(source.language) is not own:
                raise RecipeError(
                    f"data.train: '{source.name}' is in {source.language}, and the recipe trains {own.name}: a "
                    "round has one language, and another is replayed (data.replay)"
                )
        return self

    @model_validator(mode="after")
    def _replays_a_part_of_each_step(self) -> Self:
        if self.train:
            self.train.replay_per_step(self.replay_share)
        return self

    @model_validator(mode="after")
    def _seeds_are_here(self) -> Self:
        for who in ("baseline", "candidate"):
            if getattr(self.compare, f"{who}_seeds") and getattr(self.evaluate.servers, who):
                raise RecipeError(
                    f"compare.{who}_seeds: a server has one model, so its other seeds cannot be scored; leave out "
                    f"either this or evaluate.servers.{who}"
                )
        return self

    @model_validator(mode="after")
    def _limit_can_be_tested(self) -> Self:
        if self.compare.max_extra_words_per_minute is not None and self.evaluate.non_speech is None:
            raise RecipeError(
                "compare.max_extra_words_per_minute needs evaluate.non_speech, which is off; take one of them out"
            )
        return self

    @model_validator(mode="after")
    def _is_asked_in_a_style_that_it_trained_with(self) -> Self:
        style, known = self.evaluate.styles.candidate, sorted({*self.styles.values()})
        if style is not None and style not in known:
            raise RecipeError(
                f"evaluate.styles.candidate: '{style}' is the style of no source of data.train"
                f"{did_you_mean(style, known)} (styles: {', '.join(known) or 'none'})"
            )
        return self

    @model_validator(mode="after")
    def _parts_can_be_told_apart(self) -> Self:
        if self.parts and self.evaluate.servers.candidate:
            raise RecipeError("parts: a server has one model, so its parts cannot be scored; leave out either")
        if self.parts and self.parts.tune_decoding and self.evaluate.greedy != self.evaluate:
            raise RecipeError(
                "parts.tune_decoding: evaluate names a way to decode, which both rounds have, so it is no step between "
                "them; leave it out there, or give parts: {tune_decoding: false}"
            )
        return self

    @model_validator(mode="after")
    def _adapted_layers_stay_frozen(self) -> Self:
        lora = self.train.lora if self.train else None
        adapted = LayerSpan.parse(lora.part) if lora else None
        for phase in self.train.phases if lora else ():
            for part in phase.lr_by_part:
                span = LayerSpan.parse(part)
                if span and adapted and (layer := span.shared_with(adapted)) is not None:
                    raise RecipeError(
                        f"phase '{phase.name}' thaws '{part}', but train.lora puts adapters on '{lora.part}': both "
                        f"hold layer {layer}, and a layer is either trained or adapted"
                    )
            if "lora" not in phase.lr_by_part:
                raise RecipeError(
                    f"phase '{phase.name}': train.lora adds adapters that this phase does not train; give 'lora' a "
                    "rate in its lr_by_part, or set train.lora to null"
                )
        return self


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file, or of a name that ships with the package; RecipeError says what is wrong and where.

    `overrides` are `a.b=value` with values in YAML; numbers are places in a list: `data.train.0.manifest=x.jsonl`.
    Relative paths in the file start at the file, those of overrides at the current folder.
    """
    return read_settings(find_recipe(path_or_name), Recipe, overrides)


def shipped_recipes() -> dict[str, Path]:
    """Recipes of the package by name."""
    folder = Path(str(files("shibolet"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(path_or_name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that ships with the package."""
    path, shipped = Path(path_or_name), shipped_recipes()
    with suppress(OSError):  # no file has such a name
        if path.is_file():
            return path
    if str(path_or_name) in shipped:
        return shipped[str(path_or_name)]
    raise RecipeError(
        f"recipe {str(path_or_name)[:200]!r} is neither a file here nor one of {', '.join(shipped)}"
        f"{did_you_mean(str(path_or_name), list(shipped))}"
    )


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe in full, paths relative to its new place, so that `load_recipe` reads the same recipe there."""
    write_bytes(path, settings_yaml(recipe, path.parent).encode())


def name_of(path: Path) -> str | None:
    """The name of a recipe that `write_recipe` wrote; None of what something else wrote."""
    return peek(path, "name")


def recipe_yaml(recipe: Recipe) -> str:
    """The recipe in full, as `--dry-run` shows it."""
    return settings_yaml(recipe, width=80)
