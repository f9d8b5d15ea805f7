"""Changed copies of clips: damage that an audit must find, and harmless changes that it must leave alone.

The matrix is data: what is done to a clip, at which level. The self-test takes a few rows of it on the very clips that
are judged; `shibolet calibrate` takes all of them on clips that are known to be clean.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from shibolet.audit.audio_changes import (
    Babble,
    Clipping,
    Coded,
    Gain,
    Noise,
    NoSpeech,
    Part,
    Reverb,
    Shifted,
    Speed,
    TelephoneBand,
)
from shibolet.audit.clip import AudioChange, Clip
from shibolet.records.utterance import AudioRef
from shibolet.scoring.counts import count_words
from shibolet.speech.text import get_language
from shibolet.speech.text.language import Words

MIN_DIFFERENT = 0.6  # of the words of a swapped transcript
MIN_CUT_WORDS = 4  # of a clip that is cut: half of fewer is a word or none
MAX_COMPARED = 200  # texts that the nearest is looked for among
BABBLE_VOICES = 6
SHARES: tuple[float, ...] = (0.10, 0.25, 0.50)  # of a transcript or of its audio that is cut off


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """A clip as it is, and who else speaks in its recording."""

    clip: Clip
    recording: str
    speaker: str | None  # None: not known

    @property
    def words(self) -> tuple[str, ...]:
        return self.clip.words


class Pool:
    """The clips that are damaged, and what else is at hand: texts of others, audio in another language."""

    def __init__(self, originals: Sequence[Original], language: str, foreign: Sequence[AudioRef] = ()) -> None:
        self.originals, self.language, self.foreign = originals, get_language(language), foreign
        self.by_speaker: dict[str | None, list[Original]] = defaultdict(list)
        self.by_recording: dict[str, list[Original]] = defaultdict(list)
        for original in originals:
            self.by_speaker[original.speaker].append(original)
            self.by_recording[original.recording].append(original)

    def differing(self, original: Original, others: Sequence[Original], num: int, rng: random.Random) -> list[Original]:
        """Of `num` draws those whose words are mostly not in this clip's text."""
        drawn = rng.sample(others, min(num, len(others)))
        return [
            other for other in drawn
            if any(other.clip.verifiable)
            and sum(w not in original.words for w in other.words) >= MIN_DIFFERENT * len(other.words)
        ]  # fmt: skip


Change = Callable[[Original, Pool, random.Random], Clip | None]  # None: the clip is too small for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the matrix at one level."""

    kind: str
    level: str = ""  # "25%", "5 dB"
    harmless: bool = False
    change: Change

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.level}" if self.level else self.kind

    def copy(self, original: Original, pool: Pool, rng: random.Random) -> Clip | None:
        """The changed copy, keyed `name/key`; None when the clip is too small for it."""
        changed = self.change(original, pool, rng)
        return replace(changed, key=f"{self.name}/{original.clip.key}") if changed else None


# Changes of audio.


def sounding(change: AudioChange) -> Change:
    """The clip with its audio changed."""
    return lambda original, pool, rng: replace(original.clip, change_audio=change)


def cut_audio(share: float, side: Literal["head", "tail", "either"]) -> Change:
    def change(original: Original, pool: Pool, rng: random.Random) -> Clip | None:
        if len(original.words) < MIN_CUT_WORDS:
            return None
        head = side == "head" or (side == "either" and rng.random() < 0.5)
        return replace(original.clip, change_audio=Part(share, 1.0) if head else Part(0.0, 1 - share))

    return change


def shifted(seconds: float) -> Change:
    def change(original: Original, pool: Pool, rng: random.Random) -> Clip | None:
        others = [other for other in pool.by_recording[original.recording] if other is not original]
        if not others:
            return None
        return replace(original.clip, change_audio=Shifted(seconds, rng.choice(others).clip.audio))

    return change


def babbled(snr_db: float) -> Change:
    """Behind it, six clips of others; of other speakers, where speakers are known."""

    def add(original: Original, pool: Pool, rng: random.Random) -> Clip | None:
        drawn = rng.sample(pool.originals, min(60, len(pool.originals)))
        others = [o for o in drawn if o is not original and (not o.speaker or o.speaker != original.speaker)]
        if not (others := others[:BABBLE_VOICES]):
            return None
        change = Babble(tuple(o.clip.key for o in others), snr_db, tuple(o.clip.audio for o in others))
        return replace(original.clip, change_audio=change)

    return add


def foreign_audio(original: Original, pool: Pool, rng: random.Random) -> Clip | None:
    return replace(original.clip, audio=rng.choice(pool.foreign)) if pool.foreign else None


# Changes of text.


def texted(clip: Clip, words: Sequence[str], verifiable: Sequence[bool] | None = None) -> Clip | None:
    """The clip under other words; None when they are the same, or none could be checked."""
    verifiable = tuple(verifiable) if verifiable is not None else (True,) * len(words)
    if tuple(words) == clip.words or not any(verifiable):
        return None
    return replace(clip, words=tuple(words), verifiable=verifiable)


def swapped(which: Literal["random", "same speaker", "nearest length", "nearest text"]) -> Change:
    """The transcript of another clip, by how it is chosen."""

    def change(original: Original, pool: Pool, rng: random.Random) -> Clip | None:
        if which == "nearest text":  # most like it of all that are not the same
            rest = [other for other in pool.originals if other.words != original.words and any(other.clip.verifiable)]
            rest = rng.sample(rest, min(MAX_COMPARED, len(rest)))
            other = min(
                rest, key=lambda o: count_words(" ".join(original.words), " ".join(o.words)).errors, default=None
            )
        else:
            near = pool.by_speaker[original.speaker] if which == "same speaker" and original.speaker else pool.originals
            if which == "same speaker" and not original.speaker:
                return None
            found = pool.differing(original, [o for o in near if o is not original], 60, rng)
            if which == "nearest length":
                other = min(found, key=lambda o: abs(len(o.words) - len(original.words)), default=None)
            else:
                other = found[0] if found else None
        return texted(original.clip, other.words, other.clip.verifiable) if other else None

    return change


def cut_text(share: float, side: Literal["head", "tail", "either"]) -> Change:
    def change(original: Original, pool: Pool, rng: random.Random) -> Clip | None:
        clip, num = original.clip, max(1, round(share * len(original.words)))
        if len(clip.words) < MIN_CUT_WORDS:
            return None
        head = side == "head" or (side == "either" and rng.random() < 0.5)
        kept = slice(num, None) if head else slice(None, len(clip.words) - num)
        return texted(clip, clip.words[kept], clip.verifiable[kept])

    return change


Edit = Callable[[list[str], int, Pool, random.Random], list[str]]  # words and how many of them to change


def edited(share: float | None, edit: Edit) -> Change:
    """`edit` on this share of the words; None: on one."""

    def change(original: Original, pool: Pool, rng: random.Random) -> Clip | None:
        if len(original.words) < MIN_CUT_WORDS or not all(original.clip.verifiable):
            return None
        num = 1 if share is None else round(share * len(original.words))
        return texted(original.clip, edit(list(original.words), num, pool, rng)) if num else None

    return change


def drop_scattered(words: list[str], num: int, pool: Pool, rng: random.Random) -> list[str]:
    gone = set(rng.sample(range(len(words)), num))
    return [word for i, word in enumerate(words) if i not in gone]


def drop_run(words: list[str], num: int, pool: Pool, rng: random.Random) -> list[str]:
    first = rng.randrange(len(words) - num + 1)
    return words[:first] + words[first + num :]


def insert(words: list[str], num: int, pool: Pool, rng: random.Random) -> list[str]:
    for _ in range(num):
        words.insert(rng.randrange(len(words) + 1), _any_word(pool, rng))
    return words


def substitute(words: list[str], num: int, pool: Pool, rng: random.Random) -> list[str]:
    for i in rng.sample(range(len(words)), num):
        words[i] = _any_word(pool, rng)
    return words


def reorder(words: list[str], num: int, pool: Pool, rng: random.Random) -> list[str]:
    """The last `num` words first, as when sentences change places."""
    return words[-num:] + words[:-num]


def _any_word(pool: Pool, rng: random.Random) -> str:
    return rng.choice(rng.choice(pool.originals).words)


def shuffle_letters(original: Original, pool: Pool, rng: random.Random) -> Clip | None:
    """Each word with its letters in another order: as long and as likely letters, and no text of any language."""
    return texted(original.clip, ["".join(rng.sample(word, len(word))) for word in original.words])


def respelled(respell: Callable[[str], str]) -> Change:
    """The same words, written otherwise; the clip itself when the rules of the language undo it."""

    def change(original: Original, pool: Pool, rng: random.Random) -> Clip | None:
        words: Words = pool.language.to_words(respell(" ".join(original.words)))
        if not words.num_verifiable:
            return None
        return replace(original.clip, words=words.tokens, verifiable=words.verifiable)

    return change


def as_digits(original: Original, pool: Pool, rng: random.Random) -> Clip | None:
    """A number that the text spells out is written in digits; None where it has none."""
    digits_of, clip = pool.language.digits_of, original.clip
    places = [i for i, word in enumerate(clip.words) if word in digits_of]
    if not places:
        return None
    words, place = list(clip.words), rng.choice(places)
    words[place] = digits_of[words[place]]
    return texted(clip, words, clip.verifiable)


def matrix(language: str) -> list[Row]:
    """Every row at every level; harmless ones last."""
    pct = lambda share: f"{share:.0%}"  # noqa: E731
    sides: tuple[Literal["head", "tail"], ...] = ("head", "tail")
    edits = {"words_dropped": drop_scattered, "run_dropped": drop_run, "words_inserted": insert,
             "words_substituted": substitute, "reordered": reorder}  # fmt: skip
    rows = [Row(kind="swapped", level=w, change=swapped(w))
            for w in ("random", "same speaker", "nearest length", "nearest text")]  # fmt: skip
    rows += [Row(kind=f"text_{s}_cut", level=pct(x), change=cut_text(x, s)) for s in sides for x in SHARES]
    rows += [Row(kind=f"audio_{s}_cut", level=pct(x), change=cut_audio(x, s)) for s in sides for x in SHARES]
    for kind, edit in edits.items():
        for share in (None, 0.10, 0.20, 0.40):
            if kind != "reordered" or share:
                level = "1 word" if share is None else pct(share)
                rows.append(Row(kind=kind, level=level, change=edited(share, edit)))
    rows += [Row(kind="shifted", level=f"{s:g} s", change=shifted(s)) for s in (0.5, 1.0, 2.0, 5.0)]
    rows += [Row(kind="shuffled_letters", change=shuffle_letters),
             Row(kind="other_language", level="audio", change=foreign_audio)]  # fmt: skip
    rows += [Row(kind="no_speech", level=w, change=sounding(NoSpeech(w))) for w in ("silence", "noise", "tones")]
    sounds: dict[tuple[str, str], AudioChange] = {
        **{(f"{kind}_noise", f"{db} dB"): Noise(kind, db) for kind in ("pink", "babble") for db in (20, 10, 5, 0)},
        **{("clipping", f"{100 * x:g}%"): Clipping(x) for x in (0.001, 0.01, 0.05)},
        ("opus", "12 kbps"): Coded("opus", 12_000), ("mp3", "24 kbps"): Coded("mp3", 24_000),
        ("telephone_band", ""): TelephoneBand(), ("reverb", "0.3 s"): Reverb(0.3), ("reverb", "0.6 s"): Reverb(0.6),
        **{("speed", f"{f:+.0%}"): Speed(1 + f) for f in (-0.10, -0.05, 0.05, 0.10)},
        ("gain", "-6 dB"): Gain(-6.0),
    }  # fmt: skip
    harmless = {key: sounding(change) for key, change in sounds.items()}
    harmless |= {("spelling", name): respelled(f) for name, f in get_language(language).respellings.items()}
    harmless[("spelling", "digits")] = as_digits
    return rows + [Row(kind=k, level=level, harmless=True, change=c) for (k, level), c in harmless.items()]


def copies(
    rows: Sequence[Row], originals: Sequence[Original], pool: Pool, seed: int, *, frac: float = 1.0
) -> dict[str, list[Clip]]:
    """By row, a changed copy of this share of the clips, where a clip is large enough for it.

    Chance is drawn from (seed, row, clip), so that neither other rows nor other clips change a copy.
    """
    made: dict[str, list[Clip]] = {row.name: [] for row in rows}
    for row in rows:
        for original in originals:
            rng = random.Random(f"{seed}/{row.name}/{original.clip.key}")
            if rng.random() < frac and (clip := row.copy(original, pool, rng)):
                made[row.name].append(clip)
    return made
