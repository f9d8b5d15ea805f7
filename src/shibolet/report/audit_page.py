"""`audit/audit.html`: every utterance that a person may want to hear, worst first, with what speaks against it.

One file without a network: rows as JSON, sound as MP3 beside it, both inert until the page's own script, whose hash is
all that the page's policy allows, writes them as text. Reads files and computes nothing that another file should hold.
"""

import base64
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from shibolet.errors import AudioError, DataError
from shibolet.listen.decoders import AnyWorker, Decoders, num_decoders, run_each
from shibolet.listen.processes import WorkerLost
from shibolet.records.audited import Audited, read_audited
from shibolet.records.cores import usable_cores
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.files import write_bytes, write_jsonl
from shibolet.records.reading import read_lines
from shibolet.records.review import read_review
from shibolet.records.runfolder import RunFolder
from shibolet.records.utterance import AudioRef
from shibolet.report.entries import Entry, entry_of, worst_first
from shibolet.report.page import direction_of, environment, verdict_title
from shibolet.report.recipe import ShownRecipe
from shibolet.report.wording import FAILURES, NOT_HEARD, REASONS, SUSPECTS, sentence
from shibolet.speech.text import get_language

LOG = logging.getLogger(__name__)

# Together with 1 MB for everything else the page stays under 25 MB.
MAX_TEXT_BYTES, MAX_SOUND_BYTES = 7_000_000, 12_000_000
PLAYER_S, PLAYER_BPS = 30.0, 24_000  # longest sound and its bitrate: 4 kB a second as base64
MP3 = {"compression_level": "7"}  # twice as fast as LAME's 5, in which a second of speech takes 25 ms
WAVE_POINTS = 400  # of an envelope
MANY_SOUNDS = 100  # from here on processes encode them: threads would do so one after the other
TOGETHER, ENCODE_S = 8, 60.0  # sounds that a process encodes at a time, and how long each may take


@dataclass(frozen=True, slots=True)
class Sound:
    """An encoded clip; both as base64."""

    key: str  # of what the clip is cut from, of its span, and of how it was encoded
    mp3: str
    wave: str  # the envelope: WAVE_POINTS bytes
    sha256: str  # of these three: no other sound is played than was encoded

    @classmethod
    def of(cls, key: str, mp3: str, wave: str) -> "Sound":
        return cls(key, mp3, wave, hashlib.sha256(" ".join((key, mp3, wave)).encode()).hexdigest())

    @property
    def is_whole(self) -> bool:
        is_base64 = re.fullmatch(r"[A-Za-z0-9+/=]*", self.mp3 + self.wave)  # the page takes it as it is
        return bool(is_base64) and self == Sound.of(self.key, self.mp3, self.wave)


def write_audit_page(run_dir: Path, decoders: Decoders | None = None) -> Path | None:
    """Write the page of the audit of a run's training data and return its path; None before there is an audit.

    `decoders` encode what is heard on it; None: others, which end with it.
    """
    run = RunFolder(run_dir)
    if not run.alignment_report().is_file():
        return None
    run.intact("start", "audit", "hear-rest", "review", "gate")
    recipe, report = ShownRecipe.read(run.recipe), AlignmentReport.read(run.alignment_report())
    language = get_language(recipe.language)
    tables = [path for path in (run.audited_utterances(), run.audited_rest) if path.is_file()]
    draw = {id: place for place, id in enumerate(report.review.draw)}
    shown, num_rows = _chosen(tables, draw)
    entries = _within(MAX_TEXT_BYTES, (entry_of(*row, recipe.audit, language, draw) for row in shown))
    sounds = _add_sounds(entries, {row.id: row.audio for row, _ in shown}, run, decoders)
    entries.sort(key=lambda entry: worst_first(entry.id, entry.low, entry.confidence))
    gate = GateVerdict.read(run.gate()) if run.gate().is_file() else None
    answers = read_review(run.review) if run.review.exists() else {}
    verdicts = {(answer.id, answer.text): answer.verdict for answer in answers.values()}
    script = script_of("utterance.js", "audit.js")
    page = environment().get_template("audit.html.jinja").render(
        recipe=recipe,
        code=language.code,
        direction=direction_of(language),
        gate=gate,
        title=verdict_title(gate),
        report=report,
        review=report.review,
        flags=report.human_flags,
        num_rows=num_rows,
        num_shown=len(entries),
        num_sounds=len(sounds),
        num_worst=_num_worst(entries),
        has_coverage=any(entry.coverage is not None for entry in entries),
        has_times=any(entry.times for entry in entries),
        player_s=PLAYER_S,
        reasons=REASONS,
        data=json_block(
            {
                "rows": [entry.to_json() for entry in entries],
                "player_s": PLAYER_S,
                "suspects": {**SUSPECTS, **{name: (label, NOT_HEARD) for name, label in FAILURES.items()}},
                "reasons": REASONS,
                "answers": {e.id: verdicts[e.id, e.text] for e in entries if (e.id, e.text) in verdicts},
                "file": f"review-{recipe.name}.jsonl",
            }
        ),
        sound=Markup("\n".join(sounds)),  # base64 has nothing to escape
        script=Markup(script),
        script_hash=hash_of_script(script),
    )  # fmt: skip
    write_bytes(run.audit_page, page.encode())
    return run.audit_page


def script_of(*names: str) -> str:
    """Files of this package one after the other, as a page's script."""
    return "\n".join(files("shibolet.report").joinpath(name).read_text(encoding="utf-8") for name in names)


def hash_of_script(script: str) -> str:
    """The script's hash as a page's policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _chosen(tables: Sequence[Path], draw: Mapping[str, int]) -> tuple[list[tuple[Audited, bool]], int]:
    """Rows in the order in which they are worth their place, each with whether it is of the rest; how many there are.

    The random draw first, then what is flagged, the least credible first, then what passed, likewise.
    """
    keys = []
    for number, path in enumerate(tables):
        for row in read_audited(path, short=True):
            key = worst_first(row.id, row.is_low_quality, row.confidence)
            keys.append((draw.get(row.id, len(draw)), *key, number))
    most = MAX_TEXT_BYTES // 300  # no entry is smaller
    place = {key[3:]: i for i, key in enumerate(sorted(keys)[:most])}
    rows: dict[int, tuple[Audited, bool]] = {}
    for number, path in enumerate(tables):
        for row in read_audited(path, only={id for id, table in place if table == number}):
            rows[place[row.id, number]] = row, number > 0
    return [rows[i] for i in sorted(rows)], len(keys)


def _within(budget_bytes: int, entries: Iterable[Entry]) -> list[Entry]:
    """As many of the first entries as the page has room for; no more are made."""
    room, within = budget_bytes, []
    for entry in entries:
        room -= len(json.dumps(entry.to_json(), ensure_ascii=False).encode())
        if room < 0:
            break
        within.append(entry)
    return within


def _add_sounds(
    entries: Sequence[Entry], audio_of: Mapping[str, AudioRef | None], run: RunFolder, decoders: Decoders | None
) -> list[str]:
    """Base64 MP3s of the first entries that fit the budget; each entry learns its line and its envelope, or why not.

    What is encoded stays beside the page, by what it is cut from: the next review or extension decodes and encodes only
    what is new.
    """
    from shibolet.speech.audio import content_hash

    heard, size = [], 0.0
    for entry in entries:
        if audio_of[entry.id] is None:
            entry.silent = "The row could not be read."
            continue
        size += 1500 + min(entry.seconds, PLAYER_S) * PLAYER_BPS / 8 * 4 / 3
        if size > MAX_SOUND_BYTES:
            break
        heard.append(entry)
    known, hash_of = _known_sounds(run.sounds), cache(content_hash)  # of a long recording once
    refs = [audio_of[entry.id].in_folder(run.path) for entry in heard]
    with ThreadPoolExecutor(min(32, usable_cores())) as pool:
        keys = list(pool.map(partial(_key, hash_of=hash_of), refs))
    new = {key: ref for key, ref in zip(keys, refs, strict=True) if isinstance(key, str) and key not in known}
    made = known | dict(zip(new, _encoded(new, decoders), strict=True))
    kept, sounds = {}, []
    for entry, key in zip(heard, keys, strict=True):
        sound = made[key] if isinstance(key, str) else key
        if isinstance(sound, Exception):
            entry.silent = sentence(str(sound))
        else:
            entry.sound, entry.wave = len(sounds), sound.wave
            sounds.append(sound.mp3)
            kept[sound.key] = sound
    if kept.keys() != known.keys():
        write_jsonl(run.sounds, map(asdict, kept.values()))
    return sounds


def _known_sounds(path: Path) -> dict[str, Sound]:
    """Encoded clips by key; what is not whole is encoded again, and said."""
    try:
        encoded = read_lines(path, Sound, "its sounds are encoded again") if path.exists() else []
    except DataError as error:
        LOG.warning("%s", error)
        encoded = []
    known = {sound.key: sound for sound in encoded if sound.is_whole}
    if len(known) < len(encoded):
        LOG.warning("%s: %d sounds are not as they were written; encoded again", path, len(encoded) - len(known))
    return known


def _key(ref: AudioRef, hash_of: Callable[[AudioRef], str]) -> str | AudioError:
    """What a sound is made from, and how; or why there is none."""
    try:
        cut = (hash_of(ref.whole()), ref.start_s, ref.end_s)
    except AudioError as error:
        return error
    return hashlib.sha256(repr((MP3, PLAYER_BPS, PLAYER_S, WAVE_POINTS, cut)).encode()).hexdigest()


def _encoded(new: Mapping[str, AudioRef], decoders: Decoders | None) -> Iterator[Sound | AudioError | WorkerLost]:
    """The sound of each key in turn, or why there is none."""
    items = list(new.items())
    parts = [items[first : first + TOGETHER] for first in range(0, len(items), TOGETHER)]
    with ExitStack() as stack:
        if decoders is None:
            num = num_decoders(None) if len(items) >= MANY_SOUNDS else 0
            decoders = stack.enter_context(closing(Decoders(num)))
        for found in decoders.map(_encode_part, parts):
            yield from found


def _encode_part(worker: AnyWorker, items: Sequence[tuple[str, AudioRef]]) -> list:
    return run_each(worker, _encode, items, lambda items: ENCODE_S * len(items))


def _encode(items: Sequence[tuple[str, AudioRef]]) -> list[Sound | AudioError]:
    return [_sound(key, ref) for key, ref in items]


def _sound(key: str, ref: AudioRef) -> Sound | AudioError:
    import numpy as np

    from shibolet.speech import audio
    from shibolet.speech.augment import encode

    try:
        samples = audio.load(ref)[: int(PLAYER_S * audio.SAMPLE_RATE_HZ)]
    except AudioError as error:
        return error
    padded = np.pad(np.abs(samples), (0, -len(samples) % WAVE_POINTS))
    peaks = padded.reshape(WAVE_POINTS, -1).max(axis=1)
    wave = np.round(255 * peaks / max(float(peaks.max()), 1e-3)).clip(0, 255).astype(np.uint8)
    mp3 = encode(samples, "mp3", PLAYER_BPS, **MP3)
    return Sound.of(key, base64.b64encode(mp3).decode(), base64.b64encode(wave.tobytes()).decode())


def _num_worst(entries: Sequence[Entry]) -> int:
    """How many of the worst have sound without a gap, those aside that have none to give."""
    flagged = [entry for entry in entries if entry.low and entry.silent is None]
    return next((i for i, entry in enumerate(flagged) if entry.sound is None), len(flagged))


def json_block(value: Any) -> Markup:
    """JSON for a script element: no text in it can end the element."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))
