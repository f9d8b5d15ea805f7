"""Training speed side by side in one process: the specification's settings, the official script's, this project's.

    python benchmarks/train_speed.py --seconds 30 --out train_speed.json

Random weights in the 1.7B size, utterances of 0.5 to 15 s (5.8 s on average), data in memory. A line of JSON a variant:
seconds of audio a second, peak GiB, TFLOP/s of the model's own operations and their share of the matmul ceiling. A
variant that fails says why and the next one runs.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from real_size import (
    Report,
    Stepper,
    audio_s,
    best_device,
    everything,
    free,
    machine,
    matmul_ceiling_tflops,
    mean_batches,
    new_model,
    new_pack,
    peak_gib,
    recipe_config,
    stock_batch,
    timed,
    without_lora,
)

from shibolet.model.qwen3_asr.cost import Cost, PackSize
from shibolet.model.qwen3_asr.packed import PACKED
from shibolet.train.memory import Sizes
from shibolet.train.phases import add_adapters, enter_phase

NUM_BATCHES = 4  # different ones, in turn

Measured = tuple[list[float], list[Sequence[Sizes]], list[int]]  # step times, utterances and operations of each step


def ours(args: argparse.Namespace, phase: str, utterances: int, cached: bool = False, packs: int = 1) -> Measured:
    """This project's step: packed, fused, fp32 masters, adapters as in the recipe."""
    config = recipe_config()
    chosen = everything() if phase == "all" else next(p for p in config.phases if p.name == phase)
    model = new_model(args.device, args.tiny)
    stepper = Stepper(model, without_lora(config) if phase == "all" else config, chosen)
    batches = mean_batches(NUM_BATCHES, utterances, seed=1)
    steps = [
        [new_pack(model, batch[n::packs], args.device, seed=n, cached=cached) for n in range(packs)]
        for batch in batches
    ]
    times = timed(lambda n: stepper(steps[n % len(steps)]), warm_up=args.warm_up, seconds=args.seconds)
    return times, batches, [stepper.operations(batch, cached) for batch in batches]


def stock(
    args: argparse.Namespace, phase: str, micro: int, accumulate: int, checkpoint: bool, varlen: bool = False
) -> Measured:
    """A step through unmodified transformers: padded batches, all logits, AdamW on the bf16 weights."""
    config = recipe_config()
    model = new_model(args.device, args.tiny)
    model.config._attn_implementation = model.config.text_config._attn_implementation = "sdpa"
    model.config.audio_config._attn_implementation = PACKED if varlen else "sdpa"
    if phase == "all":
        groups = enter_phase(model, everything())
    else:
        add_adapters(model, config, seed=0)
        groups = enter_phase(model, next(p for p in config.phases if p.name == phase))
    if checkpoint:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = [weight for group in groups.values() for weight in group.values()]
    optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=True)
    batches = mean_batches(NUM_BATCHES, micro * accumulate, seed=1)
    inputs = [
        [stock_batch(model, batch[at : at + micro], args.device, seed=at) for at in range(0, len(batch), micro)]
        for batch in batches
    ]

    def step(number: int) -> float:
        losses = []
        for batch in inputs[number % len(inputs)]:
            loss = model(**batch, use_cache=False).loss / accumulate
            loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(torch.stack(losses).sum())

    times = timed(step, warm_up=1 if checkpoint else args.warm_up, seconds=args.seconds)
    cost = Cost(model, [name for group in groups.values() for name in group], model.dtype.itemsize)
    return times, batches, [cost.operations(PackSize.of(batch)) for batch in batches]


VARIANTS: dict[str, Callable[[argparse.Namespace], Measured]] = {
    "c: phase B, 128 utterances": lambda a: ours(a, "B", 128),
    "c: phase A, 128 utterances": lambda a: ours(a, "A", 128),
    "c: phase B cached, 128 utterances": lambda a: ours(a, "B", 128, cached=True),
    "c: everything, 64 utterances": lambda a: ours(a, "all", 64),
    "a: specification, strategy B": lambda a: stock(a, "B", 2, 16, checkpoint=True),
    "a: specification, strategy A": lambda a: stock(a, "A", 2, 16, checkpoint=True),
    "b: official settings, stock attention": lambda a: stock(a, "all", 32, 4, checkpoint=False),
    "b: official settings, variable-length attention": lambda a: stock(a, "all", 32, 4, checkpoint=False, varlen=True),
    "c: phase B, 64 utterances": lambda a: ours(a, "B", 64),
    "c: phase A, 64 utterances": lambda a: ours(a, "A", 64),
    "c: phase B, 64 utterances in 2 packs": lambda a: ours(a, "B", 64, packs=2),
    "c: phase A, 64 utterances in 2 packs": lambda a: ours(a, "A", 64, packs=2),
    "c: phase B, 8 utterances": lambda a: ours(a, "B", 8),
    "c: phase A, 8 utterances": lambda a: ours(a, "A", 8),
    "c: phase B cached, 256 utterances": lambda a: ours(a, "B", 256, cached=True),
}


def figures(measured: Measured, ceiling: float) -> dict:
    """Rates over all timed steps; the batches come round in turn."""
    times, batches, operations = measured
    at = [number % len(batches) for number in range(len(times))]
    tflops = sum(operations[n] for n in at) / sum(times) / 1e12
    return {
        "audio_s_per_s": round(sum(audio_s(batches[n]) for n in at) / sum(times), 1),
        "step_s": round(float(np.median(times)), 4),
        "steps": len(times),
        "peak_gib": peak_gib(),
        "tflops": round(tflops, 1),
        "of_ceiling_pct": round(100 * tflops / ceiling, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="timed, a variant")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before the clock")
    parser.add_argument("--only", nargs="+", default=[""], help="variants whose names contain one of these")
    parser.add_argument("--tiny", action="store_true", help="small weights, to try it without a GPU")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.device = best_device()
    report = Report(args.out)
    ceiling = matmul_ceiling_tflops(args.device, 512 if args.tiny else 8192)
    report.add(**machine(), matmul_ceiling_tflops=round(ceiling, 1))
    for name, variant in VARIANTS.items():
        if not any(part in name for part in args.only):
            continue
        free()
        started = time.perf_counter()
        try:
            result = figures(variant(args), ceiling)
        except Exception as error:  # one variant's failure is a row of the report, and the others still run
            result = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        report.add(variant=name, **result, took_s=round(time.perf_counter() - started, 1))


if __name__ == "__main__":
    main()
