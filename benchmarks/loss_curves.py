"""Loss curves and speed of the fast and the plain path over 200 steps on synthetic Hebrew speech, from builtin:round1.

    python benchmarks/loss_curves.py --steps 200 --out loss_curves.json
    python benchmarks/loss_curves.py --steps 40 --dtype float32        # on a CPU: is the fast path slower?

Plain: padded batches, stock attention, all logits in float32. Both paths train everything with float32 masters and see
the same utterances in the same steps; a step's time has no reading in it. Ends with 1 when the paths differ by more
than two seeds of the plain path do (of the mean over 20 steps, at its worst). Needs the extra `demo`.
"""

import argparse
import time
from array import array
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from real_size import ALL_PARTS, Report, best_device, machine
from torch import Tensor

from shibolet.demo.corpus import CorpusConfig, build_corpus
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.fused import fuse_layers
from shibolet.model.qwen3_asr.lengths import num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.model.qwen3_asr.packed import Pack, packed_attention
from shibolet.model.qwen3_asr.prompt import TranscriptionPrompt
from shibolet.records.files import read_jsonl
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import probe
from shibolet.train.config import OptimizerConfig, PhaseConfig
from shibolet.train.data import TrainExample
from shibolet.train.objective import TrainStep
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.optimizer import MasterAdamW
from shibolet.train.packing import step_utterances
from shibolet.train.phases import enter_phase
from shibolet.train.reader import PackReader
from shibolet.train.update import Ran, update

LR = 3e-4
WINDOW = 20


def read_corpus(folder: Path, prompt: TranscriptionPrompt) -> list[TrainExample]:
    examples = []
    for row in read_jsonl(folder / "train" / "manifest.jsonl"):
        audio = AudioRef(path=str(folder / "train" / row["audio"]))
        duration_s = probe(audio).duration_s
        frames = num_mel_frames(round(16000 * duration_s))
        (text_ids,) = prompt.encode([row["text"]])
        examples.append(
            TrainExample(
                id=row["id"], audio=audio, text=row["text"], text_ids=array("i", text_ids), duration_s=duration_s,
                num_frames=frames, num_tokens=prompt.frame.num_tokens(num_audio_tokens(frames), len(text_ids)),
                num_targets=prompt.frame.num_targets(len(text_ids)), family=FAMILY,
            )
        )  # fmt: skip
    return examples


def plain_loss(loaded: LoadedModel, packs: list[Pack]) -> Tensor:
    """The summed loss of utterances, one a pack, padded to one batch through the unmodified model."""
    longest, most = max(p.num_tokens for p in packs), max(p.features.shape[2] for p in packs)
    device = packs[0].input_ids.device
    ids = torch.zeros(len(packs), longest, dtype=torch.long, device=device)
    shown, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    heard = torch.zeros(len(packs), most, dtype=torch.long, device=device)
    features = torch.zeros(len(packs), packs[0].features.shape[1], most, device=device)
    for row, pack in enumerate(packs):
        ids[row, : pack.num_tokens], shown[row, : pack.num_tokens] = pack.input_ids[0], 1
        labels[row, pack.keep_positions] = pack.labels  # of the next token, where its logit stands
        full, rest = divmod(len(pack.audio_positions), 13)
        heard[row, : full * 100 + rest * 8] = 1  # as many frames as give so many tokens
        features[row, :, : pack.features.shape[2]] = pack.features[0]
    logits = loaded.model(
        input_ids=ids, attention_mask=shown, input_features=features.to(loaded.model.dtype), input_features_mask=heard,
        use_cache=False,
    ).logits.float()  # fmt: skip
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")


def curve(folder: Path, fast: bool, seed: int, args: argparse.Namespace) -> tuple[list[float], float]:
    """The loss of each step in nats a token, and the median of their seconds."""
    device = best_device()
    loaded = load_recogniser("builtin:round1", dtype=getattr(torch, args.dtype), device=str(device))
    model, prompt = loaded.model.train(), TranscriptionPrompt(loaded.tokenizer, "Hebrew")
    examples = read_corpus(folder, prompt)
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor, device=device, cache_gib=2.0)
    phase = PhaseConfig(name="all", num_epochs=1, lr_by_part=dict.fromkeys(ALL_PARTS, LR))
    optimizer = MasterAdamW(enter_phase(model, phase), phase.lr_by_part, OptimizerConfig())
    if fast:
        fuse_layers(model)
    objective, losses, seconds = Transcribe(FAMILY), [], []
    for step in range(args.steps):
        utterances = step_utterances(step, num_utterances=len(examples), utterances_per_step=args.utterances, seed=seed)
        chosen = [examples[u] for u in utterances]
        num_targets = sum(example.num_targets for example in chosen)
        optimizer.set_lr(min(1.0, (step + 1) / 20))
        packs = [reader.pack(chosen)] if fast else [reader.pack([example]) for example in chosen]
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        if fast:
            with packed_attention(model):
                loss = objective.loss(model, packs[0], TrainStep(chosen, 0.0)).total
                (loss / num_targets).backward()
        else:
            loss = plain_loss(loaded, packs)
            (loss / num_targets).backward()
        losses.append(update(optimizer, Ran([loss.detach()])).loss_sum / num_targets)  # waits for the device
        seconds.append(time.perf_counter() - begun)
    return losses, median(seconds)


def smooth(losses: list[float]) -> np.ndarray:
    return np.convolve(losses, np.ones(WINDOW) / WINDOW, mode="valid")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--utterances", type=int, default=16, help="a step")
    parser.add_argument("--num-train", type=int, default=660)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report = Report(args.out)
    report.add(**machine())
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = CorpusConfig(num_train=args.num_train, num_long=0, num_test=8, damaged_frac=0.0)
        build_corpus(folder, seed=11, config=config)
        curves = {}
        for name, fast, seed in (("plain, seed 0", False, 0), ("fast, seed 0", True, 0), ("plain, seed 1", False, 1)):
            curves[name], step_s = curve(folder, fast, seed, args)
            report.add(
                curve=name, first=curves[name][0], last_20=float(smooth(curves[name])[-1]), step_s=round(step_s, 4)
            )
    plain, fast, other = (smooth(losses) for losses in curves.values())
    between_paths, between_seeds = np.abs(fast - plain), np.abs(other - plain)
    report.add(
        between_paths={"mean": float(between_paths.mean()), "worst": float(between_paths.max())},
        between_seeds={"mean": float(between_seeds.mean()), "worst": float(between_seeds.max())},
    )
    return int(between_paths.max() > between_seeds.max())


if __name__ == "__main__":
    raise SystemExit(main())
