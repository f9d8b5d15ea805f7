"""Where a step's time goes: kernels by time, from torch's profiler, of one phase in the 1.7B size.

python benchmarks/profile_step.py --phase B --utterances 128 --out profile_B.txt
"""

import argparse
from pathlib import Path

import torch
from real_size import Stepper, best_device, mean_batches, new_model, new_pack, recipe_config
from torch.profiler import ProfilerActivity, profile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phase", default="B")
    parser.add_argument("--utterances", type=int, default=128)
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = best_device()
    model = new_model(device, args.tiny)
    config = recipe_config()
    stepper = Stepper(model, config, next(phase for phase in config.phases if phase.name == args.phase))
    (batch,) = mean_batches(1, args.utterances, seed=1)
    pack = new_pack(model, batch, device, seed=0, cached=args.cached)
    for _ in range(4):
        stepper([pack])
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities, record_shapes=True) as profiled:
        for _ in range(2):
            stepper([pack])
        if device.type == "cuda":
            torch.cuda.synchronize()
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    width = {"max_name_column_width": 90, "row_limit": 60}
    text = profiled.key_averages().table(sort_by=order, **width)
    shapes = profiled.key_averages(group_by_input_shape=True).table(sort_by=order, max_shapes_column_width=90, **width)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(f"two steps of phase {args.phase}, {args.utterances} utterances\n{text}\n{shapes}\n")
    print(text[:6000])


if __name__ == "__main__":
    main()
