"""What the tests of training share: a tiny real Qwen3-ASR, shards of noise as `prepare` writes them, a short recipe."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import Qwen3ASRFeatureExtractor

from shibolet.demo import tiny
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.save import save_model
from shibolet.records.files import read_jsonl
from shibolet.speech.audio import encode_flac
from shibolet.train.config import LoraSettings, OptimizerConfig, PhaseConfig, TrainConfig

WORDS = "שלום עולם בית ספר ילד גדול הלך אל הים ביום חם מאוד".split()
PHASE_B = {"projector": 2e-3, "decoder.layers[2:4]": 5e-4, "head": 1e-3, "lora": 2e-3}
PHASE_A = {"projector": 1e-3, "encoder.layers[4:6]": 3e-4, "decoder.layers[2:4]": 3e-4, "head": 1e-3, "lora": 2e-3}


def sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, size=int(rng.integers(2, 7))))


def write_shard(path: Path, rows: list[dict]) -> None:
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def make_rows(num: int, seed: int, low_s: float = 0.5, high_s: float = 2.0) -> list[dict]:
    """Rows of white noise with random sentences, as `prepare` writes them."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num):
        samples = (0.1 * rng.standard_normal(int(16000 * rng.uniform(low_s, high_s)))).astype(np.float32)
        rows.append(
            {
                "id": f"u{number:04d}",
                "audio": {"bytes": encode_flac(samples), "path": None},
                "text": sentence(rng),
                "duration_s": len(samples) / 16000,
                "domain": "noise",
                "recording": f"r{number // 4}",
                "speaker": None,
                "language": "Hebrew",
            }
        )
    return rows


def tiny_config(**changes) -> TrainConfig:
    """Phases B and A over the tiny model: 3 steps an epoch of 22 utterances."""
    settings = {
        "phases": (
            PhaseConfig(name="B", num_epochs=1, lr_by_part=PHASE_B, warmup_steps=2),
            PhaseConfig(name="A", num_epochs=1, lr_by_part=PHASE_A, warmup_steps=1),
        ),
        "lora": LoraSettings(part="decoder.layers[0:2]", rank=4, alpha=8, dropout=0.1),
        "optimizer": OptimizerConfig(),
        "utterances_per_step": 8,
        "pack_tokens": 256,
        "precision": "fp32",
        "eval_every_steps": 2,
        "checkpoint_every_steps": 2,
    }
    return TrainConfig(**{**settings, **changes})


def save_base(path: Path, seed: int = 0) -> Path:
    """An untrained tiny Qwen3-ASR with a tied head, saved as a user would find it; of any seed with one tokenizer."""
    rng = np.random.default_rng(0)
    tokenizer = tiny.train_tokenizer([sentence(rng) for _ in range(200)])
    model = tiny.new_recogniser(tokenizer, seed)
    save_model(LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), path, ""), path, dtype=torch.float32)
    return path


def rows(out_dir: Path) -> list[dict]:
    """The lines of metrics.jsonl, as they stand there."""
    return read_jsonl(out_dir / "metrics.jsonl")


def outcome(out: Path) -> dict[str, bytes | list]:
    """All that a training leaves, less what the clock decides."""
    files = {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file() and "tensorboard" not in file.parts and file.name != "metrics.jsonl"
    }
    return files | {"metrics": [{key: value for key, value in row.items() if key != "timing"} for row in rows(out)]}
