"""How often a training records layers as graphs, from lengths alone, and what that leaves of the rate of its steps.

    python benchmarks/launch_shapes.py --gpus 1 2 --hours 10 40 118 --record-s .15 .3

Utterances are drawn as assumed, 64 a step, and fall into packs as in training; `model.fast.graphs` decides what it
records, without any layer. A rank that launches a shape one by one or records it holds up the others. Both times are
measured ones of a step (RESULTS.md, "Two GPUs and 64 utterances"); the decoder takes 7 tenths of them. `--longest 256`
has shapes as they were before packs without an utterance of 11 s shared those of the others; `--rows` and
`--seen-before` try other paddings and other times to record.
"""

import argparse
import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from shibolet.model.fast import graphs
from shibolet.model.fast.graphs import Chain, _Recording
from shibolet.model.qwen3_asr import launching
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.lengths import WINDOW_TOKENS, num_audio_tokens
from shibolet.train.memory import MEAN_S, Sizes, assumed_sizes
from shibolet.train.packing import divide, step_utterances, steps_per_epoch

SHARES = {"decoder": 0.7, "encoder": 0.3}
PHASES = {"B": 2, "A": 3}  # epochs
PER_STEP = 64


class Counted(Chain):
    """Counts what it would launch one by one and record; it has one layer, which does nothing."""

    def __init__(self) -> None:
        self.num_single = self.num_recorded = 0
        super().__init__(self._single, [nn.Identity()])

    def _single(self, layers, x, inputs, shape):
        self.num_single += 1
        return x

    def _is_on_gpu(self, x) -> bool:
        return True

    def _get_ready(self) -> None:
        pass

    def _recorded(self, x, inputs, shape) -> _Recording:
        self.num_recorded += 1
        return _Recording(None, [], inputs)


def shapes_of(pack: Sequence[Sizes]) -> dict[str, tuple]:
    """What the towers are launched with, as `launching` pads it."""
    audio = [num_audio_tokens(frames) for _, frames, _ in pack]
    windows = sum(-(-num // WINDOW_TOKENS) for num in audio)
    tokens = [num for num, _, _ in pack]
    return {
        "decoder": (*launching.padded_sizes(sum(tokens), len(pack)), launching.longest_of(max(tokens))),
        "encoder": launching.padded_sizes(sum(audio), windows),
    }


def delays(chains: dict[str, Counted], pack: Sequence[Sizes], single_s: float, record_s: Sequence[float]) -> np.ndarray:
    """Seconds beyond those of a step of graphs, for each time that a recording takes."""
    total = np.zeros(len(record_s))
    for tower, shape in shapes_of(pack).items():
        chain, share = chains[tower], SHARES[tower]
        before = chain.num_single, chain.num_recorded
        chain(torch.zeros(1), [torch.zeros(1)], shape)
        total += share * single_s * (chain.num_single - before[0])
        total += share * np.array(record_s) * (chain.num_recorded - before[1])
    return total


def run(hours: float, gpus: int, args: argparse.Namespace) -> Iterator[dict]:
    sizes = assumed_sizes(FAMILY, round(hours * 3600 / MEAN_S), seed=0)
    per_epoch, lengths = steps_per_epoch(len(sizes), PER_STEP), [tokens for tokens, _, _ in sizes]
    for phase, epochs in PHASES.items():
        ranks = [{tower: Counted() for tower in SHARES} for _ in range(gpus)]
        extra, num_steps = np.zeros(len(args.record_s)), epochs * per_epoch
        num_tokens = num_rows = 0
        for step in range(num_steps):
            drawn = step_utterances(step, num_utterances=len(sizes), utterances_per_step=PER_STEP, seed=0)
            packs = divide(drawn, lengths, gpus)
            if not all(packs):
                continue
            num_tokens += sum(lengths[u] for u in drawn)
            num_rows += sum(launching.padded_sizes(sum(lengths[u] for u in pack), 0)[0] for pack in packs)
            extra += np.max([
                delays(chains, [sizes[u] for u in pack], args.single_s, args.record_s)
                for chains, pack in zip(ranks, packs, strict=True)
            ], axis=0)  # fmt: skip
        usual_s = num_steps * args.step_s
        yield {
            "hours": hours, "gpus": gpus, "phase": phase, "steps": num_steps,
            **{f"{tower}_shapes": len(ranks[0][tower]._seen) for tower in SHARES},
            "recorded": [sum(chain.num_recorded for chain in chains.values()) for chains in ranks],
            "one_by_one": [sum(chain.num_single for chain in chains.values()) for chains in ranks],
            "padding_frac": round(1 - num_tokens / num_rows, 3),
            "rate_frac": {str(s): round(usual_s / (usual_s + more), 3) for s, more in zip(args.record_s, extra)},
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--hours", type=float, nargs="+", default=[10.0])
    parser.add_argument("--step-s", type=float, default=0.09, help="of a step of graphs")
    parser.add_argument("--single-s", type=float, default=0.06, help="that it takes longer one by one")
    parser.add_argument("--record-s", type=float, nargs="+", default=[0.15, 0.3])
    parser.add_argument("--longest", type=int, default=launching._LONGEST)
    parser.add_argument("--rows", type=int, default=launching._ROWS)
    parser.add_argument("--seen-before", type=int, default=graphs._SEEN_BEFORE)
    args = parser.parse_args()
    launching._LONGEST, launching._ROWS, graphs._SEEN_BEFORE = args.longest, args.rows, args.seen_before
    for hours in args.hours:
        for gpus in args.gpus:
            for row in run(hours, gpus, args):
                print(
                    json.dumps({"longest": args.longest, "rows": args.rows, "seen_before": args.seen_before, **row}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
