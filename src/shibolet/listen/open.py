"""Opening listeners by name: what a checkpoint is stands in its configuration."""

import gc
import os
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from shibolet.errors import ModelError, RecipeError
from shibolet.listen.buffers import keep_buffers
from shibolet.listen.decoders import Decoders
from shibolet.listen.engine import Engine
from shibolet.listen.executor import Executor, Here
from shibolet.listen.lazy import Engines, Lazy, require_identity
from shibolet.listen.protocols import Aligner, Recogniser
from shibolet.model.fast.compiling import begin_to_hash_compiler
from shibolet.model.folders import (
    CTRANSLATE2_WEIGHTS,
    best_device,
    dtype_on,
    identity_of,
    may_have_gpu,
    read_config,
    resolve,
)
from shibolet.model.outline import FAMILIES, has_family, outline_of
from shibolet.records.files import hash_file

if TYPE_CHECKING:
    from shibolet.listen.transcribe import Transcriber
    from shibolet.model.family import LoadedModel

HYPOTHESES = (
    ".jsonl",
    ".jsonl.gz",
    ".csv",
    ".tsv",
)  # a recogniser's name that ends so is a file of what was heard elsewhere
_OPENERS = {"family": ("family_aligner", "family_recogniser"), "ctc": ("ctc",), "seq2seq": ("seq2seq",)}
_KEPT: dict[tuple[str, str], "LoadedModel"] = {}  # by content and device, the one that was opened last


def listener_identity(name: str) -> str:
    """Content hash of a listener: of its configuration and weights, or of its file of hypotheses."""
    return hash_file(_hypotheses(name)) if name.endswith(HYPOTHESES) else identity_of(resolve(name))


def import_opener(name: str) -> None:
    """Import what opens a listener, and its family: libraries take seconds, and no weights are read for them."""
    from transformers.models.auto import modeling_auto  # noqa: F401  # most of it, before a round's model is verified

    _, config = read_config(name)
    for module in _OPENERS.get(_kind(config), ()):
        import_module(f"shibolet.listen.{module}")
    if has_family(config):
        import_module(outline_of(config).module)
    if may_have_gpu():
        begin_to_hash_compiler()


def open_aligner(name: str, language: str, *, device: str | None = "cpu") -> Aligner:
    """A family's forced aligner in any of its layouts, or any CTC checkpoint of transformers.

    `device` None: the best one of the process that opens it.
    """
    device = device or best_device()
    path, config = read_config(name)
    kind = _kind(config)
    if kind == "family":
        from shibolet.listen.family_aligner import FamilyAligner
        from shibolet.model.family import load_aligner

        return FamilyAligner(load_aligner(name, dtype=dtype_on(device), device=device))
    if kind == "ctc":
        from shibolet.listen.ctc import CtcAligner, CtcModel

        return CtcAligner(CtcModel(path, language, device=device))
    raise ModelError(
        f"aligner '{name}' is {_described(config)}; a forced aligner ({', '.join(FAMILIES)}) or a ...ForCTC checkpoint "
        "can align"
    )


def open_recogniser(name: str, language: str, *, device: str | None = "cpu") -> Recogniser:
    """A recogniser by what it is: a file of hypotheses, a model of a family in any of its layouts, a Whisper of
    CTranslate2, or any CTC or sequence-to-sequence speech recogniser of transformers.

    `device` None: the best one of the process that opens it.
    """
    if name.endswith(HYPOTHESES):
        from shibolet.listen.hypotheses import RecordedHypotheses

        return RecordedHypotheses(_hypotheses(name))
    device = device or best_device()
    if device == "cpu":
        keep_buffers()
    path, config = read_config(name)
    if _is_ctranslate2(path, config):
        from shibolet.listen.ctranslate2_whisper import CTranslate2Whisper

        return CTranslate2Whisper(name, path, language, device=device)
    kind = _kind(config)
    if kind == "family":
        from shibolet.listen.family_recogniser import FamilyRecogniser

        return FamilyRecogniser(_family_model(name, path, device), language)
    if kind == "ctc":
        from shibolet.listen.ctc import CtcModel, CtcRecogniser

        return CtcRecogniser(CtcModel(path, language, device=device))
    if kind == "seq2seq":
        from shibolet.listen.seq2seq import Seq2SeqRecogniser

        return Seq2SeqRecogniser(path, language, device=device)
    raise ModelError(
        f"recogniser '{name}' is {_described(config)}; a model of a family ({', '.join(FAMILIES)}), a ...ForCTC "
        "checkpoint, a sequence-to-sequence speech recogniser such as Whisper (transformers' or CTranslate2's), or a "
        ".jsonl file of hypotheses can listen"
    )


def open_transcriber(name: str, language: str, **settings) -> "Transcriber":
    """A model of a family as a transcription engine on the process's best device, with the settings of one."""
    from shibolet.listen.transcribe import Transcriber

    device = best_device()
    return Transcriber(_family_model(name, resolve(name), device), language, **settings)


def _family_model(name: str, path: Path, device: str) -> "LoadedModel":
    """A recogniser of a family: the one that was opened last, where that is the same one on this device.

    What an audit heard with is often what an evaluation transcribes with next.
    """
    from shibolet.model.family import load_recogniser

    if (found := _KEPT.get((identity_of(path), device))) is None:
        let_go()
        found = load_recogniser(name, dtype=dtype_on(device), device=device)
        _KEPT[found.identity, device] = found
    return found


def let_go() -> None:
    """Keep no model for who opens the same one next."""
    if _KEPT:
        _KEPT.clear()
        gc.collect()  # a model and its parts may hold each other; it takes .3 s to look through libraries for them


def open_executor(on: str | None, num_threads: int | None = None, decoders: Decoders | None = None) -> Executor:
    """Who hears: what this machine has, or a cluster, `ray` or `ray://HOST:PORT`."""
    from shibolet.listen.executor import local_executor

    if on is None:
        return local_executor(num_threads, decoders)
    if on != "ray" and not on.startswith("ray://"):
        raise RecipeError(f"--on {on}: expected ray, or ray://HOST:PORT")
    import torch

    from shibolet.listen.cluster import OnCluster
    from shibolet.listen.on_ray import RayCluster

    return OnCluster(RayCluster(on), num_threads or torch.get_num_threads(), decoders)


def open_engines(executor: Executor, name: str, language: str, **settings) -> Engine | Engines:
    """The same in each process of an executor, where it has several.

    Each opens it on its own device; how many clips one takes at once, where nobody says, follows from that device:
    the cluster's, or this process's.
    """
    if isinstance(executor, Here):
        return open_transcriber(name, language, **settings)
    open_it = partial(open_transcriber, name, language, **settings)
    if executor.is_elsewhere:
        open_it = partial(_opened_as, listener_identity(name), open_it)
    together = settings.get("batch_utterances")
    if together is None:
        from shibolet.model.family import family_named

        device = best_device() if executor.has_gpus is None else "cuda" if executor.has_gpus else "cpu"
        together = family_named(name).clips_at_once(device, settings.get("beam_size", 1))
    return Engines(Lazy(open_it), together, executor)


def _opened_as(identity: str, open_it: Callable[[], "Transcriber"]) -> "Transcriber":
    require_identity(opened := open_it(), identity)
    return opened


def _is_ctranslate2(path: Path, config: dict) -> bool:
    """A configuration that CTranslate2's converter writes for Whisper, which has no `model_type`, and its weights."""
    return "suppress_ids" in config and "model_type" not in config and (path / CTRANSLATE2_WEIGHTS).is_file()


def _kind(config: dict) -> str | None:
    if has_family(config) and outline_of(config).listens:
        return "family"
    if any(architecture.endswith("ForCTC") for architecture in config.get("architectures") or []):
        return "ctc"
    from transformers.models.auto.modeling_auto import MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES

    return "seq2seq" if config.get("model_type") in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES else None


def _described(config: dict) -> str:
    return f"a {config.get('model_type')} ({', '.join(config.get('architectures') or ['no architecture named'])})"


def _hypotheses(name: str) -> Path:
    path = Path(os.path.expanduser(name))
    if not path.is_file():
        raise ModelError(f"recogniser '{name}': there is no such file of hypotheses")
    return path
