"""Greedy transcription against transformers' `generate`, in one run: seconds of audio written down a second.

    python benchmarks/transcribe_speed.py                     # the 1.7B model, random weights, bf16, the first GPU
    python benchmarks/transcribe_speed.py --small             # the 0.6B
    python benchmarks/transcribe_speed.py --model builtin:round1 --utterances 64 --rows 8 16 --stock-batch 16

Utterances have a mean of 5.8 s and end after 40 tokens; their samples are in memory. Prints a JSON object a variant as
it goes, the bars last.
"""

import argparse
import json
import time
import traceback
from collections.abc import Callable

import numpy as np
import torch
import transformers
from transformers import Qwen3ASRConfig, Qwen3ASRFeatureExtractor, Qwen3ASRForConditionalGeneration

from shibolet.model.qwen3_asr.decoding import STEPS, GreedyDecoder, Request, generate_padded
from shibolet.model.qwen3_asr.features import PackedLogMel
from shibolet.model.qwen3_asr.fused import fuse_layers
from shibolet.model.qwen3_asr.lengths import num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.model.qwen3_asr.sizes import SMALL, USUAL

NEW_TOKENS = 40


def durations(count: int, rng: np.random.Generator) -> np.ndarray:
    """Seconds, log-normal between 0.5 and 15 with a mean of 5.8, longest first."""
    drawn = np.clip(rng.lognormal(1.6, 0.6, count), 0.5, 15.0)
    return np.sort(np.clip(drawn * 5.8 / drawn.mean(), 0.5, 15.0))[::-1]


class Speed:
    """The model, the utterances, and what was measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = random_model(self.device, args.small) if args.model is None else load_recogniser(args.model).model
        self.model = self.model.to(self.device).eval()
        self.features = PackedLogMel(Qwen3ASRFeatureExtractor(), self.device)
        self.audio_id = self.model.config.audio_token_id
        self.stop_ids = [self.model.config.text_config.vocab_size - 1]  # random weights do not write it
        rng = np.random.default_rng(0)
        self.requests = [
            self.request((0.1 * rng.standard_normal(round(16000 * s))).astype(np.float32))
            for s in durations(args.utterances, rng)
        ]
        self.audio_s = audio_s(self.requests)
        self.positions = max(map(lambda r: len(r.prompt), self.requests)) + NEW_TOKENS
        self.ends, self.found = time.monotonic() + args.seconds, {}

    def request(self, samples: np.ndarray) -> Request:
        """A prompt of the usual length around the audio."""
        audio = [self.audio_id] * num_audio_tokens(num_mel_frames(len(samples)))
        return Request(list(range(9)) + audio + list(range(20, 32)), samples, NEW_TOKENS)

    def decoder(self, rows: int) -> GreedyDecoder:
        return GreedyDecoder(self.model, self.features, audio_id=self.audio_id, stop_ids=self.stop_ids, max_rows=rows)

    def measure(self, name: str, run: Callable[[], dict], **facts) -> None:
        """Run a variant, if there is time, and print what it took; its failure is printed and ends nothing."""
        if time.monotonic() > self.ends:
            show({"variant": name, "skipped": "no time left"})
            return
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            result = run()
        except Exception as error:  # one variant of several: the others must still be measured
            show(
                {"variant": name, "failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-1500:]}
            )
            return
        if self.device == "cuda":
            result["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        self.found[name] = result
        show({"variant": name, **facts, **result})

    def clock(self, run: Callable[[], int]) -> float:
        self.wait()
        started = time.perf_counter()
        if run() == 0:
            raise RuntimeError("nothing was written")
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def stock(self, batch: int, num_batches: int) -> dict:
        """`generate` on batches from the middle of the lengths, where the mean of the whole is."""
        whole = [self.requests[i : i + batch] for i in range(0, len(self.requests) - batch + 1, batch)]
        step = max(1, len(whole) // num_batches)
        chosen = whole[step // 2 :: step][:num_batches]
        run = lambda some: generate_padded(self.model, self.features, some, stop_ids=self.stop_ids, pad_id=0)  # noqa: E731
        run(chosen[0])
        self.written = {}

        def all_of_them() -> int:
            for some in chosen:
                for request, (ids, _) in zip(some, run(some), strict=True):
                    self.written[id(request)] = ids
            return sum(map(len, self.written.values()))

        seconds = self.clock(all_of_them)
        heard_s = sum(map(audio_s, chosen))
        return {"seconds": round(seconds, 3), "audio_s": round(heard_s), "audio_s_per_s": round(heard_s / seconds, 1)}

    def ours(self, rows: int, repeats: int = 2) -> dict:
        decoder = self.decoder(rows)
        written: dict[int, list[int]] = {}

        def run(requests) -> int:
            written.clear()
            written.update({one.place: one.ids for one in decoder.decode(requests, self.positions)})
            return sum(map(len, written.values()))

        first = self.clock(lambda: run(self.requests))  # captures the graphs
        seconds = [self.clock(lambda: run(self.requests)) for _ in range(repeats)]
        assert len(written) == len(self.requests) and all(len(ids) == NEW_TOKENS for ids in written.values())
        both = [
            (ids, self.written[id(self.requests[i])])
            for i, ids in written.items()
            if id(self.requests[i]) in self.written
        ]
        return {
            "rows_held": decoder._rows.num_rows,
            "first_seconds": round(first, 3),
            "seconds": [round(s, 3) for s in seconds],
            "audio_s_per_s": round(self.audio_s / min(seconds), 1),
            "same_first_token_as_stock": share(a[0] == b[0] for a, b in both),
            "same_tokens_as_stock": share(a == b for a, b in both),
        }

    def parts(self, rows: int) -> dict:
        """Milliseconds of a prefill of all rows and of one step."""
        middle = len(self.requests) // 2
        some = self.requests[max(0, middle - rows // 2) :][:rows]
        decoder = self.decoder(len(some))
        with torch.inference_mode():
            held = decoder._reserve(self.positions)
            groups = list(decoder._groups(some, held))
            places = [[i for i, _ in group.requests] for group in groups]
            enter = lambda: [decoder._prefill(held, *each) for each in zip(groups, places)] and 1  # noqa: E731
            enter()
            prefill_s = self.clock(enter)
            seen = max(len(request.prompt) for request in some) + 1 + 10 * STEPS
            steps_s = self.clock(lambda: [decoder._steps(held, seen) for _ in range(10)] and 1)
        return {
            "rows": len(some), "audio_s": round(audio_s(some)), "prefill_ms": round(1000 * prefill_s, 1),
            "step_ms": round(1000 * steps_s / (10 * STEPS), 3),
        }  # fmt: skip


def random_model(device: str, small: bool) -> Qwen3ASRForConditionalGeneration:
    """Sizes of the 1.7B, or of the 0.6B, with random weights in bf16."""
    sizes = SMALL if small else USUAL
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Qwen3ASRForConditionalGeneration(Qwen3ASRConfig(**sizes.model_dump(exclude={"model_type"})))
    torch.set_default_dtype(torch.float32)
    if device != "cpu":
        fuse_layers(model)
    return model


def audio_s(requests: list[Request]) -> float:
    return sum(len(request.samples) for request in requests) / 16000


def share(values) -> float | None:
    values = list(values)
    return round(sum(values) / len(values), 3) if values else None


def show(row: dict) -> None:
    print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="else the 1.7B model with random weights")
    parser.add_argument("--small", action="store_true", help="the 0.6B's sizes in place of the 1.7B's")
    parser.add_argument("--utterances", type=int, default=1536)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 128, 384, 512])
    parser.add_argument("--stock-batch", type=int, default=128)
    parser.add_argument("--stock-batches", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=150.0, help="no variant begins after these")
    args = parser.parse_args()
    started = time.monotonic()
    speed = Speed(args)
    where = torch.cuda.get_device_name() if speed.device == "cuda" else "cpu"
    show(
        {
            "device": where, "torch": torch.__version__, "transformers": transformers.__version__,
            "dtype": str(speed.model.dtype), "parameters": sum(p.numel() for p in speed.model.parameters()),
            "utterances": len(speed.requests), "mean_s": round(speed.audio_s / len(speed.requests), 2),
            "new_tokens": NEW_TOKENS, "set_up_s": round(time.monotonic() - started, 1),
        }
    )  # fmt: skip
    batch = args.stock_batch
    speed.written = {}
    speed.measure("stock", lambda: speed.stock(batch, args.stock_batches), batch=batch)
    for rows in args.rows:
        speed.measure(f"ours {rows}", lambda rows=rows: speed.ours(rows), rows=rows)
    speed.measure("parts", lambda: speed.parts(args.rows[0]))
    ours = [result for name, result in speed.found.items() if name.startswith("ours")]
    if ours and "stock" in speed.found:
        best = max(ours, key=lambda result: result["audio_s_per_s"])
        show(
            {
                "times_stock": round(best["audio_s_per_s"] / speed.found["stock"]["audio_s_per_s"], 2),
                "times_stock_bar": 3,
                "audio_s_per_s": best["audio_s_per_s"],
                "audio_s_per_s_bar": 1500,
            }
        )


if __name__ == "__main__":
    main()
