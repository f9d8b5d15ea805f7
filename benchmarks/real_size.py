"""What the training benchmarks share: Qwen3-ASR-1.7B with random weights, utterances as assumed, a step as trained.

`Stepper` and what stands below it serve a model of any family.
"""

import gc
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration

from shibolet.model.family import family_of
from shibolet.model.fast import graphs
from shibolet.model.qwen3_asr import launching
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.lengths import num_audio_tokens
from shibolet.model.qwen3_asr.packed import Pack, lay_out
from shibolet.model.qwen3_asr.prompt import IGNORED, TokenSequence
from shibolet.recipe import load_recipe
from shibolet.train.config import PhaseConfig, TrainConfig
from shibolet.train.memory import PhaseMemory, Sizes, assumed_sizes
from shibolet.train.objective import TrainStep
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.optimizer import MasterAdamW
from shibolet.train.phases import add_adapters, enter_phase
from shibolet.train.update import Ran, update

ALL_PARTS = {"encoder.conv": 1e-5, "encoder.layers": 1e-5, "projector": 1e-5, "embeddings": 1e-5,
             "decoder.layers": 1e-5, "decoder.norm": 1e-5}  # fmt: skip
_BEFORE, _AFTER = 9, 6  # tokens of the prompt before and after the audio


def model_config(tiny: bool) -> Qwen3ASRConfig:
    """The 1.7B's sizes, or as many layers of small ones, to try a benchmark where there is no GPU."""
    if not tiny:
        return Qwen3ASRConfig(audio_config={"output_dim": 2048})
    audio = {"d_model": 32, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "downsample_hidden_size": 8}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 16, "vocab_size": 151936, "max_position_embeddings": 65536, "tie_word_embeddings": True,
            "num_hidden_layers": 28}  # fmt: skip
    return Qwen3ASRConfig(audio_config={**audio, "output_dim": 32}, text_config={"model_type": "qwen3", **text})


def new_model(device: torch.device, tiny: bool, config: Qwen3ASRConfig | None = None) -> PreTrainedModel:
    """Random weights in bf16, made on the device; of the 1.7B's sizes where there is no other configuration."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return Qwen3ASRForConditionalGeneration(config or model_config(tiny)).train()
    finally:
        torch.set_default_dtype(default)


def recipe_config(**changes: Any) -> TrainConfig:
    """The shipped recipe's training settings."""
    return load_recipe("hebrew-round2").train.model_copy(update=changes)


def everything() -> PhaseConfig:
    return PhaseConfig(name="all", num_epochs=1, lr_by_part=ALL_PARTS)


def sequences_of(sizes: Sequence[Sizes], audio_id: int, vocab: int, seed: int) -> list[TokenSequence]:
    """Sequences of those lengths with random text."""
    rng = np.random.default_rng(seed)
    made = []
    for tokens, frames, labels in sizes:
        audio = num_audio_tokens(frames)
        text = rng.integers(0, min(vocab, audio_id), size=_BEFORE + _AFTER + labels).tolist()
        prompt = text[:_BEFORE] + [audio_id] * audio + text[_BEFORE : _BEFORE + _AFTER]
        target = text[_BEFORE + _AFTER :]
        made.append(TokenSequence(prompt + target, [IGNORED] * len(prompt) + target))
        assert len(made[-1].input_ids) == tokens
    return made


def new_pack(model: PreTrainedModel, sizes: Sequence[Sizes], device: torch.device, seed: int, cached: bool) -> Pack:
    """A pack of random audio and text; `cached` gives it encoder states in place of features."""
    config = model.config
    sequences = sequences_of(sizes, config.audio_token_id, config.text_config.vocab_size, seed)
    pack = lay_out(sequences, [frames for _, frames, _ in sizes], config.audio_token_id, shift=True).to(device)
    torch.manual_seed(seed)
    if cached:
        states = torch.randn(len(pack.audio_positions), config.audio_config.d_model, device=device)
        return Pack(**{**_fields(pack), "encoded": states.to(model.dtype)})
    num_chunks = sum(-(-frames // 100) for _, frames, _ in sizes)
    features = torch.randn(1, config.audio_config.num_mel_bins, 100 * num_chunks, device=device)
    return Pack(**{**_fields(pack), "features": features})


def _fields(pack: Pack) -> dict[str, Any]:
    return {name: getattr(pack, name) for name in Pack.__slots__}


class Stepper:
    """A training step as `GradualUnfreezeTrainer` takes it: packs, the update, one wait for the numbers."""

    def __init__(
        self, model: PreTrainedModel, config: TrainConfig, phase: PhaseConfig, adapters: bool = True, fuse: bool = True
    ) -> None:
        self.model = model
        if adapters:
            add_adapters(model, config, seed=0)
        groups = enter_phase(model, phase)
        self.new_optimizer = partial(MasterAdamW, groups, phase.lr_by_part, config.optimizer)
        self.optimizer = self.new_optimizer()
        self.optimizer.set_lr(1e-3)
        self.waited_s = 0.0  # of the host for the device, in all steps
        family = family_of(model.config)
        if fuse:
            family.fuse(model)
        self.objective = Transcribe(family)
        names = [name for group in groups.values() for name in group]
        self.cost = family.cost(model, names, model.dtype.itemsize)
        self.trainable = sum(weight.numel() for group in groups.values() for weight in group.values())

    def __call__(self, packs: Sequence[Any]) -> float:
        num_targets = sum(len(pack.labels) for pack in packs)
        losses = []
        with self.objective.context(self.model):
            for number, pack in enumerate(packs, start=1):
                loss = self.objective.loss(self.model, pack, TrainStep([], 0.0)).total
                with self.optimizer.shards.early(is_last=number == len(packs)):
                    (loss / num_targets).backward()
                losses.append(loss.detach())
        told = update(self.optimizer, Ran(losses))
        self.waited_s += told.waited_s
        return told.loss_sum / num_targets

    def operations(self, sizes: Sequence[Sizes], cached: bool) -> int:
        return self.cost.operations(self.cost.size_of(sizes), encoder=not cached)

    def memory(self, cached: bool = False) -> PhaseMemory:
        """What the plan of a training makes its predictions from."""
        return PhaseMemory(
            cost=self.cost, parameters=sum(weight.numel() for weight in self.model.parameters()),
            trainable=self.trainable, width=self.model.dtype.itemsize, world_size=1, encoder_kept=cached,
        )  # fmt: skip


def without_lora(config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"lora": None, "untie_head": False})


def mean_batches(num_batches: int, size: int, seed: int) -> list[list[Sizes]]:
    """Batches of assumed utterances."""
    sizes = assumed_sizes(FAMILY, num_batches * size, seed)
    return [sizes[at : at + size] for at in range(0, len(sizes), size)]


def audio_s(sizes: Sequence[Sizes]) -> float:
    return sum(frames for _, frames, _ in sizes) / 100


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(step: Callable[[int], float], *, warm_up: int, seconds: float, most: int = 100_000) -> list[float]:
    """Seconds of each step after the warm-up, until they add up to `seconds`; at least two steps.

    As in training a step's update may run into the next step; the device is waited for at both ends only.
    """
    for number in range(warm_up):
        step(number)
    gc.collect()
    gc.freeze()  # as a training does: what is there stays, and need not be looked through again
    synchronize()
    times, last = [], time.perf_counter()
    while (sum(times) < seconds or len(times) < 2) and len(times) < most:
        step(warm_up + len(times))
        times.append(time.perf_counter() - last)
        last += times[-1]
    synchronize()
    times[-1] += time.perf_counter() - last
    return times


def matmul_ceiling_tflops(device: torch.device, size: int = 8192) -> float:
    """The median rate of bf16 products of random matrices."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    at_once = 20 if device.type == "cuda" else 1

    def products(_: int) -> float:
        for _ in range(at_once):
            product = a @ b
        return float(product[0, 0])

    times = timed(products, warm_up=2, seconds=1.0 if device.type == "cuda" else 0.1, most=200)
    return at_once * 2 * size**3 / float(np.median(times)) / 1e12


def best_device(index: int = 0) -> torch.device:
    return torch.device("cuda", index) if torch.cuda.is_available() else torch.device("cpu")


def machine() -> dict[str, str]:
    import transformers

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__}


class Report:
    """JSON objects printed as they come, and all of them in a file."""

    def __init__(self, path: Path | None) -> None:
        self._path, self.rows = path, []

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self.rows, indent=1) + "\n")


def bytes_of(pack: Any) -> int:
    """Of a pack's tensors."""
    tensors = (getattr(pack, name) for name in pack.__slots__)
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


def launch_layers(how: str) -> None:
    """Have layers in training launched as "graphs", or each "single"; what was recorded before is forgotten."""
    graphs._SEEN_BEFORE = 1 if how == "graphs" else 10**9
    launching._CHAINS.clear()


def free(*_: object) -> None:
    """Give back what the last variant held."""
    gc.unfreeze()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None


def stock_batch(model: PreTrainedModel, sizes: Sequence[Sizes], device: torch.device, seed: int) -> dict[str, Tensor]:
    """A padded batch as transformers takes it, labels on the target only."""
    config = model.config
    sequences = sequences_of(sizes, config.audio_token_id, config.text_config.vocab_size, seed)
    longest, most = max(len(s.input_ids) for s in sequences), -(-max(frames for _, frames, _ in sizes) // 100) * 100
    ids = torch.full((len(sizes), longest), config.pad_token_id)
    labels, shown = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
    heard = torch.zeros(len(sizes), most, dtype=torch.long)
    for row, (sequence, (_, frames, _)) in enumerate(zip(sequences, sizes, strict=True)):
        ids[row, : len(sequence.input_ids)] = torch.tensor(sequence.input_ids)
        labels[row, : len(sequence.labels)] = torch.tensor(sequence.labels)
        shown[row, : len(sequence.input_ids)] = 1
        heard[row, :frames] = 1
    torch.manual_seed(seed)
    features = torch.randn(len(sizes), config.audio_config.num_mel_bins, most).to(model.dtype)
    batch = {"input_ids": ids, "attention_mask": shown, "labels": labels, "input_features": features,
             "input_features_mask": heard}  # fmt: skip
    return {name: tensor.to(device) for name, tensor in batch.items()}
