"""Training the tiny checkpoints from nothing: `shibolet demo build`.

Round 1 hears clean speech only; the forced aligner and the CTC recogniser, which listen, hear rooms, noise, Opus and
overloaded inputs too. The loss for Round 1 and the aligner has an auxiliary CTC term on the encoder that starts
learning early; its head is thrown away.
"""

import json
import math
import multiprocessing
import pickle
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen2Tokenizer, Qwen3ASRFeatureExtractor

from shibolet.demo import tiny
from shibolet.demo.channel import ChannelConfig, clean, whatsapp
from shibolet.demo.corpus import round1_requests
from shibolet.demo.synth import Speech, read_shard, synthesise
from shibolet.model.qwen3_asr.features import log_mel, num_audio_tokens
from shibolet.model.qwen3_asr.load import LoadedModel
from shibolet.model.qwen3_asr.packed import Pack, build_pack, decode_pack, encoder_states, output_head, packed_attention
from shibolet.model.qwen3_asr.prompt import AlignmentPrompt, TranscriptionPrompt
from shibolet.model.qwen3_asr.save import save_model
from shibolet.records.files import write_bytes, write_json
from shibolet.speech.augment import band_limit, clip_loudest, reverberate

CLASS_S = 0.08
# Clean speech in many rooms and through many microphones: no codec, no telephone band, little noise.
ROUND1_ROOMS = ChannelConfig(clean_snr_db=(18.0, 50.0), clean_gain_db=(-6.0, 6.0))
NOISY_FRAC = 0.6  # of the listeners' clips go through the channel
REVERB_FRAC, RT60_S = 0.4, (0.1, 0.8)  # were spoken in a room that long
OVERLOAD_FRAC, CLIPPED = 0.2, (0.001, 0.08)  # have that share of their samples cut off
LANGUAGE = "Hebrew"
# Wider than the demo's own: a listener that has not heard a condition condemns good clips in it.
LISTENERS_CHANNEL = ChannelConfig(snr_db=(0.0, 25.0), bitrates_bps=(6000, 8000, 10000, 12000, 16000, 24000))


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """One training from nothing; the values are those of the shipped files."""

    name: str  # round1, aligner, ctc
    num_utterances: int  # of speech that is made
    num_steps: int
    batch: int = 128
    peak_lr: float = 1.5e-3
    warmup_steps: int = 400
    ctc_weight: float = 0.3  # of the auxiliary loss, falling to 0 at the end
    max_minutes: float | None = None  # the schedule is shortened to end in time


SETTINGS = {
    "round1": BuildSettings(name="round1", num_utterances=28_000, num_steps=3885),
    "aligner": BuildSettings(name="aligner", num_utterances=36_000, num_steps=4668),
    "ctc": BuildSettings(name="ctc", num_utterances=36_000, num_steps=5285),
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A training clip: features ready for its model, the words, and their times."""

    features: np.ndarray  # float16, log-mel [F, M] (Qwen3) or [frames, 160] (CTC)
    words: tuple[str, ...]
    times: tuple[tuple[float, float], ...]  # seconds


def make_features(shards: list[Path], out_dir: Path, seed: int, num_workers: int) -> None:
    """Features of every shard of speech for all three models, one file a shard; a file that exists is kept."""
    jobs = [(shard, out_dir / f"{index:05d}.pickle", index, seed) for index, shard in enumerate(shards)]
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(_make_shard, [job for job in jobs if not job[1].exists()]):
            pass


def _make_shard(job: tuple[Path, Path, int, int]) -> None:
    shard, path, index, seed = job
    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, index])
    mel, stacked = Qwen3ASRFeatureExtractor(), tiny.SeamlessM4TFeatureExtractor()
    clips: dict[str, list[Clip]] = {name: [] for name in SETTINGS}
    for samples, words, times in _join(read_shard(shard), 3, rng):
        audio = clean(samples, rng, ROUND1_ROOMS)
        if rng.random() < 0.5:
            audio = band_limit(audio, rng.uniform(20, 150), rng.uniform(4500, 7800))
        clips["round1"].append(Clip(log_mel(audio, mel).numpy().astype(np.float16), words, times))
    for samples, words, times in _join(read_shard(shard), 8, rng):
        audio = for_listeners(samples, rng)
        clips["aligner"].append(Clip(log_mel(audio, mel).numpy().astype(np.float16), words, times))
        features = stacked(audio, sampling_rate=16000, return_tensors="np")["input_features"][0]
        clips["ctc"].append(Clip(features.astype(np.float16), words, times))
    write_bytes(path, pickle.dumps(clips))


def for_listeners(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech as a listener has to bear it: in a room, through a channel, into an overloaded input; same length."""
    if rng.random() < REVERB_FRAC:
        samples = reverberate(samples, rng.uniform(*RT60_S), rng)
    noisy = rng.random() < NOISY_FRAC
    samples = whatsapp(samples, rng, LISTENERS_CHANNEL) if noisy else clean(samples, rng)
    return clip_loudest(samples, rng.uniform(*CLIPPED)) if rng.random() < OVERLOAD_FRAC else samples


def _join(speeches: list[Speech], most: int, rng: np.random.Generator) -> Iterator[tuple]:
    """Samples, words and their times: one sentence in nine cases of ten, else up to `most` in a row, with pauses."""
    position = 0
    while position < len(speeches):
        take = 1 if rng.random() > 0.1 else int(rng.integers(2, most + 1))
        chosen, position = speeches[position : position + take], position + take
        pieces, words, times, at = [], [], [], 0
        for speech in chosen:
            lead = np.zeros(int(16000 * rng.uniform(0.02, 0.5)), np.float32)
            at += len(lead)
            pieces += [lead, speech.samples]
            words += [said.word for said in speech.words]
            times += [(at / 16000 + said.start_s, at / 16000 + said.end_s) for said in speech.words]
            at += len(speech.samples)
        pieces.append(np.zeros(int(16000 * rng.uniform(0.02, 0.5)), np.float32))
        yield np.concatenate(pieces), tuple(words), tuple(times)


def learning_rate(progress: float, step: int, settings: BuildSettings) -> float:
    """Linear warm-up, then a cosine to 2% of the peak; `progress` runs from 0 to 1."""
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    return settings.peak_lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def mask_features(features: Tensor, rng: random.Random) -> Tensor:
    """SpecAugment on `[F, M]`: two bands of up to a sixth of the bins and one stretch of frames, at the mean."""
    mean = features.mean()
    for _ in range(2):
        width = rng.randint(0, features.shape[0] // 6)
        start = rng.randint(0, features.shape[0] - width)
        features[start : start + width] = mean
    width = rng.randint(0, min(12, features.shape[1]))
    start = rng.randint(0, features.shape[1] - width)
    features[:, start : start + width] = mean
    return features


class Batches(Dataset):
    """One batch a step, collated by the task; every clip once an epoch, clips of like length together."""

    def __init__(self, clips: list[Clip], task, settings: BuildSettings, seed: int) -> None:
        self._clips, self._task, self._seed = clips, task, seed
        rng, size = random.Random(seed), min(settings.batch, len(clips))
        self._steps: list[list[int]] = []
        while len(self._steps) < settings.num_steps:
            order = rng.sample(range(len(clips)), len(clips))
            epoch: list[list[int]] = []
            for first in range(0, len(order), 8 * size):
                pool = sorted(order[first : first + 8 * size], key=lambda i: len(clips[i].words))
                epoch += [pool[i : i + size] for i in range(0, len(pool) - size + 1, size)]
            self._steps += rng.sample(epoch, len(epoch))

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: int):
        return self._task.collate([self._clips[i] for i in self._steps[step]], random.Random(f"{self._seed} {step}"))


class LetterHead(nn.Module):
    """Auxiliary CTC on encoder tokens: two emissions a token, since Hebrew has more letters a second than tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * (len(tiny.LETTERS) + 2))

    def forward(self, hidden: Tensor, lengths: list[int], texts: list[str]) -> Tensor:
        logp = self.linear(hidden).float().view(-1, len(tiny.LETTERS) + 2).log_softmax(-1)
        rows = nn.utils.rnn.pad_sequence(logp.split([2 * n for n in lengths]))
        targets = [letter_ids(text) for text in texts]
        return F.ctc_loss(
            rows, torch.tensor([i for t in targets for i in t], device=rows.device),
            torch.tensor([2 * n for n in lengths]), torch.tensor([len(t) for t in targets]), zero_infinity=True,
        )  # fmt: skip


def letter_ids(text: str) -> list[int]:
    """Ids of the CTC alphabet: 1 the space, 2 on the letters."""
    return [1 if c == " " else tiny.LETTERS.index(c) + 2 for c in text if c == " " or c in tiny.LETTERS]


def time_classes(times: tuple[tuple[float, float], ...]) -> list[int]:
    return [min(tiny.NUM_TIME_CLASSES - 1, round(t / CLASS_S)) for span in times for t in span]


class QwenTask:
    """Round 1 or the aligner: packs, the main loss, the auxiliary loss."""

    def __init__(self, kind: str, tokenizer: Qwen2Tokenizer, seed: int, device: str) -> None:
        self.kind = kind
        self.model = (tiny.new_recogniser if kind == "round1" else tiny.new_aligner)(tokenizer, seed).to(device)
        self._head = LetterHead(self.model.config.audio_config.d_model).to(device)
        self._prompt = TranscriptionPrompt(tokenizer, LANGUAGE) if kind == "round1" else AlignmentPrompt(tokenizer)

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self._head.parameters()]

    def collate(self, clips: list[Clip], rng: random.Random) -> tuple[Pack, list[int], list[str]]:
        mels = [mask_features(torch.from_numpy(clip.features).float(), rng) for clip in clips]
        lengths = [num_audio_tokens(mel.shape[1]) for mel in mels]
        texts = [" ".join(clip.words) for clip in clips]
        sequences = [
            self._prompt.example(n, text)
            if self.kind == "round1"
            else self._prompt.example(n, list(clip.words), time_classes(clip.times))
            for n, clip, text in zip(lengths, clips, texts, strict=True)
        ]
        return build_pack(sequences, mels, self._prompt.audio_id, shift=self.kind == "round1"), lengths, texts

    def losses(self, batch: tuple[Pack, list[int], list[str]]) -> tuple[Tensor, Tensor]:
        pack, lengths, texts = batch
        pack = pack.to(self.model.device)
        with packed_attention(self.model):
            encoded = encoder_states(self.model, pack)
            logits = output_head(self.model)(decode_pack(self.model, replace(pack, encoded=encoded))).float()
        main = F.cross_entropy(logits, pack.labels)
        if self.kind != "round1":  # a time one class off is nearly right
            beside = [(pack.labels + shift).clamp(0, tiny.NUM_TIME_CLASSES - 1) for shift in (-1, 1)]
            main = 0.8 * main + 0.1 * sum(F.cross_entropy(logits, labels) for labels in beside)
        return main, self._head(self.model.model.audio_tower.ln_post(encoded), lengths, texts)


class CtcTask:
    """The letter recogniser."""

    def __init__(self, seed: int, device: str) -> None:
        self.model = tiny.new_ctc(seed).to(device)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def collate(self, clips: list[Clip], rng: random.Random) -> tuple[Tensor, Tensor, list[list[int]]]:
        rows = [mask_features(torch.from_numpy(clip.features).float().T, rng).T for clip in clips]
        lengths = torch.tensor([len(row) for row in rows])
        return (
            nn.utils.rnn.pad_sequence(rows, batch_first=True),
            lengths,
            [letter_ids(" ".join(c.words)) for c in clips],
        )

    def losses(self, batch: tuple[Tensor, Tensor, list[list[int]]]) -> tuple[Tensor, Tensor]:
        features, lengths, targets = batch
        mask = (torch.arange(features.shape[1])[None] < lengths[:, None]).long()
        logits = self.model(
            input_features=features.to(self.model.device), attention_mask=mask.to(self.model.device)
        ).logits
        loss = F.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),
            torch.tensor([i for t in targets for i in t], device=logits.device),
            lengths, torch.tensor([len(t) for t in targets]), zero_infinity=True,
        )  # fmt: skip
        return loss, torch.zeros((), device=logits.device)


def train_from_nothing(
    task: QwenTask | CtcTask, settings: BuildSettings, clips: list[Clip], seed: int, num_workers: int
) -> dict:
    """Run the schedule; returns what was done."""
    task.model.train()
    parameters = task.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.98), weight_decay=0.02)
    feed = DataLoader(
        Batches(clips, task, settings, seed), batch_size=None, num_workers=num_workers,
        multiprocessing_context="fork" if num_workers else None, prefetch_factor=6 if num_workers else None,
    )  # fmt: skip
    started, step, progress = time.monotonic(), 0, 0.0
    cuda = task.model.device.type == "cuda"
    for step, batch in enumerate(feed, start=1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, step, settings)
        with torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            main, auxiliary = task.losses(batch)
        loss = main + settings.ctc_weight * (1 - progress) * auxiliary
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress = step / settings.num_steps
        if settings.max_minutes:
            progress = max(progress, (time.monotonic() - started) / 60 / settings.max_minutes)
        if step % 250 == 0 or progress >= 1.0:
            seconds = time.monotonic() - started
            print(
                f"{settings.name} step {step} loss {main.item():.3f} aux {auxiliary.item():.3f} {seconds:.0f} s",
                flush=True,
            )
        if progress >= 1.0:
            break
    return {"steps": step, "seconds": round(time.monotonic() - started), "final_loss": round(main.item(), 4)}


def _read(path: Path) -> dict[str, list[Clip]]:
    return pickle.loads(path.read_bytes())  # written by make_features in this folder


def build(settings: BuildSettings, out_dir: Path, work_dir: Path, *, seed: int, device: str, num_workers: int) -> dict:
    """Train one checkpoint from nothing and write it with a record of how; the record is returned."""
    name = settings.name
    synthesise(round1_requests(seed, settings.num_utterances), work_dir / "speech", num_workers)
    shards = sorted((work_dir / "speech").glob("speech-*.npz"))  # named by content: a fixed order
    make_features(shards, work_dir / "features", seed, num_workers)
    clips = [clip for path in sorted((work_dir / "features").glob("*.pickle")) for clip in _read(path)[name]]
    texts = sorted({" ".join(clip.words) for clip in clips})
    if name == "ctc":
        task = CtcTask(seed, device)
    else:
        tokenizer = tiny.train_tokenizer(texts)
        task = QwenTask(name, tokenizer, seed, device)
    done = train_from_nothing(task, settings, clips, seed, num_workers)
    path = out_dir / name
    model = task.model.eval().cpu().float()
    if name == "ctc":
        processor = tiny.ctc_processor(work_dir / "vocab")
        processor.save_pretrained(path)
        model.to(torch.bfloat16).save_pretrained(path)
    else:
        save_model(LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), path, ""), path)
    record = {
        "settings": asdict(settings), "num_clips": len(clips), "seed": seed,
        "hours": round(sum(clip.features.shape[-1 if name != "ctc" else 0] for clip in clips)
                       / (360000 if name != "ctc" else 180000), 2),
        "parameters": sum(p.numel() for p in model.parameters()), **done,
        "torch": torch.__version__, "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
    }  # fmt: skip
    write_json(path / "build.json", record)
    print(json.dumps(record))
    return record
