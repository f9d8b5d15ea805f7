"""Folders of models, of any family: where they are, whether they are whole, what tells them apart.

Weights are read from safetensors only: a pickle can run code when it is opened, and is never opened here.
"""

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from shibolet.errors import ModelError
from shibolet.records.files import hash_file, hash_json
from shibolet.records.runfolder import run_of

BUILTIN = "builtin:"  # builtin:round1, builtin:aligner, builtin:ctc ship with the package
CTRANSLATE2_WEIGHTS = "model.bin"  # no pickle, unlike PyTorch's .bin files, which have longer names
# Of a Hub model; the card for its licence.
FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "README.md", CTRANSLATE2_WEIGHTS]
NEEDS_CTRANSLATE2 = "is in CTranslate2's format, which needs a package more: pip install 'shibolet[faster-whisper]'"
INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = (".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_DOCUMENTS = (".md", ".png", ".jpg", ".svg", ".pdf")
_OF_TRAINING = ("trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "LICENSE")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def best_device() -> str:
    """Where models run in this process: its first GPU, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_on(device: str) -> torch.dtype:
    """The precision of listening and transcribing on a device."""
    return torch.float32 if device == "cpu" else torch.bfloat16


def resolve(name: str) -> Path:
    """The folder of a model: a local path, `builtin:NAME`, or a Hub id (from the cache, else downloaded).

    DataError for the model of a run folder that is not as its training wrote it.
    """
    if name.startswith(BUILTIN):
        path = Path(str(files("shibolet"))) / "demo" / "checkpoints" / name.removeprefix(BUILTIN)
    elif Path(name).exists() or name.startswith((".", "/", "~")):
        path = Path(name).expanduser()
    else:
        path = _from_hub(name)
    if (run := run_of(path)) is not None:
        run.intact("train", records=False)
    if path.suffix in _PICKLES and path.is_file():
        raise ModelError(f"model '{name}': {_pickle_advice(path)}")
    if not (path / "config.json").is_file():
        adapter = (path / "adapter_config.json").is_file()
        raise ModelError(
            f"model '{name}': {path} holds an adapter alone; merge it into its base first"
            if adapter
            else f"model '{name}': no config.json in {path}; expected a Hub id or a folder of a saved model"
        )
    return path


def _pickle_advice(path: Path) -> str:
    return (
        f"{path.name} is a pickle, which can run code when it is opened; take the safetensors, or convert it where you "
        "trust it"
    )


def is_local(name: str) -> bool:
    """Whether `resolve` looks for a model on this machine's disk and not on the Hub."""
    return name.startswith((BUILTIN, ".", "/", "~")) or Path(name).exists()


def read_config(name: str) -> tuple[Path, dict]:
    """The folder of a model and its `config.json`."""
    path = resolve(name)
    return path, read_mapping(name, path / "config.json")


def read_mapping(name: str, path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"model '{name}': {path} is not whole ({error}); download or save the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"model '{name}': {path} holds no mapping of keys to values")
    return value


def weight_files(name: str, path: Path) -> list[Path]:
    """The safetensors files of a model folder, each of the size that its header says; ModelError otherwise."""
    index = path / INDEX
    if index.is_file():
        found = sorted({path / shard for shard in read_mapping(name, index)["weight_map"].values()})
    else:
        found = sorted(path.glob("*.safetensors"))
        if found and (shard := next((file for file in found if "-of-" in file.stem), None)):
            raise ModelError(f"model '{name}': {shard.name} is one of several, but {INDEX} is missing in {path}")
    if missing := [file.name for file in found if not file.is_file()]:
        raise ModelError(
            f"model '{name}': half a download: {len(missing)} of {len(found)} files of weights are missing in {path}, "
            f"the first is {missing[0]}"
        )
    if not found:
        pickles = sorted(file for file in path.iterdir() if file.suffix in _PICKLES)
        advice = f": {_pickle_advice(pickles[0])}" if pickles else ""
        raise ModelError(f"model '{name}': {path} has a configuration but no .safetensors weights{advice}")
    for file in found:
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise ModelError(
                f"model '{name}': {file} is not whole or no safetensors file ({error}); download or save it again"
            ) from error
    return found


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except GatedRepoError as error:
        page = f"https://huggingface.co/{name}"
        raise ModelError(f"model '{name}' is gated: ask for access at {page}, then run 'hf auth login'") from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"model '{name}' is no folder here, not in the local cache, and the Hub cannot be reached"
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"model '{name}' is neither a folder here nor to be had from the Hub: {reason}") from error


def is_ctranslate2(files: Iterable[str]) -> bool:
    """Whether a model with these files has CTranslate2's weights and no others that can be read."""
    return CTRANSLATE2_WEIGHTS in (files := set(files)) and not any(file.endswith(".safetensors") for file in files)


def identity_of(path: Path) -> str:
    """Content hash of a model folder (16 hex digits): of every file in it that a library may read to transcribe.

    Configuration, weights, tokenizer, vocabulary, generation and processor settings, chat template, language model.
    """
    files = sorted(file for file in path.rglob("*") if file.is_file() and _is_read(file.relative_to(path)))
    return hash_json([[file.relative_to(path).as_posix(), hash_file(file)] for file in files])


def _is_read(file: Path) -> bool:
    """Whether a file can change a hypothesis: not documents, what training left, or weights that are never opened."""
    is_hidden = any(part.startswith(".") for part in file.parts)
    is_weights = file.name == CTRANSLATE2_WEIGHTS or file.suffix not in (*_PICKLES, *_OTHER_WEIGHTS)
    return not is_hidden and is_weights and file.name not in _OF_TRAINING and file.suffix not in _DOCUMENTS
