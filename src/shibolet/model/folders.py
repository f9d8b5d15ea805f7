"""Folders of models, of any family: where they are, whether they are whole, what tells them apart.

A folder is data and may be anybody's. Weights are read from safetensors only: a pickle can run code when it is opened,
and is never opened here. Code that a folder brings is never run, and nobody is asked whether it may.
"""

import ctypes
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from shibolet.errors import ModelError, ShiboletError
from shibolet.records.files import hash_files, hash_json
from shibolet.records.runs import run_of, stage_of

if TYPE_CHECKING:
    import torch

BUILTIN = "builtin:"  # builtin:round1, builtin:aligner, builtin:ctc ship with the package
CTRANSLATE2_WEIGHTS = "model.bin"  # no pickle, unlike PyTorch's .bin files, which have longer names
# Of a Hub model; the card for its licence.
FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "README.md", CTRANSLATE2_WEIGHTS]
NEEDS_CTRANSLATE2 = "is in CTranslate2's format, which needs a package more: pip install 'shibolet[faster-whisper]'"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = (".h5", ".msgpack", ".onnx", ".gguf", ".ot")
_DOCUMENTS = (".md", ".png", ".jpg", ".svg", ".pdf")
_OF_TRAINING = (
    "trainer_state.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
    "LICENSE",
    "cut.json",
)
_TRAINING_DIRS = re.compile(r"runs|checkpoint-\d+")  # logs and earlier weights, in a folder that a trainer wrote
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SETTINGS = (  # files in which transformers looks for settings, and for the names of classes
    "config.json", "generation_config.json", "tokenizer_config.json", "processor_config.json",
    "preprocessor_config.json", "feature_extractor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
_FOREIGN = {  # key -> what it names
    "auto_map": "code of its own", "custom_pipelines": "code of its own", "custom_generate": "code of its own",
    "transformers_weights": "other weights", "audio_tokenizer": "another model",
}  # fmt: skip
MAX_JSON_BYTES = 64 << 20  # the largest tokenizers have 35 MB
MAX_LAYERS = 1000  # the deepest models have a tenth of that
MAX_SIZE = 1 << 24  # of a vocabulary, a width, a number of positions
_SIZES = re.compile(r"(?:^|_)(?:size|sizes|dim|dims|d_model|heads|positions|embeddings|labels|kernel|bins)$")


def best_device() -> str:
    """Where models run in this process: its first GPU, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def may_have_gpu() -> bool:
    """Whether that may be a GPU: there is a driver, and nothing hides it. Torch is not asked: it takes seconds."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def dtype_on(device: str) -> "torch.dtype":
    """The precision of listening and transcribing on a device."""
    import torch

    return torch.float32 if device == "cpu" else torch.bfloat16


def resolve(name: str) -> Path:
    """The folder of a model: a local path, `builtin:NAME`, or a Hub id (from the cache, else downloaded).

    ModelError for what is none, and for one that would have code of its own run; DataError for the model of a run
    folder that is not as its training wrote it.
    """
    if why := unusable(name):
        raise ModelError(why)
    if name.startswith(BUILTIN):
        path = Path(str(files("shibolet"))) / "demo" / "checkpoints" / name.removeprefix(BUILTIN)
    elif is_local(name):
        path = Path(os.path.expanduser(name))  # as it is where there is no such user
    else:
        path = _from_hub(name)
    if (run := run_of(path)) is not None:
        run.intact(stage_of(path, run), records=False)
    with opening(path):
        if path.suffix in _PICKLES and path.is_file():
            raise ModelError(f"model '{name}': {_pickle_advice(path)}")
        adapter = (path / "adapter_config.json").is_file()
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model '{name}': {path} holds only an adapter; merge it into its base first"
                if adapter
                else f"model '{name}': no config.json in {path}; expected a Hub id or a folder of a saved model"
            )
        if adapter:  # transformers would open the base that it names, and not these weights
            raise ModelError(
                f"model '{name}': {path} has an adapter_config.json beside a whole model; take the file out of the "
                "folder, or merge the adapter into its base"
            )
        for file in SETTINGS:
            if (path / file).is_file():
                _refuse_foreign(name, path / file, read_mapping(name, path / file))
    return path


def _refuse_foreign(name: str, file: Path, value: Any) -> None:
    """ModelError where settings make transformers run code, or open files of another place than the folder."""
    if isinstance(value, dict):
        for key, inner in value.items():
            what = _FOREIGN.get(key)
            if key.endswith("attn_implementation") and "/" in str(inner):
                what = "code of the Hub"
            if what and inner:
                raise ModelError(
                    f"model '{name}': '{key}' in {file} names {what}, which shibolet never takes; take a model that "
                    "transformers knows, or take that key out of the file where the model needs none of it"
                )
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_foreign(name, file, inner)


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """ModelError, in a sentence, for whatever a library raises on what a folder holds."""
    try:
        yield
    except ShiboletError:
        raise
    except Exception as error:
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            raise
        said = " ".join(str(error).split())[:300]
        if isinstance(error, ImportError):
            raise ModelError(f"the model in {path} needs a package that is not installed: {said}") from error
        raise ModelError(
            f"the model in {path} cannot be opened: {type(error).__name__}{': ' if said else ''}{said}; is it whole, "
            "and are its files of one model?"
        ) from error


def from_folder(cls: Any, path: Path, **settings) -> Any:
    """`cls.from_pretrained` of a folder that `resolve` gave; it runs no code of the folder's and asks nobody."""
    with opening(path):
        return cls.from_pretrained(path, trust_remote_code=False, **settings)


def _pickle_advice(path: Path) -> str:
    return (
        f"{path.name} is a pickle, which can run code when it is opened; take the safetensors, or convert it where you "
        "trust it"
    )


def is_local(name: str) -> bool:
    """Whether `resolve` looks for a model on this machine's disk, or refuses the name, and does not ask the Hub."""
    return name.startswith((BUILTIN, ".", "/", "~")) or unusable(name) is not None or Path(name).exists()


def is_here(name: str) -> bool:
    """Whether a model is on this machine: in a folder, or whole in the Hub's cache."""
    if is_local(name):
        return True
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "config.json")
        return isinstance(cached, str) and bool(weight_files(name, Path(cached).parent))
    except (ValueError, ModelError):  # no id of the Hub; half a download
        return False


def unusable(name: str) -> str | None:
    """Why a name can be no model's, in a sentence; None: it can."""
    if url := re.match(r"(?i)(?:[a-z][a-z0-9+.-]*://|www\.)", name):
        hub = re.match(r"(?i)https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", name)
        advice = f"'{hub[1]}'" if hub else "the id of a Hub model as org/name, or a folder"
        return f"model {name[:200]!r}: an address ({url[0]}) is no model; write {advice}"
    if not name or not name.isprintable() or len(name) > 4000 or any(len(part) > 250 for part in name.split("/")):
        return f"model {name[:100]!r} can be no Hub id and no folder: it is empty, too long, or has control characters"
    return None


def read_config(name: str) -> tuple[Path, dict]:
    """The folder of a model and its `config.json`."""
    path = resolve(name)
    return path, config_in(name, path)


def config_in(name: str, path: Path) -> dict:
    """The `config.json` of a folder: what is said there of kinds and sizes can be meant; ModelError otherwise."""
    file = path / "config.json"
    config = read_mapping(name, file)
    thinker = config.get("thinker_config")
    inner = [thinker.get(key) for key in ("audio_config", "text_config")] if isinstance(thinker, dict) else []
    names = config.get("architectures")
    kinds = {
        "model_type": config.get("model_type") is None or isinstance(config["model_type"], str),
        "architectures": names is None or (isinstance(names, list) and all(isinstance(one, str) for one in names)),
        "thinker_config": thinker is None or (inner and all(isinstance(one, dict) for one in inner)),
    }
    for key, usable in kinds.items():
        if not usable:
            raise ModelError(f"model '{name}': '{key}' in {file} is none: {config[key]!r:.100}")
    _check_sizes(name, file, config)
    return config


def _check_sizes(name: str, file: Path, value: Any, key: str = "") -> None:
    """ModelError for sizes that no model has: memory would be asked for before anything is compared with weights."""
    if isinstance(value, dict):
        for inner, found in value.items():
            _check_sizes(name, file, found, inner)
    elif isinstance(value, list):
        for found in value:
            _check_sizes(name, file, found, key)
    elif isinstance(value, int | float):
        most = MAX_LAYERS if key.endswith("layers") else MAX_SIZE if _SIZES.search(key) else None
        if most is not None and not value <= most:
            raise ModelError(f"model '{name}': {file} says {key} {value}, more than any model has ({most:,})")


def read_mapping(name: str, path: Path) -> dict:
    """A JSON file of a folder that holds a mapping; ModelError for what is none."""
    try:
        _require_size(name, path)
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"model '{name}': {path} is not whole ({error}); download or save the model again") from error
    except OSError as error:
        raise ModelError(f"model '{name}': {path} cannot be read ({error.strerror})") from error
    if not isinstance(value, dict):
        raise ModelError(f"model '{name}': {path} holds no mapping of keys to values")
    return value


def _require_size(name: str, path: Path) -> None:
    """ModelError for a file of JSON that is larger than any: reading it takes ten times its size in memory."""
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise ModelError(f"model '{name}': {path} has {size >> 20:,} MiB, more than such a file can have")


def weight_files(name: str, path: Path) -> list[Path]:
    """The safetensors files that a model is read from, each of the size that its header says; ModelError otherwise."""
    index = path / INDEX
    if index.is_file():
        found = sorted({path / shard for shard in _shards(name, index)})
        if (path / WEIGHTS).is_file() and path / WEIGHTS not in found:
            raise ModelError(f"model '{name}': {path} has {WEIGHTS} and an {INDEX} of other files; take one out")
    elif (path / WEIGHTS).is_file():  # the one file that is opened, whatever lies beside it (Whisper's fp32 shards)
        found = [path / WEIGHTS]
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


def stored_types(name: str, path: Path) -> Counter[str]:
    """How many weights a model has on disk by type, as safetensors calls them ("BF16"); only headers are read."""
    found: Counter[str] = Counter()
    for file in weight_files(name, path):
        with safe_open(file, "pt") as handle:
            found.update(handle.get_slice(key).get_dtype() for key in handle.keys())
    return found


def require_shapes(path: Path, found: Mapping[str, list[int]], expected: Mapping[str, list[int]]) -> None:
    """ModelError when the names and shapes of weights are not those that a configuration asks for."""
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unexpected:
        raise ModelError(
            f"model '{path}': {len(missing)} weights missing (first: {missing[:3]}) and {len(unexpected)} not "
            f"of this model (first: {unexpected[:3]}); is the download whole, and the right kind of model?"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise ModelError(f"model '{path}': weight '{name}' has shape {found[name]}, its configuration says {shape}")


def require_tokenizer(name: str, path: Path) -> None:
    """ModelError when a folder has no files that transformers makes a tokenizer of."""
    if (path / "tokenizer.json").is_file():
        _require_size(name, path / "tokenizer.json")
    elif not ((path / "vocab.json").is_file() and (path / "merges.txt").is_file()):
        raise ModelError(f"model '{name}': {path} has no tokenizer (tokenizer.json, or vocab.json and merges.txt)")


def read_tokenizer(name: str, path: Path) -> Any:
    """transformers' tokenizer of a folder; ModelError names the file that is not whole.

    That takes .4 s where it has 11 MB, so only one that cannot be opened is looked through.
    """
    from transformers import AutoTokenizer

    try:
        return from_folder(AutoTokenizer, path)
    except ModelError:
        if (path / "tokenizer.json").is_file():
            read_mapping(name, path / "tokenizer.json")
        raise


def _shards(name: str, index: Path) -> Iterable[str]:
    """The names of files in an index of weights; all lie beside it."""
    weights = read_mapping(name, index).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ModelError(f"model '{name}': {index} has no weight_map; download or save the model again")
    for shard in weights.values():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard):
            raise ModelError(
                f"model '{name}': {index} names {str(shard)[:100]!r}, which is not a .safetensors file beside it"
            )
    return weights.values()


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
            f"model '{name}' is not a folder here and not in the local cache, and the Hub cannot be reached"
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
    names = [file.relative_to(path).as_posix() for file in files]
    return hash_json(list(zip(names, hash_files(files), strict=True)))


def _is_read(file: Path) -> bool:
    """Whether a file can change a hypothesis: not documents, what training left, or weights that are never opened."""
    if len(file.parts) > 1 and _TRAINING_DIRS.fullmatch(file.parts[0]):
        return False
    is_hidden = any(part.startswith(".") for part in file.parts)
    is_weights = file.name == CTRANSLATE2_WEIGHTS or file.suffix not in (*_PICKLES, *_OTHER_WEIGHTS)
    return not is_hidden and is_weights and file.name not in _OF_TRAINING and file.suffix not in _DOCUMENTS
