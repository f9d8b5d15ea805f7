"""Recordings over 30 s by two models: whether a student loses more in them than its teacher, and whether it loops.

    python benchmarks/long_recordings.py --teacher MODEL --student MODEL --corpus CORPUS [--piece-s 5.5]

The clean test clips of a demo's corpus, twelve of a speaker one after the other with pauses between them, are
recordings of 35 s and more (the noise of those of WhatsApp would stop in the pauses, as it does nowhere). Each model
hears these as `shibolet transcribe` does, and the same clips alone. The tiny models have heard single sentences, and
lose words of two in a piece. So clips are of 2.7 to 4.6 s, of which a piece of `--piece-s` seconds holds one; `--any`
takes all clips, of which pieces hold one or two.

Prints a line of JSON a model: WER of the clips alone, in recordings, and with quiet laid before or after each, and how
many texts did not end by themselves; then what recordings cost the student more than the teacher, in points, with the
interval over speakers.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile as sf

from shibolet.listen.recordings import hear_recordings
from shibolet.listen.transcribe import Transcriber
from shibolet.model.family import load_recogniser
from shibolet.records.utterance import Utterance
from shibolet.scoring.counts import EditCounts, count_words
from shibolet.scoring.intervals import differences, lengths, ratio_intervals
from shibolet.speech import audio
from shibolet.speech.read import read_source
from shibolet.speech.sources import DataSource
from shibolet.speech.text import get_language

HEBREW = get_language("Hebrew")
SET = "test_clean"
CLIPS, LEAST_S, PAUSE_S, CLIP_S = 12, 35.0, (0.4, 1.5), (2.7, 4.6)
QUIET_S = ((0.25, 0), (0.5, 0), (0.75, 0), (0, 0.25), (0, 0.5), (0, 0.75))  # before and after a clip


def recordings_of(corpus: Path, clip_s: tuple[float, float]) -> Iterator[list[Utterance]]:
    """Clips of a speaker that make a recording; too few of them make none."""
    found = read_source(DataSource(name=SET, manifest=corpus / SET / "manifest.jsonl"), Path(), language="Hebrew")[0]
    fitting = [one for one in found if clip_s[0] <= one.duration_s <= clip_s[1]]
    for _, own in groupby(sorted(fitting, key=lambda one: (one.speaker, one.id)), key=lambda one: one.speaker):
        clips = list(own)
        for first in range(0, len(clips) - CLIPS + 1, CLIPS):
            yield clips[first : first + CLIPS]


def quiet(seconds: float, rng: np.random.Generator) -> np.ndarray:
    return (1e-4 * rng.standard_normal(round(seconds * audio.SAMPLE_RATE_HZ))).astype(np.float32)


def write_recording(path: Path, clips: Sequence[np.ndarray], rng: np.random.Generator) -> float:
    """The clips with pauses of faint noise before them; seconds."""
    rate = audio.SAMPLE_RATE_HZ
    parts: list[np.ndarray] = []
    for clip in clips:
        parts += [quiet(rng.uniform(*PAUSE_S), rng), clip]
    sf.write(path, np.concatenate(parts), rate)
    return sum(map(len, parts)) / rate


def heard(model: str, paths: Sequence[Path], clips: Sequence[Sequence[np.ndarray]], piece_s: float) -> dict:
    """What a model writes of each recording, and of its clips alone."""
    transcriber = Transcriber(load_recogniser(model), HEBREW.name)
    pieces: dict[Path, list] = {path: [] for path in paths}
    for one in hear_recordings(paths, transcriber, HEBREW, max_piece_s=piece_s):
        if one.error is not None:
            raise one.error
        if one.piece is not None:
            pieces[Path(one.path)].append(one.piece)
    rng = np.random.default_rng(1)
    laid = {
        f"{before:g}/{after:g}": [
            " ".join(
                transcriber.transcribe([np.concatenate([quiet(before, rng), clip, quiet(after, rng)]) for clip in own])
            )
            for own in clips
        ]
        for before, after in QUIET_S
    }
    alone = [transcriber.write(own) for own in clips]
    return {
        "recordings": [" ".join(piece.text for piece in own) for own in pieces.values()],
        "alone": [" ".join(one.text for one in own) for own in alone],
        "quiet": laid,
        "endless_in_recordings": sum(piece.ending != "end" for own in pieces.values() for piece in own),
        "endless_alone": sum(one.ending != "end" for own in alone for one in own),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--piece-s", type=float, default=5.5)
    parser.add_argument("--any", action="store_true", help="clips of any length")
    args = parser.parse_args()
    wer_pct = lambda counts: round(100 * sum(one.errors for one in counts) / lengths(counts).sum(), 2)  # noqa: E731
    chosen, rng = list(recordings_of(args.corpus, (0.0, np.inf) if args.any else CLIP_S)), np.random.default_rng(0)
    if not chosen:
        raise SystemExit(f"{args.corpus}: no speaker has {CLIPS} clips that fit; --any takes all")
    clips = [[audio.load(one.audio) for one in own] for own in chosen]
    said = [HEBREW.to_scoring(" ".join(one.text for one in own)) for own in chosen]
    counts: dict[tuple[str, str], list[EditCounts]] = {}
    with TemporaryDirectory() as scratch:
        paths = [Path(scratch) / f"{number}.flac" for number in range(len(chosen))]
        took_s = [write_recording(path, own, rng) for path, own in zip(paths, clips, strict=True)]
        if min(took_s) < LEAST_S:
            raise SystemExit(f"a recording has {min(took_s):.0f} s: {CLIPS} clips are too few for {LEAST_S:.0f}")
        for name, model in (("teacher", args.teacher), ("student", args.student)):
            found = heard(model, paths, clips, args.piece_s)
            line = {"model": name, "recordings": len(paths), "longest_s": round(max(took_s), 1)}
            scored = lambda texts: [  # noqa: E731
                count_words(right, HEBREW.to_scoring(text)) for right, text in zip(said, texts, strict=True)
            ]
            for how in ("alone", "recordings"):
                counts[name, how] = scored(found[how])
                line[f"wer_{how}_pct"] = wer_pct(counts[name, how])
            line["wer_pct_with_quiet"] = {how: wer_pct(scored(texts)) for how, texts in found["quiet"].items()}
            print(json.dumps(line | {key: found[key] for key in found if key.startswith("endless")}), flush=True)
    cost = {name: differences(counts[name, "alone"], counts[name, "recordings"]) for name in ("teacher", "student")}
    (more,) = ratio_intervals(
        (cost["student"] - cost["teacher"])[:, None], lengths(counts["teacher", "alone"])[:, None],
        [own[0].speaker for own in chosen],
    )  # fmt: skip
    points = [None if one is None else round(100 * one, 2) for one in (more.value, more.low, more.high)]
    print(json.dumps({"student_loses_more_points": points[0], "interval": points[1:], "speakers": more.num_clusters}))


if __name__ == "__main__":
    main()
