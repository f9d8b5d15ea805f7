"""What a student's steps cost in the real sizes, 0.6B from 1.7B: plainly, by kept distributions, on its own texts.

    python benchmarks/student_speed.py --out student_speed.json --tokenizer FOLDER
    python benchmarks/student_speed.py --tiny --utterances 8 --seconds 1          a try without a GPU

Random weights, noise as FLAC with the lengths of speech, greedy texts as long as those of speech. A line of JSON each:

the teacher's pass   audio seconds a second, and the bytes that it keeps
a step               by each objective: audio seconds a second, and the peak of memory against the plan's
writing              the student's greedy texts by this project's decoder and by transformers' `generate`, both on the
                     same batches; then a whole on-policy step with the one and with the other
transcribing         teacher and student, the same clips and as many rows

The features of plain steps are made before the clock starts, as workers do in a training; an on-policy step decodes its
own audio.
"""

import argparse
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from audit_speed import write_clips
from real_size import Report, Stepper, best_device, bytes_of, free, machine, model_config, new_model, timed
from round_material import make_texts_end, make_words_likely
from transformers import AutoTokenizer, Qwen3ASRConfig, Qwen3ASRFeatureExtractor

from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import LoadedModel
from shibolet.model.folders import resolve
from shibolet.model.protocols import Draw, Prompt
from shibolet.model.qwen3_asr.decoding import Request, generate_padded
from shibolet.model.qwen3_asr.features import PackedLogMel
from shibolet.model.qwen3_asr.lengths import num_audio_tokens, num_mel_frames
from shibolet.model.qwen3_asr.packed import attention_as
from shibolet.model.qwen3_asr.prompt import AUDIO_TOKEN, END_OF_TURN
from shibolet.model.qwen3_asr.sizes import SMALL
from shibolet.recipe import load_recipe
from shibolet.speech.audio import SAMPLE_RATE_HZ, load
from shibolet.train.config import PhaseConfig
from shibolet.train.data import TrainExample
from shibolet.train.memory import GIB, PhaseMemory
from shibolet.train.objective import TrainStep
from shibolet.train.objectives.cost import passes_of
from shibolet.train.objectives.given import Given
from shibolet.train.objectives.own_texts import Writer, recorded
from shibolet.train.objectives.registry import OBJECTIVES
from shibolet.train.reader import PackReader
from shibolet.train.teacher import Teaching
from shibolet.train.update import Ran, update

LANGUAGE = "Hebrew"
NUM_STEPS = 4  # different ones, in turn


def made(tiny: bool, student: bool, tokenizer: Path | None, scratch: Path) -> LoadedModel:
    """A model whose greedy texts are as long as those of speech."""
    source = tokenizer or resolve("builtin:round1")
    words = AutoTokenizer.from_pretrained(source)
    sizes = Qwen3ASRConfig(**SMALL.model_dump(exclude={"model_type"})) if student and not tiny else model_config(tiny)
    if tiny:
        sizes.text_config.vocab_size, sizes.text_config.num_hidden_layers = len(words), 2
        sizes.audio_config.encoder_layers = 2
    sizes.audio_token_id, sizes.eos_token_id = words.convert_tokens_to_ids([AUDIO_TOKEN, END_OF_TURN])
    sizes.pad_token_id = words.pad_token_id
    model = new_model(best_device(), tiny, sizes).eval()
    extractor = Qwen3ASRFeatureExtractor(feature_size=sizes.audio_config.num_mel_bins)
    make_words_likely(model, words)
    loaded = LoadedModel(model, words, extractor, source, "student" if student else "teacher")
    make_texts_end(loaded, scratch, tries=1 if tiny else 7)
    return loaded


def examples_of(loaded: LoadedModel, folder: Path, num: int) -> list[TrainExample]:
    """Noise with texts of Hebrew words, as the trainer reads them."""
    family, targets = loaded.family, loaded.family.targets(loaded.tokenizer, Prompt(LANGUAGE))
    found = []
    for clip in write_clips(folder, range(num)):
        (ids,) = targets.encode([" ".join(clip.words)])
        num_frames = family.num_frames(round(clip.duration_s * SAMPLE_RATE_HZ))
        found.append(
            TrainExample(
                id=clip.key, audio=clip.audio, text=" ".join(clip.words), text_ids=array("i", ids),
                duration_s=clip.duration_s, num_frames=num_frames,
                num_tokens=targets.frame.num_tokens(family.num_audio_tokens(num_frames), len(ids)),
                num_targets=targets.frame.num_targets(len(ids)), family=family,
            )
        )  # fmt: skip
    return found


class Student:
    """The student in training, with what its objectives are made from."""

    def __init__(self, loaded: LoadedModel, teacher: LoadedModel, steps: list[list[TrainExample]], cache: Path) -> None:
        self.loaded, self.teacher, self.steps = loaded, teacher, steps
        self.config = load_recipe("hebrew-round4").train
        self.frame = loaded.family.targets(loaded.tokenizer, Prompt(LANGUAGE)).frame
        utterances = [example for step in steps for example in step]
        self.audio_s = sum(example.duration_s for example in utterances)
        self.teaching = Teaching("teacher", loaded, LANGUAGE, self.frame, utterances, cache, PartialState())
        self.teaching._loaded = teacher  # it has no folder to be read from
        self.teaching.let_go = lambda: None

    def given(self, **changes: Any) -> Given:
        """As the recipe of Round 4 has it, with changes of `train.distil`."""
        distil = self.config.distil.model_copy(update=changes)
        config = self.config.model_copy(update={"distil": distil})
        return Given(self.loaded, config, LANGUAGE, 0, teaching=self.teaching)

    def report_step(
        self, objective: str, given: Given, args: argparse.Namespace, report: Report, title: str | None = None
    ) -> float:
        """Audio seconds a second of steps by an objective, beside the plan of its memory."""
        free()
        model, family = self.loaded.model, self.loaded.family
        phase = next(phase for phase in self.config.phases if self.config.objective_of(phase) == objective)
        stepper = Stepper(model.train(), given.config, phase, adapters=False, fuse=False)
        stepper.optimizer.set_lr(0.0)  # random weights stay such that texts are as long as those of speech
        making = OBJECTIVES[objective](given)
        if objective != "transcribe":
            making.begin()
        reader = PackReader(family, self.frame, self.loaded.extractor, device=model.device, needs=making.needs)
        packs = [reader.pack(step) for step in self.steps]

        def step(number: int) -> float:
            at = number % len(packs)
            with making.context(model):
                loss = making.loss(model, packs[at], TrainStep(self.steps[at], 0.0, number)).total
                with stepper.optimizer.shards.early(is_last=True):
                    (loss / making.count(self.steps[at])).backward()
            return update(stepper.optimizer, Ran([loss.detach()])).loss_sum

        times = timed(step, warm_up=NUM_STEPS, seconds=args.seconds)
        row = {
            "row": f"a step, {title or objective}",
            **rate(times, self.steps),
            **self._memory(stepper, phase, packs, step),
        }
        report.add(**row)
        return row["audio_s_per_s"]

    def _memory(
        self, stepper: Stepper, phase: PhaseConfig, packs: list[Any], step: Callable[[int], float]
    ) -> dict[str, float]:
        """The peak of the fullest pack's step against the plan, both without the teacher."""
        if self.loaded.model.device.type != "cuda":
            return {}
        sizes = [[(one.num_tokens, one.num_frames, one.num_targets) for one in own] for own in self.steps]
        fullest = max(range(len(packs)), key=lambda at: packs[at].num_tokens)
        free()
        step(fullest)
        others = sum(map(bytes_of, packs)) + sum(weight.nbytes for weight in self.teacher.model.parameters())
        measured = torch.cuda.max_memory_allocated() - others
        plan = PhaseMemory(
            cost=stepper.cost, parameters=sum(weight.numel() for weight in self.loaded.model.parameters()),
            trainable=stepper.trainable, width=2, world_size=1, encoder_kept=False,
            passes=passes_of(self.config, phase),
        )  # fmt: skip
        predicted = sum(plan.peak(stepper.cost.size_of(sizes[fullest]), several=False).values())
        return {"measured_gib": round(measured / GIB, 2), "predicted_gib": round(predicted / GIB, 2),
                "error_pct": round(100 * (predicted / measured - 1), 1)}  # fmt: skip


def by_generate(student: LoadedModel) -> Callable[..., list[tuple[Draw, ...]]]:
    """`Writer.write` by transformers' `generate`: all utterances of a step in one padded batch.

    It has no guard against loops, so its texts are held to 10 tokens a second, where speech has 7.
    """
    frame = student.family.targets(student.tokenizer, Prompt(LANGUAGE)).frame
    features = PackedLogMel(student.extractor, student.model.device)

    def write(
        _: Writer, examples: Sequence[TrainExample], clips: Sequence[np.ndarray], step: int
    ) -> list[tuple[Draw, ...]]:
        requests = []
        for example, samples in zip(examples, clips, strict=True):
            prompt = frame.request(num_audio_tokens(num_mel_frames(len(samples))))
            requests.append(Request(prompt, samples, round(10 * example.duration_s)))
        was_training = student.model.training
        student.model.eval()
        with torch.inference_mode(), attention_as(student.model, "sdpa"):
            found = generate_padded(
                student.model, features, requests, stop_ids=[frame.end_id], pad_id=student.tokenizer.pad_token_id
            )
        student.model.train(was_training)
        return [(Draw(ids, 0.0, ending),) for ids, ending in found]

    return write


def rate(times: list[float], steps: list[list[TrainExample]]) -> dict[str, float]:
    audio = [sum(example.duration_s for example in step) for step in steps]
    heard = sum(audio[number % len(audio)] for number in range(len(times)))
    return {
        "audio_s_per_s": round(heard / sum(times), 1),
        "step_s": round(float(np.median(times)), 4),
        "steps": len(times),
    }


def measure(args: argparse.Namespace, scratch: Path, report: Report) -> None:
    """All rows, in an order in which what was measured does not stay in memory."""
    report.add(**machine())
    teacher, loaded = (made(args.tiny, is_student, args.tokenizer, scratch / "sounds") for is_student in (False, True))
    sizes = [sum(weight.numel() for weight in one.model.parameters()) for one in (teacher, loaded)]
    for one in (teacher, loaded):
        one.family.fuse(one.model)
    transcribing(args, report, scratch, dict(zip(("teacher", "student"), (teacher, loaded))), sizes)
    utterances = examples_of(loaded, scratch / "clips", NUM_STEPS * args.utterances)
    steps = [utterances[at::NUM_STEPS] for at in range(NUM_STEPS)]
    student = Student(loaded, teacher, steps, scratch / "cache")
    given = student.given()
    started = time.perf_counter()
    student.teaching.cache(student.config.distil.top_k, student.config.distil.temperature)
    took = time.perf_counter() - started
    kept = sum(file.stat().st_size for file in (scratch / "cache").rglob("*.bin"))
    report.add(row="teacher's pass", audio_s_per_s=round(student.audio_s / took, 1), kept_mb=round(kept / 1e6, 2),
               bytes_a_target=round(kept / sum(one.num_targets for one in utterances), 1))  # fmt: skip
    rates = {}
    for objective in ("transcribe", "distil"):
        rates[objective] = student.report_step(objective, student.given(), args, report)
    report.add(row="distil against transcribe", pct=round(100 * rates["distil"] / rates["transcribe"], 1), bar_pct=85)
    greedy = student.given(sampling_temperature=0.0)
    student.report_step("on_policy", given, args, report, "on_policy, a greedy text and a drawn one")
    writers = {"ours": Writer.write, "generate": by_generate(loaded)}
    written = {}
    for name, write in writers.items():
        Writer.write = write
        own = Writer(greedy, num=0, temperature=0.0)
        texts = [draw for step in steps for (draw,) in own.write(step, recorded(step), 0)]
        tokens, ends = sum(len(text.ids) for text in texts), sum(text.ending == "end" for text in texts)

        def texts_of(number: int, own: Writer = own) -> float:
            step = steps[number % NUM_STEPS]
            return len(own.write(step, recorded(step), 0))

        times = timed(texts_of, warm_up=1, seconds=args.seconds)
        written[name] = texts, rate(times, steps)["audio_s_per_s"]
        report.add(row=f"writing, {name}", **rate(times, steps), tokens_per_s=round(tokens / student.audio_s, 2),
                   ended_pct=round(100 * ends / len(texts), 1))  # fmt: skip
        rates[name] = student.report_step("on_policy", greedy, args, report, f"on_policy, greedy texts by {name}")
    Writer.write = writers["ours"]
    both = list(zip(written["ours"][0], written["generate"][0], strict=True))
    report.add(
        row="ours against generate", times_writing=round(written["ours"][1] / written["generate"][1], 2),
        times_step=round(rates["ours"] / rates["generate"], 2), bar_times=3,
        same_first_token_pct=round(100 * float(np.mean([a.ids[:1] == b.ids[:1] for a, b in both])), 1),
    )  # fmt: skip


def transcribing(
    args: argparse.Namespace, report: Report, scratch: Path, models: dict[str, LoadedModel], sizes: list[int]
) -> None:
    """Both models on the same clips, with rows for as many at once."""
    sounds = [load(clip.audio) for clip in write_clips(scratch / "heard", range(args.clips))]
    audio_s, found = sum(map(len, sounds)) / SAMPLE_RATE_HZ, {}
    for (name, one), size in zip(models.items(), sizes, strict=True):
        free()
        transcriber = Transcriber(one, LANGUAGE, batch_utterances=256, share=0.4)
        transcriber.write(sounds)  # captures the graphs
        started = time.perf_counter()
        texts = transcriber.write(sounds)
        found[name] = audio_s / (time.perf_counter() - started)
        letters = sum(len(text.text) for text in texts) / audio_s
        report.add(row=f"transcribing, {name}", parameters=size, audio_s_per_s=round(found[name], 1),
                   letters_per_s=round(letters, 1))  # fmt: skip
    report.add(row="student against teacher", times=round(found["student"] / found["teacher"], 2), bar_times=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="the published one; else the demo's")
    parser.add_argument("--utterances", type=int, default=64, help="of a step")
    parser.add_argument("--clips", type=int, default=1024, help="that are transcribed")
    parser.add_argument("--seconds", type=float, default=8.0, help="timed, a variant")
    parser.add_argument("--tiny", action="store_true", help="small weights, to try it without a GPU")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measure(args, Path(scratch), Report(args.out))


if __name__ == "__main__":
    main()
