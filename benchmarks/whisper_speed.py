"""Whisper large-v3-turbo's sizes with random weights on one GPU: steps, memory, logits and decoding, in one process.

    python benchmarks/whisper_speed.py --seconds 8 --out whisper_speed.json
    python benchmarks/whisper_speed.py --tiny                    # small weights, to try it without a GPU

A line of JSON a variant. Ours: packs as long as the plan finds room for, 64 utterances a step as in the recipe
hebrew-whisper-turbo, on full slices (30 s, 150 labels) and on clips (0.5 to 15 s, 5.8 s on average, which a Whisper
hears as 30 s too). Theirs: what transformers' Seq2SeqTrainer does in a step at ivrit.ai's published settings, on the
same clips: float32 weights under bf16 autocast, sdpa, no gradient checkpointing, padded texts with a loss on the prompt
too, fused AdamW with a weight decay of 0.05, gradients clipped at 1; the card of ivrit-ai/whisper-large-v3-turbo says
bf16, sdpa and a batch of 32, and github.com/ivrit-ai/asr-training, train-whisper.py at commit 61594ef, has 16 clips a
forward and 2 of them a step as its defaults. Features are made before, for both.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from real_size import (
    Report,
    Stepper,
    best_device,
    bytes_of,
    free,
    machine,
    matmul_ceiling_tflops,
    peak_gib,
    synchronize,
    timed,
)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationMixin, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from shibolet.model.family import LoadedModel
from shibolet.model.fast.kernels import attend
from shibolet.model.protocols import Decoding, Prompt
from shibolet.model.whisper.family import FAMILY
from shibolet.model.whisper.features import LogMel, lay_samples
from shibolet.model.whisper.lengths import WINDOW_FRAMES, WINDOW_STATES
from shibolet.model.whisper.packed import Pack, head, hidden, lay_out, packed_attention
from shibolet.model.whisper.prompt import TranscriptionFrame
from shibolet.model.whisper.sizes import STANDARD, USUAL
from shibolet.recipe import load_recipe
from shibolet.train.config import PhaseConfig
from shibolet.train.memory import GIB, PACK_TOKENS, Sizes, assumed_sizes
from shibolet.train.packing import packs_of
from shibolet.train.phases import enter_phase

RECIPE, UTTERANCES, NUM_BATCHES = "hebrew-whisper-turbo", 64, 2
MICRO, ACCUMULATE, WEIGHT_DECAY, IGNORED = 16, 2, 0.05, -100  # of ivrit.ai's script
EVERYTHING = dict.fromkeys(
    ("encoder.conv", "encoder.layers", "encoder.norm", "embeddings", "decoder.positions", "cross_attention",
     "decoder.layers", "decoder.norm"), 1e-5,
)  # fmt: skip
# Ids of special tokens of large-v3 and turbo, in the order of a prompt in Hebrew; the last is the end of a text.
IDS = {"<|startoftranscript|>": 50258, "<|he|>": 50279, "<|transcribe|>": 50360, "<|notimestamps|>": 50364}
END = 50257
FRAME = TranscriptionFrame(prompt=list(IDS.values()), end_id=END)
FULL_LABELS = 150
NEW_TOKENS = 40
LOGITS = {torch.float32: 1e-4, torch.bfloat16: 0.05}


@dataclass(frozen=True)
class Work:
    """Batches of utterances as sizes, and the seconds of speech in each."""

    batches: list[list[Sizes]]
    seconds: list[float]


def clips(size: int, num: int = NUM_BATCHES) -> Work:
    sizes = assumed_sizes(FAMILY, num * size, seed=1)
    batches = [sizes[at : at + size] for at in range(0, len(sizes), size)]
    spoken = [(sum(labels for *_, labels in batch) - size) / FAMILY.text_tokens_per_s for batch in batches]
    return Work(batches, spoken)


def slices(size: int) -> Work:
    one = (len(FRAME.prompt) + WINDOW_STATES + FULL_LABELS - 1, WINDOW_FRAMES, FULL_LABELS)
    return Work([[one] * size] * NUM_BATCHES, [30.0 * size] * NUM_BATCHES)


def new_model(device: torch.device, tiny: bool, dtype: torch.dtype = torch.bfloat16) -> WhisperForConditionalGeneration:
    """Random weights, made on the device."""
    sizes = USUAL[STANDARD].model_dump()
    if tiny:
        sizes |= {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
                  "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}  # fmt: skip
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            config = WhisperConfig(**sizes, eos_token_id=END, pad_token_id=END)
            return WhisperForConditionalGeneration(config).train()
    finally:
        torch.set_default_dtype(default)


def texts_of(sizes: Sequence[Sizes], seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, END, labels - 1).tolist() for *_, labels in sizes]


def features_of(model: WhisperForConditionalGeneration, num: int, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(num, model.config.num_mel_bins, WINDOW_FRAMES, device=model.device)


def new_pack(model: WhisperForConditionalGeneration, sizes: Sequence[Sizes], seed: int, cached: bool = False) -> Pack:
    """Random audio and text; `cached` gives encoder states in place of features."""
    pack = lay_out(FRAME, texts_of(sizes, seed), [frames for _, frames, _ in sizes]).to(model.device)
    assert pack.num_tokens == sum(tokens for tokens, *_ in sizes)
    if cached:
        states = torch.randn(len(sizes) * WINDOW_STATES, model.config.d_model, device=model.device)
        return replace(pack, encoded=states.to(model.dtype))
    return replace(pack, features=features_of(model, len(sizes), seed))


def padded(model: WhisperForConditionalGeneration, sizes: Sequence[Sizes], seed: int) -> dict[str, Tensor]:
    """A batch as ivrit.ai's collator makes it: of the prompt the first token alone has no label."""
    texts = [[*FRAME.prompt, *text, END] for text in texts_of(sizes, seed)]
    rows = torch.full((len(texts), max(map(len, texts))), IGNORED)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    rows = rows.to(model.device)
    ids = rows.masked_fill(rows == IGNORED, END)[:, :-1].contiguous()
    return {"input_features": features_of(model, len(sizes), seed), "decoder_input_ids": ids, "labels": rows[:, 1:]}


class Speed:
    """The device, its ceiling, and what a variant needs to be measured."""

    def __init__(self, args: argparse.Namespace, report: Report) -> None:
        self.args, self.device, self.report = args, best_device(), report
        self.ceiling = matmul_ceiling_tflops(self.device, 512 if args.tiny else 8192)
        report.add(**machine(), matmul_ceiling_tflops=round(self.ceiling, 1))
        self.size = 4 if args.tiny else UTTERANCES

    def stepper(self, phase: str, fuse: bool = True) -> Stepper:
        config = load_recipe(RECIPE).train
        every = PhaseConfig(name="all", num_epochs=1, lr_by_part=EVERYTHING)
        chosen = every if phase == "all" else next(p for p in config.phases if p.name == phase)
        if self.args.tiny:
            rates = {part.split("[")[0]: lr for part, lr in chosen.lr_by_part.items()}
            chosen = chosen.model_copy(update={"lr_by_part": rates})
        return Stepper(new_model(self.device, self.args.tiny), config, chosen, fuse=fuse)

    def steps(self, stepper: Stepper, work: Work, cached: bool) -> list[list[list[Sizes]]]:
        """The packs of each batch, as long as fit."""
        tokens = PACK_TOKENS
        if self.device.type == "cuda":
            budget = self.args.filled * torch.cuda.get_device_properties(self.device).total_memory
            sizes = [size for batch in work.batches for size in batch]
            tokens = stepper.memory(cached).largest_pack_tokens(sizes, len(work.batches[0]), budget)
        return [
            [[batch[u] for u in pack] for pack in packs_of(range(len(batch)), [size[0] for size in batch], tokens)]
            for batch in work.batches
        ]

    def ours(self, phase: str, work: Work, cached: bool = False, fuse: bool = True) -> dict:
        stepper = self.stepper(phase, fuse)
        sizes = self.steps(stepper, work, cached)
        steps = [[new_pack(stepper.model, pack, n, cached) for n, pack in enumerate(step)] for step in sizes]
        times = timed(lambda n: stepper(steps[n % len(steps)]), warm_up=2, seconds=self.args.seconds)
        found = self.figures(times, work, [stepper.operations(batch, cached) for batch in work.batches])
        free()
        stepper(steps[0])
        largest = max(sizes[0], key=lambda pack: sum(size[0] for size in pack))
        planned = stepper.memory(cached).peak(stepper.cost.size_of(largest), several=len(steps[0]) > 1)
        found |= {"windows_a_pack": len(largest), "packs_a_step": len(sizes[0]), "host_waited_s": stepper.waited_s}
        found |= {"planned_gib": round(sum(planned.values()) / GIB, 2)}
        if self.device.type == "cuda":  # the plan counts what the pack under way brings, not the others
            others = sum(bytes_of(pack) for step in steps for pack in step) - max(map(bytes_of, steps[0]))
            measured = torch.cuda.max_memory_allocated() - others
            found |= {"measured_gib": round(measured / GIB, 2)}
            found |= {"plan_error_pct": round(100 * (sum(planned.values()) / measured - 1), 1)}
        return found

    def theirs(self, micro: int, accumulate: int) -> dict:
        micro = min(micro, self.size)
        work = clips(micro * accumulate)
        model = new_model(self.device, self.args.tiny, torch.float32)
        groups = enter_phase(model, PhaseConfig(name="all", num_epochs=1, lr_by_part=EVERYTHING))
        weights = [weight for group in groups.values() for weight in group.values()]
        names = [name for group in groups.values() for name in group]
        optimizer = torch.optim.AdamW(weights, lr=1e-5, weight_decay=WEIGHT_DECAY, fused=True)
        steps = [
            [padded(model, batch[at : at + micro], at) for at in range(0, len(batch), micro)] for batch in work.batches
        ]

        def step(number: int) -> float:
            batches, total = steps[number % len(steps)], torch.zeros((), device=self.device)
            num_labels = sum((batch["labels"] != IGNORED).sum() for batch in batches)
            for batch in batches:
                inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
                with torch.autocast(self.device.type, torch.bfloat16):
                    logits = model(**inputs, use_cache=False).logits.float()  # accelerate hands out float32
                    loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
                (loss / num_labels).backward()
                total += loss.detach()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            return float(total)

        times = timed(step, warm_up=1, seconds=self.args.seconds)
        cost = FAMILY.cost(model, names, 4)
        operations = [cost.operations(cost.size_of(batch)) for batch in work.batches]
        return self.figures(times, work, operations) | {"windows_a_pack": micro, "packs_a_step": accumulate}

    def figures(self, times: list[float], work: Work, operations: list[int]) -> dict:
        at = [number % len(work.batches) for number in range(len(times))]
        tflops = sum(operations[n] for n in at) / sum(times) / 1e12
        return {
            "audio_s_per_s": round(sum(work.seconds[n] for n in at) / sum(times), 1),
            "utterances_per_s": round(sum(len(work.batches[n]) for n in at) / sum(times), 2),
            "step_s": round(float(np.median(times)), 4), "steps": len(times), "peak_gib": peak_gib(),
            "tflops": round(tflops, 1), "of_ceiling_pct": round(100 * tflops / self.ceiling, 1),
        }  # fmt: skip

    @torch.no_grad()
    def logits(self) -> dict:
        """Ours, fused, beside transformers', on one batch: largest differences relative to the largest logit."""
        (batch,), found = clips(4, 1).batches, {}
        exact = new_model(self.device, self.args.tiny, torch.float32).eval()
        given = padded(exact, batch, 0)
        keep = given.pop("labels")[:, len(FRAME.prompt) - 1 :] != IGNORED  # ours are those of text and end
        expected = exact(**given, use_cache=False).logits[:, len(FRAME.prompt) - 1 :][keep]
        for dtype in (torch.float32, torch.bfloat16):
            model = exact.to(dtype)
            inputs = given | {"input_features": given["input_features"].to(dtype)}
            theirs = model(**inputs, use_cache=False).logits[:, len(FRAME.prompt) - 1 :][keep]
            FAMILY.fuse(model)
            with packed_attention(model):
                ours = head(model)(hidden(model, new_pack(model, batch, 0)))
            differ = lambda a, b: ((a.float() - b.float()).abs().max() / expected.abs().max()).item()  # noqa: E731
            name = str(dtype).removeprefix("torch.")
            found |= {f"ours_and_theirs_{name}": differ(ours, theirs)}
            found |= {f"{of}_{name}_and_float32": differ(x, expected) for of, x in (("ours", ours), ("their", theirs))}
            found |= {f"equal_{name}": differ(ours, theirs) < LOGITS[dtype]}
        return found

    @torch.inference_mode()
    def decoding(self, num: int, batch: int) -> dict:
        """Clips from samples to tokens: greedy here, and transformers' `generate` on the same features."""
        num, batch = (6, 3) if self.args.tiny else (num, batch)
        model = new_model(self.device, self.args.tiny).eval()
        FAMILY.fuse(model)
        rng = np.random.default_rng(0)
        noise = [(0.1 * rng.standard_normal(round(16000 * s))).astype(np.float32) for s in rng.uniform(1, 10.6, num)]
        extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
        loaded = LoadedModel(model, Tokens(), extractor, Path(), "")
        decoder = FAMILY.decoder(loaded, Decoding(prompt=Prompt("Hebrew")))
        limits, never = [NEW_TOKENS] * num, lambda place, ids: False

        def ours() -> list[list[int]]:
            return [one.ids for one in sorted(decoder.decode(noise, limits, never), key=lambda one: one.place)]

        features = LogMel(extractor, self.device)

        def theirs() -> list[list[int]]:
            written = []
            for at in range(0, num, batch):
                some = features(lay_samples(noise[at : at + batch], num_bins=features.num_bins)).to(model.dtype)
                prompt = torch.tensor([FRAME.prompt] * len(some), device=self.device)
                ids = GenerationMixin.generate(
                    model, some, decoder_input_ids=prompt, do_sample=False, max_new_tokens=NEW_TOKENS,
                    eos_token_id=END, pad_token_id=END,
                )  # fmt: skip
                written += ids[:, prompt.shape[1] :].tolist()
            return written

        found = {}
        for name, decode in (("ours", ours), ("theirs", theirs)):
            decode()  # makes graphs, loads kernels
            synchronize()
            began = time.perf_counter()
            found[name] = decode()
            synchronize()
            found[f"{name}_clips_per_s"] = round(num / (time.perf_counter() - began), 1)
        pairs = list(zip(found.pop("ours"), found.pop("theirs"), strict=True))
        same = sum(a == b[: len(a)] for a, b in pairs) / num
        return found | {"batch": batch, "tokens": NEW_TOKENS, "same_texts": round(same, 3)}

    def attention(self) -> dict:
        """TFLOP/s of the encoder's attention forward, and forward and backward, by what computes it."""
        windows, heads, length = (1, 2, 100) if self.args.tiny else (16, 20, WINDOW_STATES)
        joined = torch.randn(windows, length, 3, heads, 64, device=self.device, dtype=torch.bfloat16)
        leaves = [x.detach().requires_grad_() for x in joined.unbind(2)]  # side by side, as one product makes them
        cu = torch.arange(windows + 1, dtype=torch.int32, device=self.device) * length

        def dense() -> Tensor:
            return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in leaves)).transpose(1, 2)

        def packed() -> Tensor:
            return attend(*(x.flatten(0, 1) for x in leaves), cu, length, causal=False, scaling=0.125)

        found, operations = {}, 4 * windows * heads * length**2 * 64 / 1e12
        kinds = [("default", dense, nullcontext()), ("packed", packed, nullcontext())]
        if self.device.type == "cuda":
            backends = (("flash", SDPBackend.FLASH_ATTENTION), ("cudnn", SDPBackend.CUDNN_ATTENTION))
            kinds += [(name, dense, sdpa_kernel(backend)) for name, backend in backends]
        for name, run, context in kinds:
            with context:
                dout = torch.randn_like(run())
                found[f"{name}_forward_tflops"] = round(operations / mean_s(run), 1)
                both_s = mean_s(lambda: torch.autograd.grad(run(), leaves, dout))  # noqa: B023
                found[f"{name}_both_tflops"] = round(3 * operations / both_s, 1)
        return found

    def profile(self) -> dict:
        """Kernels of a step on full slices by their time, in a file beside the report."""
        stepper = self.stepper("all")
        pack = new_pack(stepper.model, slices(min(16, self.size)).batches[0], seed=0)
        for _ in range(2):
            stepper([pack])
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
        with profile(activities=kinds) as profiled:
            stepper([pack])
            synchronize()
        order = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        table = profiled.key_averages().table(sort_by=order, row_limit=45, max_name_column_width=80)
        path = (self.args.out or Path("whisper_speed.json")).with_suffix(".profile.txt")
        path.write_text(table)
        return {"written": str(path)}


def mean_s(run: Callable[[], object], num: int = 20) -> float:
    """Seconds of one run of several that the device gets at once."""
    for _ in range(3):
        run()
    synchronize()
    began = time.perf_counter()
    for _ in range(num):
        run()
    synchronize()
    return (time.perf_counter() - began) / num


class Tokens:
    """What a prompt asks a tokenizer for."""

    unk_token_id = END

    def convert_tokens_to_ids(self, token: str) -> int:
        return IDS.get(token, END)


VARIANTS: dict[str, Callable[[Speed], dict]] = {
    "logits": lambda s: s.logits(),
    "attention": lambda s: s.attention(),
    "ours: everything, full slices": lambda s: s.ours("all", slices(s.size)),
    "ours: everything, clips": lambda s: s.ours("all", clips(s.size)),
    "theirs: everything, clips": lambda s: s.theirs(MICRO, ACCUMULATE),
    "ours: phase B, clips": lambda s: s.ours("B", clips(s.size)),
    "ours: phase A, clips": lambda s: s.ours("A", clips(s.size)),
    "ours: phase B, clips, encoder cached": lambda s: s.ours("B", clips(4 * s.size), cached=True),
    "decoding": lambda s: s.decoding(256, 64),
    "plain layers: everything, full slices": lambda s: s.ours("all", slices(s.size), fuse=False),
    "profile": lambda s: s.profile(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="timed, a variant")
    parser.add_argument("--filled", type=float, default=0.95, help="share of the GPU's memory that a pack may fill")
    parser.add_argument("--only", nargs="+", default=[""], help="variants whose names contain one of these")
    parser.add_argument("--until", type=float, default=180.0, help="seconds after which no variant begins")
    parser.add_argument("--tiny", action="store_true", help="small weights, to try it without a GPU")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began, report = time.perf_counter(), Report(args.out)
    torch.backends.cudnn.allow_tf32 = False  # the logits of float32 are to be those of float32
    speed, rates = Speed(args, report), {}
    for name, variant in VARIANTS.items():
        if not any(part in name for part in args.only) or time.perf_counter() - began > args.until:
            continue
        free()
        started = time.perf_counter()
        try:
            result = variant(speed)
        except Exception as error:  # one variant's failure is a row of the report, and the others still run
            result = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
        rates[name] = result.get("utterances_per_s")
        report.add(variant=name, **result, took_s=round(time.perf_counter() - started, 1))
    if theirs := rates.get("theirs: everything, clips"):
        ours = {name: rate for name, rate in rates.items() if rate and "clips" in name and name.startswith("ours")}
        report.add(times_theirs={name: round(rate / theirs, 2) for name, rate in ours.items()})


if __name__ == "__main__":
    main()
