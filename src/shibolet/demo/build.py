"""Training the tiny checkpoints from nothing: `shibolet demo build`, by the loop and the optimizer of `train`.

Round 1 learns to transcribe and the aligner to align, each with an auxiliary CTC loss on the encoder that starts
learning early and falls to nothing; the CTC recogniser learns letters.

The shipped files were made before the builder used this loop: by one of its own, with float32 weights under autocast,
weight decay on norms and biases too, a cosine to 2% of the peak rate, clips of like length in a batch, and the steps
that a limit of minutes left. `SETTINGS` has the numbers of steps that came of it, and each `build.json` the rest.
"""

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Qwen3ASRFeatureExtractor

from shibolet.demo import tiny
from shibolet.demo.clips import Clip, make_features, read_clips
from shibolet.demo.corpus import round1_requests
from shibolet.demo.objectives import Ctc, EncoderLetters, PaddedClips, letter_ids
from shibolet.demo.reader import ClipReader, Collate, padded_clips
from shibolet.demo.synth import synthesise
from shibolet.model.family import LoadedModel
from shibolet.model.parts import freeze_all_but
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.model.qwen3_asr.packed import Pack, build_pack
from shibolet.model.qwen3_asr.prompt import IGNORED, AlignmentPrompt, TranscriptionPrompt
from shibolet.records.documents.training import StepRow
from shibolet.records.files import hash_json, write_json
from shibolet.records.utterance import AudioRef
from shibolet.tracking.trackers import Trackers
from shibolet.train.checkpoint import CheckpointStore, load_weights
from shibolet.train.config import OptimizerConfig, PhaseConfig, TrainConfig
from shibolet.train.data import TrainExample
from shibolet.train.ladder import MemoryLadder
from shibolet.train.objective import Objective
from shibolet.train.objectives.align import Align
from shibolet.train.objectives.mixture import Mixture, Term
from shibolet.train.objectives.transcribe import Transcribe
from shibolet.train.packing import steps_per_epoch
from shibolet.train.phases import Groups
from shibolet.train.ranks import join_ranks
from shibolet.train.records import Records
from shibolet.train.trainer import GradualUnfreezeTrainer

LANGUAGE = "Hebrew"
PACK_TOKENS = 1 << 16  # a step is one pack, unless memory does not hold it
SHOWN_EVERY_STEPS = CHECKPOINT_EVERY_STEPS = 250


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """One training from nothing; the values are those of the shipped files."""

    name: str  # round1, aligner, ctc
    num_utterances: int  # of speech that is made
    num_steps: int
    batch: int = 128
    peak_lr: float = 1.5e-3  # after a linear warm-up; a cosine to 0 follows
    warmup_steps: int = 400
    letters_weight: float = 0.3  # of the auxiliary loss, falling to 0 at the end


SETTINGS = {
    "round1": BuildSettings(name="round1", num_utterances=28_000, num_steps=3885),
    "aligner": BuildSettings(name="aligner", num_utterances=36_000, num_steps=4668),
    "ctc": BuildSettings(name="ctc", num_utterances=36_000, num_steps=5285),
}


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained, on what, and for what."""

    model: nn.Module
    objective: Objective
    examples: list[TrainExample]
    collate: Collate
    save: Callable[[Path], None]  # the model, trained and on the CPU


def _examples(clips: Mapping[str, Clip], frames_per_s: int) -> list[TrainExample]:
    """An example of each clip, its tokens and targets not yet counted."""
    return [
        TrainExample(
            id=id_, audio=AudioRef(path=id_), text=" ".join(clip.words), text_ids=array("i"),
            duration_s=clip.features.shape[1] / frames_per_s, num_frames=clip.features.shape[1], num_tokens=0,
            num_targets=0, family=FAMILY,
        )
        for id_, clip in clips.items()
    ]  # fmt: skip


def _with_letters(name: str, main: Objective, weight: float) -> Mixture:
    letters = Term("letters", EncoderLetters(), lambda progress: weight * (1 - progress))
    return Mixture(FAMILY, [Term(name, main, lambda _: 1.0), letters])


def qwen_task(settings: BuildSettings, clips: Mapping[str, Clip], seed: int, device: torch.device) -> Task:
    """Round 1 or the aligner."""
    examples, transcribes = _examples(clips, frames_per_s=100), settings.name == "round1"
    tokenizer = tiny.train_tokenizer(sorted({example.text for example in examples}))
    nums_audio = [FAMILY.num_audio_tokens(example.num_frames) for example in examples]
    if transcribes:
        model, prompt = tiny.new_recogniser(tokenizer, seed), TranscriptionPrompt(tokenizer, LANGUAGE)
        objective = _with_letters("transcribe", Transcribe(FAMILY), settings.letters_weight)
        sequences = prompt.examples(nums_audio, [example.text for example in examples])
    else:
        model, prompt = tiny.new_aligner(tokenizer, seed), AlignmentPrompt(tokenizer)
        align = Align(FAMILY, lambda example: clips[example.id].times, tiny.NUM_TIME_CLASSES)
        objective = _with_letters("align", align, settings.letters_weight)
        classes = [align.needs(example)["classes"] for example in examples]
        sequences = prompt.examples(nums_audio, [list(clip.words) for clip in clips.values()], classes)
    sequence_of = dict(zip(clips, sequences, strict=True))
    EncoderLetters.add_head(model)

    def collate(chosen: Sequence[TrainExample], features: Sequence[Tensor]) -> Pack:
        pack = build_pack([sequence_of[e.id] for e in chosen], features, prompt.audio_id, shift=transcribes)
        return replace(pack.to(device), extras=tuple(map(objective.needs, chosen)))

    def save(path: Path) -> None:
        EncoderLetters.drop_head(model)
        FAMILY.save(LoadedModel(model, tokenizer, Qwen3ASRFeatureExtractor(), path, ""), path)

    counted = [
        replace(e, num_tokens=len(s.input_ids), num_targets=sum(label != IGNORED for label in s.labels))
        for e, s in zip(examples, sequences, strict=True)
    ]
    return Task(model, objective, counted, collate, save)


def ctc_task(clips: Mapping[str, Clip], seed: int, device: torch.device) -> Task:
    """The recogniser of letters."""
    model, objective = tiny.new_ctc(seed), Ctc()
    examples = [
        replace(example, num_tokens=example.num_frames, num_targets=len(letter_ids(example.text)))
        for example in _examples(clips, frames_per_s=50)
    ]

    def collate(chosen: Sequence[TrainExample], features: Sequence[Tensor]) -> list[PaddedClips]:
        return padded_clips(features, [letter_ids(e.text) for e in chosen], device)

    def save(path: Path) -> None:
        tiny.ctc_processor(path).save_pretrained(path)
        model.to(torch.bfloat16).save_pretrained(path)

    return Task(model, objective, examples, collate, save)


def thaw_all(model: nn.Module, phase: PhaseConfig) -> Groups:
    """Every parameter but the one that transformers' own SpecAugment would use, which is off."""
    weights = {name: w for name, w in model.named_parameters() if not name.endswith("masked_spec_embed")}
    groups = {"all": weights}
    freeze_all_but(model, groups)
    return groups


def train_config(settings: BuildSettings, num_clips: int, device: torch.device) -> TrainConfig:
    per_epoch = steps_per_epoch(num_clips, settings.batch)
    phase = PhaseConfig(
        name=settings.name, num_epochs=settings.num_steps / per_epoch, lr_by_part={"all": settings.peak_lr},
        warmup_steps=settings.warmup_steps, schedule="cosine",
    )  # fmt: skip
    return TrainConfig(
        phases=(phase,), untie_head=False, lora=None, utterances_per_step=settings.batch, pack_tokens=PACK_TOKENS,
        optimizer=OptimizerConfig(betas=(0.9, 0.98), weight_decay=0.02),
        precision="bf16" if device.type == "cuda" else "fp32", checkpoint_every_steps=CHECKPOINT_EVERY_STEPS,
    )  # fmt: skip


def train_from_nothing(settings: BuildSettings, clips: Sequence[Clip], out_dir: Path, seed: int) -> Task:
    """Train, or go on training, on the GPU if there is one; `out_dir` has the metrics and checkpoints.

    The model that comes back is float32, on the CPU.
    """
    ranks = join_ranks()
    by_id = {f"{settings.name}-{number:06d}": clip for number, clip in enumerate(clips)}
    task = (
        ctc_task(by_id, seed, ranks.device)
        if settings.name == "ctc"
        else qwen_task(settings, by_id, seed, ranks.device)
    )
    model, examples = task.model, task.examples
    config = train_config(settings, len(examples), ranks.device)
    model.to(ranks.device, torch.bfloat16 if config.precision == "bf16" else torch.float32)
    fingerprint = {
        "training data": hash_json([[e.id, e.text, e.num_frames] for e in examples]),
        "settings": hash_json(asdict(settings)),
        "seed": str(seed),
    }
    store = CheckpointStore(out_dir / "checkpoints")
    trainer = GradualUnfreezeTrainer(
        model=model, thaw=partial(thaw_all, model), objective_of=lambda phase: task.objective,
        checkpoint_activations=partial(FAMILY.checkpoint_activations, model),
        reader=ClipReader(by_id, task.collate, seed), examples=examples, ledger=[],
        new_ladder=partial(MemoryLadder, config, examples, 0), config=config, seed=seed, fingerprint=fingerprint,
        last_phase=0, store=store, score_dev=None, release_dev=lambda: False,
        release_launches=lambda for_good: False,
        ranks=ranks, on_step=_show,
        records=Records(out_dir, Trackers, hash_json(fingerprint), is_main=ranks.is_main_process),
    )  # fmt: skip
    state = trainer.train()
    model.eval().cpu().float()
    load_weights(model, store.at(state.step).weights())
    return task


def _show(row: StepRow) -> None:
    if row.step % SHOWN_EVERY_STEPS == 0:
        numbers = {"loss": row.loss, **row.numbers}
        print(f"step {row.step}", *(f"{name} {value:.3f}" for name, value in numbers.items()), flush=True)


def build(settings: BuildSettings, out_dir: Path, work_dir: Path, *, seed: int, num_workers: int) -> dict:
    """Train one checkpoint from nothing and write it with a record of how; the record is returned."""
    name = settings.name
    synthesise(round1_requests(seed, settings.num_utterances), work_dir / "speech", num_workers)
    shards = sorted((work_dir / "speech").glob("speech-*.npz"))  # named by content: a fixed order
    make_features(shards, work_dir / "clips", seed, num_workers)
    clips = read_clips(work_dir / "clips", name)
    task = train_from_nothing(settings, clips, work_dir / f"train-{name}", seed)
    rows = StepRow.read_all(work_dir / f"train-{name}" / "metrics.jsonl")
    task.save(out_dir / name)
    on_gpu = torch.cuda.is_available()
    record = {
        "settings": asdict(settings), "num_clips": len(clips), "seed": seed,
        "hours": round(sum(example.duration_s for example in task.examples) / 3600, 2),
        "parameters": sum(p.numel() for p in task.model.parameters()), "steps": len(rows),
        "seconds": round(sum(row.timing.step_s for row in rows)), "final_loss": rows[-1].loss,
        "torch": torch.__version__, "device": torch.cuda.get_device_name() if on_gpu else "cpu",
    }  # fmt: skip
    write_json(out_dir / name / "build.json", record)
    print(json.dumps(record))
    return record
