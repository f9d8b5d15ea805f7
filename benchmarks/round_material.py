"""What `whole_round.py` works on: models of the real sizes with random weights, and noise as FLAC with manifests.

Greedy texts are Hebrew words at the rate of speech, mostly one again and again; no text of a clip is like its own.
Both are kept in the work folder: a model that is there is taken, and of the clips only those that are missing are made.
"""

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from math import inf
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

# No torch up here: the processes that write clips load this file too.
from audit_speed import ALIGNER, MEAN_S, TOKENS_PER_S, write_clips

from shibolet.demo.lexicon import load_lexicon
from shibolet.speech.audio import load

if TYPE_CHECKING:
    from shibolet.model.family import LoadedModel

OTHERS = 0.1  # of the embedding of a token that is in no Hebrew word: its logit is never the highest
SHARD = 100  # clips that a process writes at once
TEST_SETS = {"clean": 10_000_000, "whatsapp": 20_000_000}  # number of the first clip
TINY_ALIGNER = {
    **ALIGNER,
    "audio_config": {
        "model_type": "qwen3_asr_encoder", "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64, "downsample_hidden_size": 8, "output_dim": 32,
    },
    "text_config": ALIGNER["text_config"] | {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16,
    },
}  # fmt: skip


def make_models(folder: Path, tokenizer: Path | None, tiny: bool) -> None:
    """`base`, `round1` and `aligner`; of the demo's tokenizer where `tokenizer` names no other."""
    import torch
    from real_size import best_device, new_model
    from transformers import AutoTokenizer, Qwen3ASRConfig, Qwen3ASRForTokenClassification

    from shibolet.model.folders import resolve
    from shibolet.model.qwen3_asr.prompt import AUDIO_TOKEN, END_OF_TURN, TIMESTAMP

    if all((folder / name / "config.json").is_file() for name in ("base", "round1", "aligner")):
        return
    builtin = resolve("builtin:round1")
    source = tokenizer or builtin
    words = AutoTokenizer.from_pretrained(source)
    model = new_model(best_device(), tiny).eval()
    config = model.config
    config.audio_token_id, config.eos_token_id = words.convert_tokens_to_ids([AUDIO_TOKEN, END_OF_TURN])
    config.pad_token_id = words.pad_token_id
    make_words_likely(model, words)
    make_texts_end(_loaded(model, words, source), folder / "sounds", tries=4 if tiny else 7)
    _save(model, words, source, folder / "base")
    with torch.no_grad():  # another model, to whoever hashes it
        next(model.parameters()).mul_(1.01)
    _save(model, words, source, folder / "round1")
    del model
    words = AutoTokenizer.from_pretrained(builtin)  # the only one with a token for times
    ids = dict(zip(("audio_token_id", "timestamp_token_id"), words.convert_tokens_to_ids([AUDIO_TOKEN, TIMESTAMP])))
    config = Qwen3ASRConfig(
        **(TINY_ALIGNER if tiny else ALIGNER), **ids, pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id
    )
    torch.set_default_dtype(torch.bfloat16)
    with best_device():
        aligner = Qwen3ASRForTokenClassification._from_config(config)
    torch.set_default_dtype(torch.float32)
    _save(aligner, words, builtin, folder / "aligner")


def _loaded(model, tokenizer, source: Path) -> "LoadedModel":
    from transformers import Qwen3ASRFeatureExtractor

    from shibolet.model.family import LoadedModel

    extractor = Qwen3ASRFeatureExtractor(feature_size=model.config.audio_config.num_mel_bins)
    return LoadedModel(model, tokenizer, extractor, source, "")


def _save(model, tokenizer, source: Path, folder: Path) -> None:
    from shibolet.model.qwen3_asr.family import FAMILY

    FAMILY.save(_loaded(model.cpu(), tokenizer, source), folder)


def make_words_likely(model, tokenizer) -> None:
    """Have greedy texts consist of Hebrew words: to compare other random tokens with a text is 20 times as dear."""
    import torch

    ids = set(chain.from_iterable(tokenizer([f" {entry.spelling}" for entry in load_lexicon().entries]).input_ids))
    head = model.get_output_embeddings().weight
    others = torch.ones(len(head), dtype=torch.bool)
    others[[*ids, model.config.eos_token_id]] = False
    with torch.no_grad():
        head[others.to(head.device)] *= OTHERS


def make_texts_end(loaded: "LoadedModel", folder: Path, tries: int) -> None:
    """Make the end of a turn so much likelier that greedy texts have the tokens of speech; random ones hardly end."""
    import torch

    from shibolet.listen.transcribe import Transcriber

    clips = write_clips(folder, range(4 * tries))
    sounds, audio_s = [load(clip.audio) for clip in clips], sum(clip.duration_s for clip in clips)
    end = loaded.model.get_input_embeddings().weight[loaded.model.config.eos_token_id]
    drawn, low, high, found = end.detach().clone(), 1.0, 8.0, []
    for _ in range(tries):
        factor = (low + high) / 2
        with torch.no_grad():
            end.copy_(factor * drawn)
        texts = Transcriber(loaded, "Hebrew").transcribe(sounds)
        rate = sum(len(loaded.tokenizer(text).input_ids) for text in texts) / audio_s
        found.append((abs(rate - TOKENS_PER_S), factor, rate))
        low, high = (factor, high) if rate > TOKENS_PER_S else (low, factor)
    _, factor, rate = min(found)
    with torch.no_grad():
        end.copy_(factor * drawn)
    print(f"texts of {rate:.1f} tokens a second of audio, where those of speech have {TOKENS_PER_S:g}", file=sys.stderr)


def make_corpus(folder: Path, hours: float, test_clips: int) -> dict[str, Path]:
    """Manifests by name: "train", so many hours, and the test sets; ten utterances a recording, a hundred a speaker."""
    num = round(hours * 3600 / MEAN_S / SHARD + 0.5) * SHARD
    numbers = {"train": range(num)} | {name: range(at, at + test_clips) for name, at in TEST_SETS.items()}
    firsts = {name: range(own.start, own.stop, SHARD) for name, own in numbers.items()}
    made = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        shards = {name: pool.map(partial(_shard, folder), own) for name, own in firsts.items()}
        for name, own in shards.items():
            made[name] = folder / f"{name}-{hours:g}h.jsonl"
            rows = list(chain.from_iterable(own))[: len(numbers[name])]
            _write_manifest(made[name], name, rows, 3600 * hours if name == "train" else inf)
    return made


def _write_manifest(path: Path, name: str, rows: list[dict], most_s: float) -> None:
    audio_s = 0.0
    with path.open("w", encoding="utf-8") as file:
        for at, row in enumerate(rows):
            if audio_s >= most_s:
                break
            audio_s += row["duration_s"]
            line = {
                "audio": row["audio"], "text": row["text"], "id": f"{name}-{at}", "speaker": f"{name}-s{at // 100}",
                "recording": f"{name}-r{at // 10}", "domain": "whatsapp" if at % 2 else "clean",
            }  # fmt: skip
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _shard(folder: Path, first: int) -> list[dict]:
    """The rows of a hundred clips, made unless they are there."""
    path = folder / f"{first}.json"
    if not path.is_file():
        clips = write_clips(folder / f"{first // 1000}", range(first, first + SHARD))
        rows = [{"audio": c.audio.path, "text": " ".join(c.words), "duration_s": c.duration_s} for c in clips]
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))
