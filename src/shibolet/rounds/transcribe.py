"""Recordings to transcripts for a person: which files, which engine, which format, and where it goes."""

import glob
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from shibolet.errors import AudioError, RecipeError
from shibolet.records import store
from shibolet.records.files import make_folder
from shibolet.rounds.shared import Tell, Track, untracked
from shibolet.speech.audio import AUDIO_SUFFIXES

if TYPE_CHECKING:
    from shibolet.listen.engine import Engine
    from shibolet.listen.formats import Format, Writer
    from shibolet.listen.lazy import Engines
    from shibolet.listen.recordings import Heard


def find_recordings(names: Sequence[str]) -> dict[Path | str, Path]:
    """Files in the order of the names, each once: a file as it is, a folder's audio files, the matches of a pattern.

    Text is the URL of an object in a store. Beside each what its transcript is called, without a suffix: below a folder
    with the folders in between. RecipeError where a name holds nothing, StoreError.
    """
    found: dict[Path | str, Path] = {}
    for name in names:
        store.require_place(name)
        called = _called_in_store(name) if store.is_url(name) else _called_here(name)
        if not called:
            raise RecipeError(f"'{name}' holds no audio file")
        found |= called
    return found


def _called_here(name: str) -> dict[Path, Path]:
    path = Path(name)
    if path.is_dir():
        inside = (p for p in sorted(path.rglob("*")) if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
        return {p: p.relative_to(path).with_suffix("") for p in inside}
    if not path.exists() and glob.has_magic(name):
        return {p: Path(p.stem) for p in sorted(map(Path, glob.glob(name, recursive=True)))}
    return {path: Path(path.stem)}


def _called_in_store(url: str) -> dict[str, Path]:
    try:
        store.info(url)
    except store.IsFolder:
        inside = (Path(name) for name in sorted(store.names_in(url)))
        audio = (name for name in inside if name.suffix.lower() in AUDIO_SUFFIXES)
        return {store.joined(url, str(name)): name.with_suffix("") for name in audio}
    except store.NoObject:
        if glob.has_magic(url):
            return {found: Path(Path(found).stem) for found in store.matching(url)}
        raise
    return {url: Path(Path(url).stem)}


def open_engine(
    model: str | None, server: str | None, language: str | None, language_code: str | None,
    on: str | None = None, **settings,
) -> "Engine | Engines":  # fmt: skip
    """A model on every GPU of this machine or of a cluster, or on a server."""
    if server is not None:
        from shibolet.listen.server import ServerEngine

        return ServerEngine(server, model=model, language_code=language_code)
    from shibolet.listen.open import open_engines, open_executor

    return open_engines(open_executor(on), model, language, **settings)


def transcribe_files(
    recordings: Mapping[Path | str, Path],
    make_engine: Callable[[], "Engine | Engines"],
    language: str | None,
    format: "Format",
    *,
    aligner: str | None,
    out_dir: Path | None,
    max_piece_s: float,
    tell: Tell,
    warn: Tell,
    track: Track = untracked,
) -> int:
    """How many of `find_recordings` failed. Transcripts go to standard output, or to `<out_dir>/<name>.<format>` each.

    A server without an aligner needs no language. `warn` is given a sentence about each recording that fails, what of
    one could not be decoded, and where the model looped or came to no end.
    """
    from shibolet.listen.lazy import Engines, LazyListener
    from shibolet.listen.open import listener_identity, open_aligner
    from shibolet.listen.recordings import hear_recordings
    from shibolet.speech.text import get_language

    spoken, failed, endings = language and get_language(language), 0, Counter()
    paths, targets = list(recordings), _targets(recordings, out_dir, format)
    if format in ("srt", "vtt") and aligner is None:
        tell(f"{format} without --aligner: a cue is a whole piece, of up to {max_piece_s:g} s")
    engines, listener = Engines.of(make_engine()), None
    if aligner is not None:
        open_it = partial(open_aligner, aligner, language, device=None)
        listener = LazyListener(listener_identity(aligner), open_it)
    with (
        closing(engines.executor),
        _Outputs(targets, format) as outputs,
        track(f"transcribe {len(paths):,} recording{'s' * (len(paths) != 1)}", "s of audio") as progress,
    ):
        total_s, heard_s = _total_s(paths), 0.0

        def advance(audio_s: float) -> None:
            nonlocal heard_s
            heard_s += audio_s
            progress(round(heard_s), round(max(total_s, heard_s)) if total_s else 0)

        for heard in hear_recordings(
            paths, engines, spoken, aligner=listener, max_piece_s=max_piece_s, on_progress=advance
        ):
            outputs.add(heard)
            if heard.piece is not None:
                endings[heard.piece.ending] += 1
                continue
            if heard.error is not None:
                failed += 1
                warn(str(heard.error))
            for warning in heard.warnings:
                warn(f"{heard.path}: {warning}")
            for ending, what in _NOTES.items():
                if endings[ending]:
                    warn(f"{heard.path}: {endings[ending]} of {endings.total()} pieces {what}")
            endings.clear()
    return failed


_NOTES = {
    "loop": "end in a repetition longer than the audio has room for; it is in the text as far as it was written "
    "('--loop-bias 4' writes them again)",
    "again": "ended in such a repetition and were written again with --loop-bias",
    "limit": "were cut where the model had written as much as it may for their length",
}


def _total_s(paths: Sequence[Path | str]) -> float:
    """Seconds of audio as far as headers tell; what cannot be read is told when its turn comes.

    0, which is not known, where some are in a store: nobody waits for all of them before the first is heard.
    """
    if any(map(store.is_url, paths)):
        return 0.0
    from shibolet.records.utterance import AudioRef
    from shibolet.speech.audio import probe

    total_s = 0.0
    for path in paths:
        try:
            total_s += probe(AudioRef(path=str(path))).duration_s
        except AudioError:
            continue
    return total_s


def _targets(
    recordings: Mapping[Path | str, Path], out_dir: Path | None, format: "Format"
) -> dict[Path | str, Path | None]:
    """Where each recording's transcript goes; None: standard output."""
    if out_dir is None:
        if len(recordings) > 1 and format in ("srt", "vtt"):
            raise RecipeError(f"{len(recordings)} recordings as {format} need a folder: --out DIR")
        return dict.fromkeys(recordings)
    targets = {path: out_dir / f"{name}.{format}" for path, name in recordings.items()}
    times = Counter(targets.values())
    for path, target in targets.items():
        if times[target] > 1:
            others = ", ".join(f"'{other}'" for other, its in targets.items() if its == target and other != path)
            raise RecipeError(f"'{path}' and {others} would both be written to '{target}'; run them apart")
    return targets


class _Outputs:
    """Opens each transcript when its recording's turn comes and closes it at the recording's end."""

    def __init__(self, targets: dict[Path | str, Path | None], format: "Format") -> None:
        self._targets, self._format, self._files = targets, format, ExitStack()
        self._stdout = sys.stdout  # now: a progress bar takes it over, and would show what is meant for a pipe
        self._writers: dict[Path | None, Writer] = {}

    def __enter__(self) -> "_Outputs":
        return self

    def __exit__(self, *error) -> None:
        if error[0] is None and None in self._writers:
            self._writers[None].close()
        self._files.close()

    def add(self, heard: "Heard") -> None:
        target = self._targets[heard.path]
        if target is not None and heard.error is not None and target not in self._writers:
            return  # nothing of it could be read: no empty file
        if target not in self._writers:
            self._writers[target] = self._open(target)
        self._writers[target].add(heard)
        if target is not None and heard.piece is None:
            self._writers.pop(target).close()
            self._files.close()

    def _open(self, target: Path | None) -> "Writer":
        from shibolet.listen.formats import Writer

        out: TextIO = sys.stdout if self._stdout.isatty() else self._stdout
        if target is not None:
            make_folder(target.parent)
            out = self._files.enter_context(target.open("w", encoding="utf-8"))
        return Writer(out, self._format, with_names=target is None and len(self._targets) > 1)
