"""The models of a round: content hashes, who hears, and what transcribes; each is hashed once and loaded once."""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any

from shibolet.errors import ShiboletError
from shibolet.listen.decoders import Decoders, num_decoders
from shibolet.recipe import Recipe
from shibolet.records.ahead import Ahead
from shibolet.records.files import read_through
from shibolet.records.runfolder import RunFolder

if TYPE_CHECKING:
    from shibolet.listen.decoders import Share
    from shibolet.listen.executor import Executor
    from shibolet.listen.lazy import LazyListener
    from shibolet.listen.processes import Child
    from shibolet.records.utterance import Utterance

    _Preparing = tuple[Decoders | Share | None, Executor | None]


@dataclass
class Models:
    """What a round has open, in this process or in those that hear for it."""

    recipe: Recipe
    folder: RunFolder
    on: str | None = field(init=False, default=None)  # the cluster that hears; None: this machine
    decoders: Decoders = field(init=False)  # for who hears, and for data of many files
    _identities: dict[str, Ahead[str]] = field(init=False, default_factory=dict)
    _listeners: dict[tuple[str, str], "LazyListener"] = field(init=False, default_factory=dict)  # by task and name
    # By model, language and settings.
    _transcribers: dict[tuple[str, str, str], Any] = field(init=False, default_factory=dict)
    _executor: "Executor | None" = field(init=False, default=None)
    _opening: RLock = field(init=False, default_factory=RLock)  # executor and listeners are made from two threads
    _loading: Ahead[None] | None = field(init=False, default=None)  # of listeners
    _importing: Ahead[None] | None = field(init=False, default=None)
    _compiling: "Child | None" = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.decoders = Decoders(num_decoders(self.recipe.audit.num_workers))

    def set_threads(self) -> None:
        """As many CPU threads in this process as the recipe says, before a model runs in it."""
        if self.recipe.num_threads:
            import torch

            torch.set_num_threads(self.recipe.num_threads)

    @property
    def executor(self) -> "Executor":
        """Who hears: all GPUs of this machine, or this process; or a cluster."""
        from shibolet.listen.open import open_executor

        with self._opening:
            if self._executor is None:
                self._executor = open_executor(self.on, self.recipe.num_threads, self.decoders)
            return self._executor

    @contextmanager
    def decoding(self) -> Iterator[Decoders]:
        """Who decodes where nobody hears: those that do for who hears, which begin to start now and are kept for it."""
        self.decoders.start()
        try:
            yield self.decoders
        finally:
            if self._executor is None:
                self.decoders.close()

    @contextmanager
    def preparing(self, utterances: "Sequence[Utterance]") -> "Iterator[_Preparing]":
        """Decoders and executor that prepare these: of little audio neither, and this process does it alone."""
        from shibolet.prepare.processes import is_worth_processes

        if not is_worth_processes(utterances, elsewhere=self.on is not None):
            yield None, None
        elif self.on is not None:
            yield self.executor.share(self.recipe.audit.num_workers), self.executor
        else:
            with self.decoding() as decoders:
                yield decoders, None

    def identity(self, model: str) -> str:
        """Content hash of a model by name; what failed before it was needed is tried again."""
        with suppress(Exception):
            return self._hashed(model).get()
        self._identities.pop(model, None)
        return self._hashed(model).get()

    def _hashed(self, model: str) -> Ahead[str]:
        from shibolet.listen.open import listener_identity

        if model not in self._identities:
            self._identities[model] = Ahead(partial(listener_identity, model), may_be_cut_off=True)
        return self._identities[model]

    def forget(self, model: str) -> None:
        """A model was written anew under this name."""
        self._identities.pop(model, None)

    @property
    def aligner(self) -> "LazyListener | None":
        """The audit's aligner, if it has one."""
        name = self.recipe.audit.aligner
        return None if name is None else self._listener("align", name)

    def recogniser(self, name: str) -> "LazyListener":
        """A recogniser by name."""
        return self._listener("hear", name)

    def _listener(self, does: str, name: str) -> "LazyListener":
        from shibolet.listen.lazy import LazyListener
        from shibolet.listen.open import HYPOTHESES, open_aligner, open_recogniser

        self.set_threads()
        with self._opening:
            if (does, name) not in self._listeners:
                opens = {"align": open_aligner, "hear": open_recogniser}[does]
                open_it = partial(opens, name, self.recipe.language, device=None)
                is_file = does == "hear" and name.endswith(HYPOTHESES)
                self._listeners[does, name] = open_it() if is_file else LazyListener(self.identity(name), open_it)
            return self._listeners[does, name]

    def hear_ahead(self, stage: str, recogniser: str, begin: Callable[[], None]) -> None:
        """For a stage that hears, as data are read: hash models, compile kernels, import libraries, `begin` to load.

        Nothing is loaded for a stage that was done, and nothing downloaded. What fails here fails again, and is said,
        where it is needed.
        """
        from shibolet.listen.open import HYPOTHESES
        from shibolet.model.folders import is_here, is_local, may_have_gpu
        from shibolet.model.gpus import num_gpus

        if not self.folder.finished(stage):
            self.compile_ahead()
        listeners = [name for name in (self.recipe.audit.aligner, recogniser) if name]
        names = dict.fromkeys([*listeners, *filter(is_local, self.recipe.model_names().values())])
        # What several threads need comes first: two that begin with one library can lock each other out.
        if not all(map(is_local, names)):
            from huggingface_hub import snapshot_download  # noqa: F401
        for name in names:
            if not name.endswith(HYPOTHESES) and is_here(name):
                self._hashed(name)
        if self._loading or self.folder.finished(stage) or not all(name in self._identities for name in listeners):
            return
        are_started = False
        if self.on is None and may_have_gpu() and num_gpus() > 1:
            with suppress(OSError):  # it fails again where they are needed
                self.start_processes(*listeners)  # they import for longest: before a dozen others are started
                are_started = True
        self.decoders.start()
        from shibolet.speech import read  # noqa: F401

        if any(source.hub for source in self.recipe.data.train):
            from shibolet.speech import hub  # noqa: F401

        self._loading = Ahead(partial(self._load, recogniser, begin, are_started))

    def compile_ahead(self) -> None:
        """Begin to compile kernels for the models that hear and train, once, where there may be a GPU."""
        from shibolet.rounds.kernels import begin_to_compile

        if self._compiling is None:
            with suppress(OSError):  # nothing waits for them
                self._compiling = begin_to_compile(self.recipe)

    def _load(self, recogniser: str, begin: Callable[[], None], are_started: bool) -> None:
        from shibolet.listen.executor import Here
        from shibolet.listen.lazy import load_now
        from shibolet.listen.open import import_opener

        with self._opening:  # who hears meanwhile finds the same executor and the same decoders
            names = [name for name in (self.recipe.audit.aligner, recogniser) if name]
            is_here = isinstance(self.executor, Here)
            if is_here:
                for name in names:  # before anything waits for a hash
                    import_opener(name)
            if not are_started:
                self.start_processes(*names)
            listeners = self.aligner, self.recogniser(recogniser)
            begin()
        if is_here:
            load_now(*listeners)  # which has begun: this thread ends when they are loaded
        else:
            import torch  # noqa: F401  # a later stage needs it here, and would wait for it

    def start_processes(self, *models: str) -> None:
        """Start those that hear, where they are several, as far as they take no memory of a GPU: it may be in use."""
        from shibolet.listen.executor import Here
        from shibolet.listen.lazy import Lazy, Loading
        from shibolet.listen.open import import_opener

        if not isinstance(self.executor, Here):
            self.executor.begin(Loading(tuple(Lazy(partial(import_opener, model)) for model in models)))

    def import_ahead(self, model: str) -> None:
        """Have the libraries of a model in this process, which waits for others until `end_importing`."""
        from shibolet.listen.open import import_opener

        self._importing = Ahead(partial(import_opener, model))

    def end_importing(self) -> None:
        """Two threads that begin with one library could lock each other out."""
        if self._importing is not None:
            self._importing.wait()
            self._importing = None

    def read_ahead(self, *names: str | None) -> Ahead[None]:
        """Have weights of models that are on this machine in the system's memory, before they are loaded."""
        return Ahead(partial(_read_weights, list(dict.fromkeys(filter(None, names)))), may_be_cut_off=True)

    def end_hearing(self) -> None:
        """Let go of who hears, before others transcribe; the recogniser stays for a transcriber of the same model."""
        import torch

        self._end_loading()
        self._listeners.clear()
        gc.collect()
        torch.cuda.empty_cache()  # nothing where CUDA was not used yet

    def begin_to_make_way(self) -> None:
        """Have processes that hear on GPUs end while others work, before `make_way` waits for it."""
        from shibolet.listen.executor import Processes

        if isinstance(self._executor, Processes):
            self._executor.kill()

    def make_way(self) -> int:
        """Let go of every loaded model, before training needs the memory; the number of GPUs."""
        import torch

        from shibolet.listen.open import let_go

        self._transcribers.clear()
        self._end_processes()
        let_go()
        self.end_hearing()
        return torch.cuda.device_count()

    def _end_loading(self) -> None:
        if self._loading is not None:
            self._loading.wait()
            self._loading = None

    def _end_processes(self) -> None:
        """Of those that hear; who hears next starts new ones. An error is not held up by what still loads."""
        if sys.exc_info()[1] is None:
            self._end_loading()
        (self._executor or self.decoders).close()

    def close(self) -> None:
        """End all processes."""
        self._end_processes()
        if self._compiling is not None:
            self._compiling.close()
            self._compiling = None


def _read_weights(names: list[str]) -> None:
    from shibolet.model.folders import is_here, resolve, weight_files

    for name in names:
        with suppress(ShiboletError, OSError):  # who loads it says it
            for file in weight_files(name, resolve(name)) if is_here(name) else ():
                read_through(file)
