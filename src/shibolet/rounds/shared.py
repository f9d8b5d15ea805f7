"""What the stages of a round share: the recipe, its folder, data that are read once and models that are loaded once."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from shibolet.errors import DataError, RecipeError
from shibolet.evaluate.config import EvaluateConfig, EvaluationSet, ServerConfig
from shibolet.recipe import ModelsConfig, Recipe, name_of, write_recipe
from shibolet.records.candidate import named
from shibolet.records.documents.comparison import Named
from shibolet.records.documents.scores import Overlap
from shibolet.records.documents.timings import NO_WORK, StageTime, TrainTime, Work, add_time
from shibolet.records.files import cache_dir, hash_json
from shibolet.records.ledger import LedgerLine, count_by_rule
from shibolet.records.objects import exists
from shibolet.records.runfolder import RunFolder, Stage
from shibolet.records.runs import MANIFEST, seed_of
from shibolet.records.spilled import SpilledList
from shibolet.records.utterance import Utterance
from shibolet.rounds.mirroring import evidence_shared, mirrored
from shibolet.rounds.models import Models
from shibolet.rounds.reading import by
from shibolet.speech.sources import DataSource
from shibolet.speech.text.terms import read_terms
from shibolet.tracking.weights_and_biases import require_wandb
from shibolet.train.launch import ONE_PLACE, Place

if TYPE_CHECKING:
    from shibolet.listen.engine import Engine
    from shibolet.listen.lazy import Engines
    from shibolet.train.launch import Ranks

DEMO = "demo"  # the recipe of `shibolet demo`

Progress = Callable[[int, int], None]  # done, in all (0: not known)
Tell = Callable[[str], None]  # a sentence for the user


class Track(Protocol):
    """A progress bar with this title, of so many of a unit, while the context is open."""

    def __call__(self, title: str, unit: str = "utterances") -> AbstractContextManager[Progress]: ...


@contextmanager
def untracked(title: str, unit: str = "utterances") -> Iterator[Progress]:
    yield lambda done, total: None


@dataclass(frozen=True, slots=True)
class SourceData:
    """Utterances with their domains, a line for each row that is none, and the hash of both."""

    utterances: Sequence[Utterance]
    ledger: Sequence[LedgerLine]
    digest: str


def named_apart(data: SourceData, name: str) -> SourceData:
    """The same data with ids that no other source has."""
    return SourceData(
        SpilledList(replace(utterance, id=f"{name}/{utterance.id}") for utterance in data.utterances),
        SpilledList(replace(line, id=f"{name}/{line.id}") for line in data.ledger),
        hash_json([name, data.digest]),
    )


@dataclass
class Round(Models):
    """One recipe in one run folder; data are read once and models loaded once for all stages."""

    tell: Tell
    track: Track = untracked
    gpus: int = 1  # processes that train on this machine, one a GPU
    place: Place = ONE_PLACE  # of this machine among those that train
    only_through: str | None = None  # the phase whose end is the result of training
    from_step: int | None = None  # the step whose checkpoint training goes on from
    when_kept: Callable[[], None] = lambda: None  # what is called when a stage is done
    warnings: Tell | None = None  # where those go that are said even to a user who wants quiet; None: to `tell`
    _sources: dict[tuple[type[DataSource], str], SourceData] = field(default_factory=dict)  # by kind and name
    _trained_on: dict[Path, Any] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)  # what comes from here on is of the next stage
    _ranks: "Ranks | None" = None  # that wait for a training

    def start_ranks(self) -> None:
        """Start the processes that will train, where they are others: they load libraries while this one works."""
        from shibolet.rounds.rank import get_ready, require_gpus, under_torchrun

        if self.gpus == self.place.num_nodes == 1 or under_torchrun() or self._ranks or self.folder.finished("train"):
            return
        import torch

        from shibolet.model.folders import best_device
        from shibolet.train.launch import Ranks
        from shibolet.train.workers import worker_count

        require_gpus(self.gpus)
        train = self.recipe.train
        has_workers = worker_count(train.num_workers, torch.device(best_device()), self.gpus) > 0
        with suppress(OSError):  # they are started when there is work
            ready = partial(get_ready, self.recipe.models.base, has_workers, train.precision)
            self._ranks = Ranks(self.gpus, get_ready=ready)

    def warm_ranks(self) -> None:
        """Have the ranks that wait do what a GPU takes seconds for at first, while those that heard leave it."""
        if self._ranks:
            from shibolet.model.fast.first_use import use_libraries

            self._ranks.prepare(use_libraries)

    def take_ranks(self) -> "Ranks | None":
        """Those that wait for a training, which ends them; None where there are none, or one has died of something."""
        ranks, self._ranks = self._ranks, None
        if ranks and not ranks.are_alive:
            ranks.close()
            return None
        return ranks

    def close(self) -> None:
        """End all processes."""
        if ranks := self.take_ranks():
            ranks.close()
        super().close()

    def warn(self, sentence: str) -> None:
        """A sentence about what is lost or left out."""
        (self.warnings or self.tell)(sentence)

    @cached_property
    def data(self) -> SourceData:
        """All training sources, in the letters of the recipe's language: before a model is loaded to find no word."""
        from shibolet.speech.read import all_capitals, require_script

        for source in self.recipe.data.train:
            utterances = self.read(source).utterances
            require_script(utterances, self.recipe.language, source.name)
            if advice := all_capitals(utterances, source.name):
                self.tell(advice)
        return self.join(self.recipe.data.train)

    def join(self, sources: Sequence[DataSource]) -> SourceData:
        """Sources one after the other; with several, a source's name goes before the ids of its rows."""
        parts = [self.read(source) for source in sources]
        if len(parts) > 1:
            parts = [named_apart(part, source.name) for part, source in zip(parts, sources, strict=True)]
        return SourceData(
            SpilledList.joined(part.utterances for part in parts),
            SpilledList.joined(part.ledger for part in parts),
            hash_json([part.digest for part in parts]),
        )

    def read(self, source: DataSource) -> SourceData:
        """One source: training data with the domains of the recipe's rules, an evaluation set with its own alone."""
        from shibolet.audit.domains import assign_domain
        from shibolet.records.manifest import manifest_hash
        from shibolet.speech.read import read_source

        is_test = isinstance(source, EvaluationSet)
        key = type(source), source.name
        if key not in self._sources:
            for_each = by(self.decoders)
            with self.track(f"read {source.name}", "rows") as progress:
                language = source.language or self.recipe.language
                domain_of = partial(assign_domain, rules=self.recipe.audit.domain_rules)
                if is_test:
                    domain_of = (lambda utterance: source.domain) if source.domain else None
                utterances, ledger = read_source(source, cache_dir(), progress, language, for_each, domain_of)
            if ledger:
                counts = ", ".join(f"{count:,} {rule}" for rule, count in count_by_rule(ledger).items())
                first = f"the first is '{ledger[0].id}', {ledger[0].detail or ledger[0].rule}"
                self.warn(f"{source.name}: {len(utterances):,} utterances; rows left out: {counts}; {first}")
            if is_test:
                utterances = list(utterances)  # it is scored out of order
            if is_test and source.domain:
                ledger = SpilledList(
                    replace(one, domain=source.domain) if one.domain is None else one for one in ledger
                )
            lines = [asdict(line) if is_test else [line.id, line.rule] for line in ledger]
            digest = hash_json([manifest_hash(utterances, whole=is_test, for_each=for_each), lines])
            self._sources[key] = SourceData(utterances, ledger, digest)
        return self._sources[key]

    @cached_property
    def sets(self) -> list[EvaluationSet]:
        """The recipe's evaluation sets; an optional one that cannot be read is told and left out."""
        found = []
        for source in self.recipe.evaluate.sets:
            if source.optional:
                try:
                    self.read(source)
                except DataError as error:
                    self.warn(f"evaluate: left out, since '{source.name}' is optional and cannot be had: {error}")
                    continue
            found.append(source)
        return found

    def require_sets(self) -> None:
        """DataError where what is read late is not there: known now, not once an audit or a training is paid for."""
        self.recipe.evaluate.require_ngram()
        for context in (self.recipe.evaluate.context, self.recipe.train and self.recipe.train.context):
            if context and context.file:
                read_terms(context.file)
        data = self.recipe.data
        sets = [source for source in self.recipe.evaluate.sets if not source.optional]
        needed = {"data.unlabelled": data.unlabelled, "data.replay": data.replayed, "evaluate.sets": sets}
        for key, sources in needed.items():
            for source in sources:
                if source.manifest is not None and not exists(source.manifest):
                    raise DataError(f"{key}: '{source.name}' has no manifest {source.manifest}; nothing was started")
        for source in self.recipe.evaluate.non_speech.sources if self.recipe.evaluate.non_speech else ():
            if source.hub is None:  # they are few, and a fault in one would come up after the training
                self.read(source)

    @cached_property
    def prepared(self) -> SourceData:
        """What prepare kept, both splits."""
        from shibolet.records.manifest import manifest_hash, read_manifest

        self.folder.verified("prepare")
        utterances = read_manifest(self.folder.prepared / MANIFEST)
        return SourceData(utterances, [], manifest_hash(utterances))

    @property
    def names(self) -> tuple[Named, Named]:
        """The baseline, which the round's model has to beat, and that model, the candidate."""
        models = self.recipe.models or ModelsConfig()
        baseline = named(models.baseline_title)
        starts_from_it = models.base is not None and models.base == models.baseline
        return baseline, named(self.recipe.title, baseline.label if starts_from_it else None)

    @cached_property
    def seeds(self) -> tuple[dict[Path, Named], dict[Path, Named]]:
        """By run folder, the other seeds that the recipe names of the baseline's training and of the candidate's."""
        compare = self.recipe.compare
        baseline, candidate = (
            {run: named(f"{own.title}, seed {seed_of(run)}") for run in runs}
            for own, runs in zip(self.names, (compare.baseline_seeds, compare.candidate_seeds), strict=True)
        )
        return baseline, candidate

    def server(self, label: str) -> ServerConfig | None:
        """Where a model of this label is transcribed with; None: here."""
        who = self._who(label)
        return getattr(self.recipe.evaluate.servers, who) if who else None

    def transcriber(self, model: str, label: str, language: str, context: str | None = None) -> "Engine | Engines":
        """A transcriber of one language, on every GPU or on the server of a label; only the last is kept in memory.

        It is told what the recipe says for the label, or another `context`; a server is told nothing.
        """
        if (server := self.server(label)) is not None:
            from shibolet.listen.server import ServerEngine

            return ServerEngine(
                server.url, model=server.model, language_code=server.language_code,
                model_key=f"evaluate.servers.{self._who(label)}.model",
            )  # fmt: skip
        from shibolet.listen.open import open_engines

        config = self.recipe.evaluate_in(language)
        told = self._context(label, config) if context is None else context
        settings = config.engine_settings(self._style(label), told)
        key = model, language, repr(settings)
        if key not in self._transcribers:
            self.set_threads()
            self._transcribers.clear()
            self._transcribers[key] = open_engines(self.executor, model, language, **settings)
        return self._transcribers[key]

    def _style(self, label: str) -> str:
        """How a model of this label is asked to write."""
        who = self._who(label)
        return (getattr(self.recipe.evaluate.styles, who) if who else None) or ""

    def _context(self, label: str, config: EvaluateConfig) -> str:
        """What a model of this label is told of names and terms."""
        who = self._who(label)
        return config.told(who) if who else ""

    def _who(self, label: str) -> Literal["baseline", "candidate"] | None:
        """Which of the two that a round compares a label is of: other seeds of the baseline are it, all else is new.

        None in a recipe without models.
        """
        if self.recipe.models is None:
            return None
        (baseline, _), (others, _) = self.names, self.seeds
        return "baseline" if label in {baseline.label, *(one.label for one in others.values())} else "candidate"

    def overlap(self, source: DataSource, prepared: Path) -> Overlap | None:
        """What a set shares with what prepare kept to train on; None, and told, where an older version prepared it."""
        from shibolet.evaluate.overlap import overlap, read_trained_on

        if prepared not in self._trained_on:
            self._trained_on[prepared] = read_trained_on(prepared)
        if (trained := self._trained_on[prepared]) is None:
            self.tell(f"{source.name}: not compared with {prepared}, which an older version wrote without hashes")
            return None
        found = overlap(self.read(source).utterances, trained, source.name)
        for sentence in found.sentences:
            self.tell(f"evaluate: {sentence}")
        return found

    def retire(self, *names: str, why: str = "this round does not reach it") -> None:
        """Put aside what an earlier start made and what must not pass as the result of this one."""
        if retired := self.folder.retire(*names):
            self.tell(f"put aside, since {why}: {', '.join(retired)}")

    def begin(
        self, name: str, inputs: dict[str, Any], reads: Sequence[str] = (), fill: Callable[[Path], str] | None = None
    ) -> Stage:
        """The stage, as `RunFolder.stage` has it, and a sentence to the user when there is one to say."""
        return self.begun(self.folder.stage(name, inputs, reads, fill))

    def begun(self, stage: Stage) -> Stage:
        """The same, told where there is something to say."""
        if stage.note:
            self.tell(stage.note)
        if stage.done:
            self._since = time.perf_counter()
        return stage

    def finish(self, stage: Stage, done: Work = NO_WORK, training: TrainTime | None = None) -> None:
        """Mark a stage as done, and keep what it took and how much it did."""
        stage.finish()
        self._took(stage.name, stage.state != "interrupted", done, training)
        self.when_kept()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """What is no stage and takes time, such as a page."""
        self._since = time.perf_counter()
        yield
        self._took(name, True)

    def _took(self, name: str, is_whole: bool, done: Work = NO_WORK, training: TrainTime | None = None) -> None:
        now = time.perf_counter()
        add_time(self.folder.timings, StageTime.of(name, now - self._since, is_whole, done, training))
        self._since = now


@contextmanager
def open_round(
    recipe: Recipe, run_dir: Path, command: str, tell: Tell, track: Track = untracked, mirror: str | None = None
) -> Iterator[Round]:
    """A round in a folder that nobody else writes to; recipe and versions are in it first, `mirror` keeps a copy."""
    require_wandb(recipe.tracking.wandb_project)
    folder = folder_of(recipe, run_dir)
    with folder.locked(), mirrored(folder.path, mirror, tell) as send:
        keep_the_demo_apart(recipe, folder)
        write_recipe(recipe, folder.recipe)
        if said := folder.write_provenance(command, recipe.num_threads):
            tell(said)
        with closing(Round(recipe, folder, tell, track, when_kept=send)) as current:
            yield current


def folder_of(recipe: Recipe, run_dir: Path) -> RunFolder:
    """The folder of a round, with that of the round before; DataError where the recipe names one that is none."""
    if recipe.parent is None:
        return RunFolder(run_dir)
    parent = RunFolder(recipe.parent)
    if not parent.recipe.is_file():
        raise DataError(
            f"parent: '{recipe.parent}' is not a run folder; put it back, or leave 'parent' out: then everything is "
            "heard, prepared and scored anew"
        )
    if recipe.parent.absolute() == run_dir.absolute():
        raise DataError(f"parent: '{recipe.parent}' is this round's own folder; name another with -o")
    return RunFolder(run_dir, parent)


def keep_the_demo_apart(recipe: Recipe, folder: RunFolder) -> None:
    """RecipeError where one of two rounds in a folder is the demo, whose corpus and truth say nothing of other data."""
    before = name_of(folder.recipe) if folder.recipe.is_file() else recipe.name
    if before != recipe.name and DEMO in (before, recipe.name):
        raise RecipeError(
            f"{folder.path} holds the round '{before}', this is '{recipe.name}'; name another folder with -o"
        )


@contextmanager
def open_shard(
    recipe: Recipe, run_dir: Path, tell: Tell, track: Track = untracked, mirror: str | None = None
) -> Iterator[Round]:
    """A round for one job of an array: the jobs share a folder without a lock, and none writes a recipe or a marker.

    Or each has a folder of its own, and they share what they hear beside the `mirror` of the round.
    """
    folder = folder_of(recipe, run_dir)
    keep_the_demo_apart(recipe, folder)
    with evidence_shared(folder.path, mirror, tell), closing(Round(recipe, folder, tell, track)) as current:
        yield current
