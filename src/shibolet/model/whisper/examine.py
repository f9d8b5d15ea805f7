"""What a folder's configuration, tokenizer and generation settings say, held against each other and what is published.

What the weights themselves contradict is refused by `load`; this is what would pass there.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shibolet.model.folders import read_mapping
from shibolet.model.protocols import Oddity
from shibolet.model.whisper.load import EXTRACTOR_FILES, ModelFolder, open_folder
from shibolet.model.whisper.prompt import END, NO_TIMES, START, TASK, is_multilingual, token_id
from shibolet.model.whisper.sizes import USUAL, untrainable

GENERATION = "generation_config.json"
_NAMED = {"eos_token_id": END, "decoder_start_token_id": START, "no_timestamps_token_id": NO_TIMES}  # key -> token
_HEAD_DIM = 64  # in all published models
_TOKENIZER_ADVICE = "take the tokenizer that belongs to these weights"
_COPY = f"copy {GENERATION} from the published model that this one was tuned from"


def oddities(path: Path) -> list[Oddity]:
    """Settings that differ from those of published models of that size, or that do not go together."""
    folder = open_folder(str(path))
    return [*_unpublished(folder), *_tokens(folder), *_files(folder), *_generation(folder)]


def _unpublished(folder: ModelFolder) -> Iterator[Oddity]:
    """Settings that no shape of a weight shows, and that published models do not have."""
    config = folder.config
    if sentence := untrainable(config):
        yield Oddity(sentence)
    if (config.d_model, config.encoder_layers) not in {(one.d_model, one.encoder_layers) for one in USUAL.values()}:
        return
    heads = config.d_model // _HEAD_DIM
    expected = {
        "encoder_attention_heads": heads, "decoder_attention_heads": heads, "activation_function": "gelu",
        "scale_embedding": False,
    }  # fmt: skip
    for key, published in expected.items():
        if (value := getattr(config, key)) != published:
            yield Oddity(
                f"config.json: {key} is {value!r}, and {published!r} in published models of this size; put config.json "
                "back as it was downloaded, unless the model was trained with that value"
            )


def _tokens(folder: ModelFolder) -> Iterator[Oddity]:
    """Ids that configuration, tokenizer and embeddings have to agree on."""
    config, tokenizer = folder.config, folder.tokenizer
    for key, token in {"eos_token_id": END, "decoder_start_token_id": START}.items():
        said, own = getattr(config, key), token_id(tokenizer, token)
        if own not in (said if isinstance(said, list) else [said]):
            yield Oddity(
                f"config.json says {key} {said}, the tokenizer gives '{token}' the id {own}; {_TOKENIZER_ADVICE}"
            )
    if (highest := max(tokenizer.get_vocab().values())) >= config.vocab_size:
        yield Oddity(
            f"the tokenizer has ids up to {highest}, the embeddings {config.vocab_size} rows; {_TOKENIZER_ADVICE}"
        )


def _files(folder: ModelFolder) -> Iterator[Oddity]:
    if not any((folder.path / file).is_file() for file in EXTRACTOR_FILES):
        yield Oddity(
            "there is no preprocessor_config.json; the usual features are taken, and other programs cannot open the "
            "folder until one is copied from the published model",
            is_fault=False,
        )


def _generation(folder: ModelFolder) -> Iterator[Oddity]:
    """What `generate` of transformers is told; our decoder reads only what is suppressed."""
    if not (folder.path / GENERATION).is_file():
        yield Oddity(f"there is no {GENERATION}, so transformers' generate cannot be told a language; {_COPY}")
        return
    said, tokenizer = read_mapping(str(folder.path), folder.path / GENERATION), folder.tokenizer
    yield from _ids_said(said, folder)
    multilingual = is_multilingual(tokenizer)
    if (told := said.get("is_multilingual", multilingual)) != multilingual:
        words = "several languages" if multilingual else "English alone"
        yield Oddity(f"{GENERATION}: is_multilingual is {told}, the tokenizer is one for {words}; {_COPY}")
    if multilingual and (missing := [key for key in ("lang_to_id", "task_to_id") if not said.get(key)]):
        yield Oddity(f"{GENERATION} has no {' and no '.join(missing)}: generate cannot be told a language; {_COPY}")
    languages = {id: token for token, id in (said.get("lang_to_id") or {}).items()}
    if forced := [languages[id] for _, id in said.get("forced_decoder_ids") or [] if id in languages]:
        yield Oddity(
            f"{GENERATION}: forced_decoder_ids, a setting of transformers 4, names {forced[0]}: a program that is told "
            "no language writes in that one; take the setting out",
            is_fault=False,
        )
    if not said.get("suppress_tokens"):
        yield Oddity(
            f"{GENERATION} suppresses no tokens, published models do: this one may write signs such as brackets and "
            "notes of music",
            is_fault=False,
        )
    most = folder.config.max_target_positions
    if (limit := said.get("max_length", most)) is not None and limit < most:
        yield Oddity(
            f"{GENERATION}: max_length is {limit}, so other programs cut texts off there; the model has {most} "
            "positions",
            is_fault=False,
        )


def _ids_said(said: Mapping[str, Any], folder: ModelFolder) -> Iterator[Oddity]:
    """Ids of tokens that the tokenizer gives others."""
    languages, tasks = said.get("lang_to_id") or {}, said.get("task_to_id") or {}
    named = [
        *((key, token, said.get(key)) for key, token in _NAMED.items()),
        *((f"lang_to_id of {token}", token, id) for token, id in languages.items()),
        ("task_to_id of transcribe", TASK, tasks.get("transcribe")),
    ]
    wrong = []
    for key, token, value in named:
        own = folder.tokenizer.convert_tokens_to_ids(token)
        if value is not None and own not in (value if isinstance(value, list) else [value]):
            wrong.append(f"{key} {value}, the tokenizer gives '{token}' the id {own}")
    if wrong:
        more = f" ({len(wrong) - 1} more)" if len(wrong) > 1 else ""
        yield Oddity(f"{GENERATION} says {wrong[0]}{more}; {_TOKENIZER_ADVICE}, or {_COPY}")
