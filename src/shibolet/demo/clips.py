"""What the tiny checkpoints hear: synthetic speech joined, sent through channels, and made into features.

Round 1 hears clean speech only; the forced aligner and the CTC recogniser, which listen, hear rooms, noise, Opus and
overloaded inputs too.
"""

import multiprocessing
import pickle
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3ASRFeatureExtractor

from shibolet.demo import tiny
from shibolet.demo.channel import ChannelConfig, clean, whatsapp
from shibolet.demo.synth import Speech, read_shard
from shibolet.model.qwen3_asr.features import log_mel
from shibolet.records.files import write_bytes
from shibolet.speech.augment import band_limit, clip_loudest, reverberate

NAMES = ("round1", "aligner", "ctc")
# Clean speech in many rooms and through many microphones: no codec, no telephone band, little noise.
ROUND1_ROOMS = ChannelConfig(clean_snr_db=(18.0, 50.0), clean_gain_db=(-6.0, 6.0))
NOISY_FRAC = 0.6  # of the listeners' clips go through the channel
REVERB_FRAC, RT60_S = 0.4, (0.1, 0.8)  # were spoken in a room that long
OVERLOAD_FRAC, CLIPPED = 0.2, (0.001, 0.08)  # have that share of their samples cut off
# Wider than the demo's own: a listener that has not heard a condition condemns good clips in it.
LISTENERS_CHANNEL = ChannelConfig(snr_db=(0.0, 25.0), bitrates_bps=(6000, 8000, 10000, 12000, 16000, 24000))


@dataclass(frozen=True, slots=True)
class Clip:
    """A training clip: features ready for its model, the words, and their times."""

    features: np.ndarray  # float16 [F, M]: log-mel, 100 frames a second (Qwen3), or 2 stacked, 50 a second (CTC)
    words: tuple[str, ...]
    times: tuple[tuple[float, float], ...]  # seconds


def make_features(shards: list[Path], out_dir: Path, seed: int, num_workers: int) -> None:
    """Features of every shard of speech for all three models, one file a shard; a file that exists is kept."""
    jobs = [(shard, out_dir / f"{index:05d}.pickle", index, seed) for index, shard in enumerate(shards)]
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(_make_shard, [job for job in jobs if not job[1].exists()]):
            pass


def _make_shard(job: tuple[Path, Path, int, int]) -> None:
    shard, path, index, seed = job
    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, index])
    mel, stacked = Qwen3ASRFeatureExtractor(), tiny.SeamlessM4TFeatureExtractor()
    round1, aligner, ctc = [], [], []
    for samples, words, times in _join(read_shard(shard), 3, rng):
        audio = clean(samples, rng, ROUND1_ROOMS)
        if rng.random() < 0.5:
            audio = band_limit(audio, rng.uniform(20, 150), rng.uniform(4500, 7800))
        round1.append(Clip(log_mel(audio, mel).numpy().astype(np.float16), words, times))
    for samples, words, times in _join(read_shard(shard), 8, rng):
        audio = for_listeners(samples, rng)
        aligner.append(Clip(log_mel(audio, mel).numpy().astype(np.float16), words, times))
        features = stacked(audio, sampling_rate=16000, return_tensors="np")["input_features"][0].T
        ctc.append(Clip(features.astype(np.float16), words, times))
    write_bytes(path, pickle.dumps(dict(zip(NAMES, (round1, aligner, ctc), strict=True))))


def for_listeners(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech as a listener has to bear it: in a room, through a channel, into an overloaded input; same length."""
    if rng.random() < REVERB_FRAC:
        samples = reverberate(samples, rng.uniform(*RT60_S), rng)
    noisy = rng.random() < NOISY_FRAC
    samples = whatsapp(samples, rng, LISTENERS_CHANNEL) if noisy else clean(samples, rng)
    return clip_loudest(samples, rng.uniform(*CLIPPED)) if rng.random() < OVERLOAD_FRAC else samples


def _join(speeches: list[Speech], most: int, rng: np.random.Generator) -> Iterator[tuple]:
    """Samples, words and their times: one sentence in nine cases of ten, else up to `most` in a row, with pauses."""
    position = 0
    while position < len(speeches):
        take = 1 if rng.random() > 0.1 else int(rng.integers(2, most + 1))
        chosen, position = speeches[position : position + take], position + take
        pieces, words, times, at = [], [], [], 0
        for speech in chosen:
            lead = np.zeros(int(16000 * rng.uniform(0.02, 0.5)), np.float32)
            at += len(lead)
            pieces += [lead, speech.samples]
            words += [said.word for said in speech.words]
            times += [(at / 16000 + said.start_s, at / 16000 + said.end_s) for said in speech.words]
            at += len(speech.samples)
        pieces.append(np.zeros(int(16000 * rng.uniform(0.02, 0.5)), np.float32))
        yield np.concatenate(pieces), tuple(words), tuple(times)


def read_clips(dir_path: Path, name: str) -> list[Clip]:
    """The clips of one model, in the order of the files that `make_features` wrote."""
    return [clip for path in sorted(dir_path.glob("*.pickle")) for clip in pickle.loads(path.read_bytes())[name]]


def mask_features(features: Tensor, rng: random.Random) -> Tensor:
    """SpecAugment of `[F, M]`, in place: the mean in two bands of at most a sixth of the bins, and in some frames."""
    mean = features.mean()
    for _ in range(2):
        width = rng.randint(0, features.shape[0] // 6)
        start = rng.randint(0, features.shape[0] - width)
        features[start : start + width] = mean
    width = rng.randint(0, min(12, features.shape[1]))
    start = rng.randint(0, features.shape[1] - width)
    features[:, start : start + width] = mean
    return features
