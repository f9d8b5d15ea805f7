"""How much audio an audit hears a second, from FLAC on disk to evidence on disk, pass by pass.

    python benchmarks/audit_speed.py                          random weights in the real sizes, on the GPU
    python benchmarks/audit_speed.py --size tiny --device cpu --clips 240     the package's own checkpoints
    python benchmarks/audit_speed.py --only align --device cpu --clips 8      the real aligner on a CPU

decode   decoding, energy, signals and writing; the listeners say nothing
align    and the forced aligner (0.6B: encoder 24 x 1024, decoder 28 x 1024, 5,000 time classes of 80 ms)
score    decode, and the recogniser's likelihood of one text (1.7B: encoder 24 x 1024, decoder 28 x 2048), no hypothesis
greedy   decode, and its greedy hypotheses, which random weights end at 7 tokens a second of audio
all      both listeners, as an audit runs them: hypotheses, and scores of them, of the texts in each writing, and of
         five other texts of every thirtieth clip, as a self-test has them

Durations are log-normal, 5.8 s on average, 1 to 15 s; 2 words a second. Prints one JSON object a pass; audio that is
heard under several texts counts once.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

# No torch up here: the processes that decode load this file too.
from shibolet.audit.config import AuditConfig
from shibolet.audit.hearing import Clip, Listener
from shibolet.demo.lexicon import load_lexicon
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import encode_flac, load

if TYPE_CHECKING:
    from shibolet.listen.family_recogniser import FamilyRecogniser
    from shibolet.listen.transcribe import Transcriber
    from shibolet.model.family import LoadedModel

PASSES = ("decode", "align", "score", "greedy", "all")
WORDS_PER_S, TOKENS_PER_S = 2.0, 7.0
MEAN_S = 5.8  # of a clip
# Of Qwen/Qwen3-ForcedAligner-0.6B; the encoder is the default one but for the size that it hands over.
ALIGNER = {
    "audio_config": {"model_type": "qwen3_asr_encoder", "output_dim": 1024},
    "text_config": {
        "model_type": "qwen3", "vocab_size": 152064, "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 65536, "tie_word_embeddings": True,
    },
    "num_labels": 5000,
}  # fmt: skip
RECOGNISER = {"audio_config": {"model_type": "qwen3_asr_encoder", "output_dim": 2048}}


class NoAligner:
    """Every word at once, at the start."""

    identity = "none"

    def align(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        return [Alignment(starts_s=np.zeros(len(w)), ends_s=np.ones(len(w))) for w in words]


class NoRecogniser:
    """The text itself, from nothing."""

    identity = "none"

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        return [Hearing(hypothesis=" ".join(said), text_score=None) for said in words]


class OnePass(NoRecogniser):
    """One half of a Qwen recogniser's work: its hypotheses, or after one token the likelihood of the text."""

    def __init__(self, recogniser: "FamilyRecogniser", name: str) -> None:
        self.identity, self.at_once = name, recogniser.at_once
        self._recogniser, self._name = recogniser, name

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        texts = [" ".join(said) for said in words]
        encode = self._recogniser._targets.encode
        scores = self._name == "score"
        texts_of = (lambda some: lambda: [encode([texts[i]]) for i, _ in some]) if scores else None
        with self._recogniser._transcribing() as transcriber:
            transcriber._max_new_tokens_per_s = 1e-3 if scores else TOKENS_PER_S
            found = transcriber.write_and_score(clips, texts_of)
            transcriber._max_new_tokens_per_s = TOKENS_PER_S
        return [
            Hearing(hypothesis=text, text_score=one.logps and float(one.logps[0].sum()))
            for text, one in zip(texts, found, strict=True)
        ]


def recogniser_of(loaded: "LoadedModel", at_once: int, rows: int | None = None) -> "FamilyRecogniser":
    """One that hears so many chunks at once and writes speech's number of tokens; `rows` of each None: by memory."""
    from shibolet.listen.family_recogniser import FamilyRecogniser
    from shibolet.listen.transcribe import Transcriber

    limits = {"max_new_tokens_per_s": TOKENS_PER_S, "batch_utterances": rows, "share": 1 / at_once}
    transcribers = [Transcriber(loaded.again(), "Hebrew", **limits) for _ in range(at_once)]
    for transcriber in transcribers:
        speak(transcriber)
    return FamilyRecogniser(loaded, "Hebrew", transcribers=transcribers)


def speak(transcriber: "Transcriber") -> None:
    """Random weights write tokens that are no words; give them words, so that there is a hypothesis to score."""
    words = [entry.spelling for entry in load_lexicon().entries]
    step = TOKENS_PER_S / WORDS_PER_S
    transcriber._decoder.text = lambda ids: " ".join(
        words[ids[int(i * step)] % len(words)] for i in range(int(len(ids) / step))
    )


def with_other_texts(clips: list[Clip]) -> list[Clip]:
    """And every thirtieth clip under the texts of the five after it."""
    copies = [
        replace(clip, key=f"{clip.key}-{number}", words=other.words, verifiable=other.verifiable)
        for place, clip in enumerate(clips[:-5])
        if place % 30 == 0
        for number, other in enumerate(clips[place + 1 : place + 6])
    ]
    return clips + copies


def random_model(kind: str, device: str) -> "LoadedModel":
    """A model of the real size with random weights, and the demo's tokenizer: 3 to 4 tokens a word, as many or more."""
    import torch
    from transformers import (
        AutoTokenizer,
        Qwen3ASRConfig,
        Qwen3ASRFeatureExtractor,
        Qwen3ASRForConditionalGeneration,
        Qwen3ASRForTokenClassification,
    )

    from shibolet.model.family import LoadedModel
    from shibolet.model.folders import dtype_on, resolve
    from shibolet.model.qwen3_asr.fused import fuse_layers
    from shibolet.model.qwen3_asr.prompt import AUDIO_TOKEN, TIMESTAMP

    cls, settings = {
        "aligner": (Qwen3ASRForTokenClassification, ALIGNER),
        "recogniser": (Qwen3ASRForConditionalGeneration, RECOGNISER),
    }[kind]
    path = resolve("builtin:round1")
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = dict(zip(("audio_token_id", "timestamp_token_id"), tokenizer.convert_tokens_to_ids([AUDIO_TOKEN, TIMESTAMP])))
    config = Qwen3ASRConfig(**settings, **ids, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    torch.manual_seed(0)
    torch.set_default_dtype(dtype_on(device))
    with torch.device(device):
        model = cls._from_config(config, attn_implementation="sdpa").eval()
    torch.set_default_dtype(torch.float32)
    if device != "cpu":
        fuse_layers(model)
    return LoadedModel(model.to(device, dtype_on(device)), tokenizer, Qwen3ASRFeatureExtractor(), path, kind)


@cache
def _noise() -> np.ndarray:
    """A minute of it, of which every clip is a cut of its own."""
    walk = np.cumsum(np.random.default_rng(0).standard_normal(60 * 16000))
    noise = np.diff(walk - np.convolve(walk, np.ones(32) / 32, "same"), prepend=0.0)
    return 0.05 * noise / noise.std()


def write_clips(folder: Path, numbers: range) -> list[Clip]:
    """Bursts of noise as loud and as long as words, one FLAC file each; the same for a number at any time."""
    words, clips, noise = [entry.spelling for entry in load_lexicon().entries], [], _noise()
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        rng = np.random.default_rng(number)
        duration_s = float(np.clip(rng.lognormal(np.log(5.2), 0.5), 1.0, 15.0))
        num = int(16000 * duration_s)
        start, gain = rng.integers(len(noise) - num), rng.uniform(0.7, 1.4)
        loud = np.repeat(rng.uniform(0, 1, num // 3200 + 1) > 0.25, 3200)[:num]
        path = folder / f"{number}.flac"
        path.write_bytes(encode_flac(gain * noise[start : start + num] * (loud + 0.01)))
        said = tuple(random.Random(number).choices(words, k=max(1, round(WORDS_PER_S * duration_s))))
        clip = Clip(
            key=f"u{number}", audio=AudioRef(path=str(path)), words=said, verifiable=(True,) * len(said),
            duration_s=duration_s,
        )  # fmt: skip
        clips.append(clip)
    return clips


def measure(name: str, aligner, recogniser, clips: list[Clip], config: AuditConfig, device: str) -> dict:
    """One pass over clips that nobody has heard, after a small one that loads what is loaded late."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        warm = len(clips) // 10
        for model in (aligner, recogniser):
            if hasattr(model, "warm"):
                model.warm()
        Listener(aligner, recogniser, Path(folder) / "warm", load, config, "Hebrew").hear(clips[:warm])
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        timed = with_other_texts(clips[warm:]) if name == "all" else clips[warm:]
        heard = Listener(aligner, recogniser, Path(folder) / "timed", load, config, "Hebrew").hear(timed)
        seconds = time.perf_counter() - started
        failures = sum(heard[key].failure is not None for key in heard)
    audio_s = sum(clip.duration_s for clip in clips[warm:])
    return {
        "pass": name, "audio_s_per_s": round(audio_s / seconds, 1), "s_per_clip": round(seconds / len(clips[warm:]), 4),
        "clips": len(clips) - warm, "audio_s": round(audio_s), "seconds": round(seconds, 2), "failures": failures,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if device != "cpu" else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=("real", "tiny"), default="real")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--clips", type=int, default=16000)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--threads", type=int, help="CPU threads of torch; else all cores")
    parser.add_argument("--pack-s", type=float, help="audio of one pack; else the listeners' own")
    parser.add_argument("--rows", type=int, help="utterances that are written down at once; else as memory allows")
    parser.add_argument("--at-once", type=int, default=2, help="chunks that the recogniser hears at once, on a GPU 2")
    parser.add_argument("--chunk", type=int, help="clips heard together; else the audit's own")
    args = parser.parse_args()
    import torch

    from shibolet.listen.family_aligner import FamilyAligner
    from shibolet.listen.open import open_aligner, open_recogniser

    if args.threads:
        torch.set_num_threads(args.threads)
    chunk = {"chunk_utterances": args.chunk, "chunk_audio_s": 7.0 * args.chunk} if args.chunk else {}
    settings = {"num_workers": args.workers} | chunk
    config = AuditConfig(aligner="-", recogniser="-", **settings)
    where = torch.cuda.get_device_name() if args.device != "cpu" else f"{torch.get_num_threads()} CPU threads"
    about = {"device": where, "cores": os.cpu_count(), "torch": torch.__version__, "size": args.size,
             "pack_s": args.pack_s, "chunk": config.chunk_utterances, "at_once": args.at_once}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        parts = [range(first, min(first + 100, args.clips)) for first in range(0, args.clips, 100)]
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            clips = [clip for part in pool.map(write_clips, [Path(folder)] * len(parts), parts) for clip in part]
        print(f"{len(clips)} clips in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        aligner, recogniser, failed = NoAligner(), NoRecogniser(), False
        wanted = set(args.only)
        for name in [name for name in PASSES if name in wanted]:
            try:
                if name in ("align", "all") and isinstance(aligner, NoAligner):
                    tiny = args.size == "tiny"
                    aligner = (
                        open_aligner("builtin:aligner", "Hebrew", device=args.device) if tiny
                        else FamilyAligner(random_model("aligner", args.device), args.pack_s)
                    )  # fmt: skip
                if name in ("score", "greedy", "all") and isinstance(recogniser, NoRecogniser):
                    if args.size == "tiny":
                        recogniser = open_recogniser("builtin:ctc", "Hebrew", device=args.device)
                    else:
                        recogniser = recogniser_of(random_model("recogniser", args.device), args.at_once, args.rows)
                ears = {
                    "decode": (NoAligner(), NoRecogniser()), "align": (aligner, NoRecogniser()),
                    "all": (aligner, recogniser),
                }.get(name)  # fmt: skip
                if ears is None:
                    one = OnePass(recogniser, name) if args.size == "real" else recogniser
                    ears = (NoAligner(), one)
                # Slower passes hear fewer clips.
                share = {"decode": 1.0, "align": 1.0, "score": 0.5}.get(name, 0.15) if args.size == "real" else 1.0
                result = measure(name, *ears, clips[: max(10, int(share * len(clips)))], config, args.device)
            except Exception as error:  # one pass that fails must not take the others' figures with it
                result, failed = {"pass": name, "error": f"{type(error).__name__}: {error}"[:500]}, True
            print(json.dumps({**result, **about}), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
