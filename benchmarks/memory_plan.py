"""The memory plan against measurement: peak bytes of a step in the 1.7B size, phases B and A, three pack sizes.

    python benchmarks/memory_plan.py --out memory_plan.json

The prediction is of layers that are launched one by one; the same packs train with graphs too, and `graphs_gib` is what
the allocator has then reserved more. Ends with 1 when a prediction is off by more than 7%.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from real_size import (
    Report,
    Stepper,
    best_device,
    bytes_of,
    free,
    launch_layers,
    machine,
    mean_batches,
    new_model,
    new_pack,
    recipe_config,
)

from shibolet.train.memory import GIB

TOLERANCE_PCT = 7.0


def steps(stepper: Stepper, packs: Sequence[Any], launched: str) -> int:
    """Three steps, of which the last is looked at; bytes that the allocator has reserved in it."""
    launch_layers(launched)
    for _ in range(2):
        stepper(packs)
    free()
    stepper(packs)
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device, report, worst = best_device(), Report(args.out), 0.0
    report.add(**machine())
    for phase in recipe_config().phases:
        free()
        model = new_model(device, args.tiny)
        stepper = Stepper(model, recipe_config(), phase)
        memory = stepper.memory()
        for utterances, several in [*((n, False) for n in args.utterances), (args.utterances[0], True)]:
            (batch,) = mean_batches(1, utterances, seed=2)
            packs = [new_pack(model, batch, device, seed=n, cached=False) for n in range(1 + several)]
            reserved = {launched: steps(stepper, packs, launched) for launched in ("graphs", "single")}
            predicted = memory.peak(stepper.cost.size_of(batch), several)
            row = {"phase": phase.name, "utterances": utterances, "packs": len(packs),
                   "predicted_gib": round(sum(predicted.values()) / GIB, 3),
                   "terms_gib": {name: round(size / GIB, 3) for name, size in predicted.items()}}  # fmt: skip
            if device.type == "cuda":
                measured = torch.cuda.max_memory_allocated() - sum(map(bytes_of, packs))
                free_bytes, total = torch.cuda.mem_get_info()
                error = 100 * (sum(predicted.values()) / measured - 1)
                worst = max(worst, abs(error))
                row |= {
                    "measured_gib": round(measured / GIB, 3),
                    "error_pct": round(error, 2),
                    "reserved_gib": round(reserved["single"] / GIB, 3),
                    "graphs_gib": round((reserved["graphs"] - reserved["single"]) / GIB, 3),
                    "outside_allocator_gib": round((total - free_bytes - torch.cuda.memory_reserved()) / GIB, 3),
                }
            report.add(**row)
    return int(worst > TOLERANCE_PCT)


if __name__ == "__main__":
    raise SystemExit(main())
