"""The reader alone, and end to end with training, from FLAC in Parquet: seconds of audio a second.

    python benchmarks/loader_speed.py --hours 4 --workers 1 4 8 15 --seconds 20 --out loader_speed.json

Makes shards as `prepare` writes them (speech-like noise of 0.5 to 15 s) in a temporary folder; then, for each number of
workers, reads packs of `--utterances`, and with a GPU trains phase B on them in the 1.7B size beside packs held in
memory.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from real_size import Report, Stepper, best_device, free, machine, new_model, recipe_config
from transformers import PreTrainedModel, Qwen3ASRFeatureExtractor

from shibolet.demo import tiny
from shibolet.errors import ShiboletError
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.packed import Pack
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt
from shibolet.speech.audio import encode_flac
from shibolet.speech.augment import make_noise
from shibolet.speech.tables import BATCH_ROWS
from shibolet.train.config import AugmentConfig, CodecConfig, NoiseConfig, SpecAugmentConfig
from shibolet.train.data import TrainExample, read_examples
from shibolet.train.memory import assumed_sizes
from shibolet.train.reader import PackReader, PackRequest

ROWS_PER_SHARD = 1024
ROUND_3 = AugmentConfig(
    speeds=(0.9, 1.0, 1.1), noise=NoiseConfig(), codec=CodecConfig(), spec_augment=SpecAugmentConfig()
)


def write_shard(path: Path, seed: int, num_rows: int) -> None:
    rng, rows = np.random.default_rng(seed), []
    for number, (_, frames, _) in enumerate(assumed_sizes(FAMILY, num_rows, seed)):
        samples = 0.1 * make_noise(160 * frames + 80, "babble", rng)
        text = "".join(rng.choice(list("אבגדהוזחטיכלמנ "), size=max(1, frames // 12))).strip() or "א"
        rows.append({"id": f"{seed}-{number}", "audio": {"bytes": encode_flac(samples), "path": None}, "text": text,
                     "duration_s": len(samples) / 16000})  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=BATCH_ROWS)


def write_shards(folder: Path, hours: float, processes: int) -> None:
    num_rows = int(hours * 3600 / 5.8)
    jobs = [(folder / f"train-{n:05d}.parquet", n, min(ROWS_PER_SHARD, num_rows - at))
            for n, at in enumerate(range(0, num_rows, ROWS_PER_SHARD))]  # fmt: skip
    with ProcessPoolExecutor(processes, mp_context=get_context("forkserver")) as pool:
        list(pool.map(write_shard, *zip(*jobs, strict=True)))


def all_requests(examples: list[TrainExample], size: int) -> list[PackRequest]:
    """Packs in the random order of training, over and over."""
    order = np.random.default_rng(0).permutation(len(examples))
    chosen = [order[at : at + size] for at in range(0, len(order) - size + 1, size)] or [order]
    return [PackRequest(step, 0, 0, tuple(examples[u] for u in chosen[step % len(chosen)])) for step in range(10_000)]


def as_asked(pack: Pack, model: PreTrainedModel) -> Pack:
    """The pack with the ids of this model: the tiny tokenizer's mean nothing to the 1.7B, lengths are what counts."""
    ids = pack.input_ids % model.config.text_config.vocab_size
    return replace(pack, input_ids=ids)


def seconds_of(request: PackRequest) -> float:
    return sum(example.duration_s for example in request.examples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8, 15])
    parser.add_argument("--utterances", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, report = best_device(), Report(args.out)
    report.add(**machine())
    tokenizer = tiny.train_tokenizer(["אבגדהוזחטיכלמנ"] * 10)
    prompt = TranscriptionPrompt(tokenizer, "Hebrew")
    with TemporaryDirectory() as scratch:
        folder, started = Path(scratch), time.perf_counter()
        write_shards(folder, args.hours, max(args.workers))
        examples, _ = read_examples(folder, "train", FAMILY, prompt, max_tokens=65_536)
        audio_h = sum(example.duration_s for example in examples) / 3600
        size_gib = sum(path.stat().st_size for path in folder.iterdir()) / 2**30
        report.add(shards_h=round(audio_h, 2), shards_gib=round(size_gib, 3),
                   took_s=round(time.perf_counter() - started, 1))  # fmt: skip
        requests = all_requests(examples, args.utterances)
        stepper = None
        if device.type == "cuda":
            stepper = Stepper(new_model(device, args.tiny), recipe_config(), recipe_config().phases[0])
        for augment in (None, ROUND_3):
            for workers in args.workers:
                free()
                reader = PackReader(FAMILY, prompt.frame, Qwen3ASRFeatureExtractor(), device=device, augment=augment,
                                    num_workers=workers)  # fmt: skip
                reader.follow(lambda: iter(requests))
                try:
                    row = measure(reader, requests, stepper, args.seconds)
                except (ShiboletError, RuntimeError) as error:
                    row = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
                finally:
                    reader.close()
                report.add(workers=workers, augmented=augment is not None, **row)


def measure(reader: PackReader, requests: list[PackRequest], stepper: Stepper | None, seconds: float) -> dict:
    """Rates of reading alone, of training on packs in memory, and of both together."""
    waiting: Iterator[PackRequest] = iter(requests)
    held = [next(read(reader, next(waiting), stepper)) for _ in range(3)]
    row = {"reader_audio_s_per_s": rate(lambda r: next(read(reader, r, stepper)), waiting, seconds)}
    if stepper:
        for pack in held:
            stepper([pack])
        number = iter(range(10_000))
        in_memory = rate(lambda _: stepper([held[next(number) % 3]]), iter(requests[:3] * 3000), seconds)
        end_to_end = rate(lambda r: stepper([next(read(reader, r, stepper))]), waiting, seconds)
        row |= {"in_memory_audio_s_per_s": in_memory, "end_to_end_audio_s_per_s": end_to_end,
                "share_pct": round(100 * end_to_end / in_memory, 1)}  # fmt: skip
    return row


def read(reader: PackReader, request: PackRequest, stepper: Stepper | None) -> Iterator[Pack]:
    if stepper is None:
        return reader.read(None, [request])
    return (as_asked(pack, stepper.model) for pack in reader.read(stepper.model, [request]))


def rate(do, requests: Iterator[PackRequest], seconds: float) -> float:
    """Seconds of audio a second over at least that long, after three warm-up requests."""
    for _ in range(3):
        do(next(requests))
    audio, started = 0.0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        request = next(requests)
        do(request)
        audio += seconds_of(request)
    return round(audio / spent, 1)


if __name__ == "__main__":
    main()
