"""What processes that decode do for an audit: hashes of audio, samples, lines of evidence. No torch."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from rapidfuzz.distance import Levenshtein

from shibolet.audit.clip import AudioChange, Clip, Evidence
from shibolet.audit.evidence import to_line
from shibolet.audit.signals import measure
from shibolet.errors import AudioError
from shibolet.listen import dispatch
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.records.files import hash_json
from shibolet.records.utterance import AudioRef
from shibolet.speech.activity import Sound, sound_of
from shibolet.speech.audio import content_hash
from shibolet.speech.text import Language, get_language
from shibolet.speech.text.reading import compare

# Failures that say something of the machine and nothing of the content.
LOST = ("decoder_hung", "decoder_crashed", dispatch.LOST)
MIN_SAMPLES = 1600  # a tenth of a second is the least that every listener takes
Load = Callable[[AudioRef], np.ndarray]
Decoded = tuple[np.ndarray, Sound]
Heard = tuple[Clip, Sound, Alignment | None, Hearing, str]  # with the language
# Of letters, between a word of a text and what is heard in its place. Nearer words are spellings, endings or
# homophones, which recognisers confuse by themselves. Chosen, with the figures in `audit/confusions.py`.
MIN_DISTANCE = 0.5
Pair = tuple[str, str]  # a word of a text, and the one that is heard in its place
Texts = tuple[Sequence[str], str]  # words of a text, and a hypothesis
Reading = tuple[list[str], list[Pair]]


def load_libraries() -> None:
    """Import what the first clip would wait for: `sound_of` has libraries of its own."""
    sound_of(np.zeros(MIN_SAMPLES, np.float32))


def hash_audio(refs: Sequence[AudioRef]) -> list[str]:
    """Content hash of each; of what cannot be read, one of the reason and the place."""
    hashes = []
    for ref in refs:
        try:
            hashes.append(content_hash(ref))
        except AudioError as error:
            hashes.append(_hash_of_failure(error.reason, ref))
    return hashes


def is_hash_of_unseen(found: object, ref: AudioRef) -> bool:
    """Whether `hash_audio` gives this for a file that it does not find."""
    return found == _hash_of_failure(dispatch.UNSEEN, ref)


def _hash_of_failure(reason: str, ref: AudioRef) -> str:
    return hash_json([reason, ref.path, ref.row])


def decode(clips: Sequence[Clip], load: Load) -> list[Decoded | Evidence]:
    """Samples of each clip with what energy says of them, or why there are none.

    The same array for the same audio under the same change, whatever the texts: listeners hear an array once.
    """
    whole: dict[AudioRef, Decoded | AudioError] = {}
    changed: dict[tuple[AudioRef, AudioChange], Decoded] = {}
    return [_decode(clip, load, whole, changed) for clip in clips]


def _decode(
    clip: Clip,
    load: Load,
    whole: dict[AudioRef, Decoded | AudioError],
    changed: dict[tuple[AudioRef, AudioChange], Decoded],
) -> Decoded | Evidence:
    if clip.audio not in whole:
        try:
            samples = load(clip.audio)
            whole[clip.audio] = (samples, sound_of(samples))
        except AudioError as error:
            whole[clip.audio] = error
    decoded = whole[clip.audio]
    if isinstance(decoded, AudioError):
        # Without the place, which is no part of what was heard.
        return Evidence(key=clip.key, failure=decoded.reason, detail=str(decoded.__cause__ or decoded))
    if clip.change_audio:
        sounds_as = clip.audio, clip.change_audio
        if sounds_as not in changed:
            samples = clip.change_audio(decoded[0], _rng_of_audio(clip, decoded[0]))
            changed[sounds_as] = (samples, sound_of(samples))
        decoded = changed[sounds_as]
    samples, sound = decoded
    if len(samples) < MIN_SAMPLES:
        return Evidence(key=clip.key, failure="too_short", detail=f"{sound.duration_s:.2f} s of audio")
    return decoded


def weigh(heard: Sequence[Heard]) -> list[bytes]:
    """The line of each clip for the store, in the language that comes with it."""
    return [to_line(_evidence(*one)) for one in heard]


def _evidence(clip: Clip, sound: Sound, alignment: Alignment | None, hearing: Hearing, language: str) -> Evidence:
    signals = measure(sound, clip.words, clip.verifiable, alignment, hearing, language)
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in signals.to_json().items()}
    spans_s = np.clip(hearing.word_spans_s, 0.0, sound.duration_s)
    if alignment is not None:
        spans_s = np.stack([alignment.starts_s, alignment.ends_s], axis=1)
    return Evidence(
        key=clip.key,
        hypothesis=hearing.hypothesis,
        starts_s=tuple(round(float(t), 3) for t in spans_s[:, 0]),
        ends_s=tuple(round(float(t), 3) for t in spans_s[:, 1]),
        signals=replace(signals, **rounded),
    )


def read_otherwise(texts: Sequence[Texts], language: str) -> list[Reading]:
    """Of words and a hypothesis each, the words in the reading nearest to it, and which were heard as another word."""
    return [_read_otherwise(*one, get_language(language)) for one in texts]


def _read_otherwise(words: Sequence[str], hypothesis: str, rules: Language) -> Reading:
    compared = compare(words, hypothesis, rules)
    text, heard = " ".join(compared.text).split(), " ".join(compared.heard).split()
    replaced = (block for block in Levenshtein.opcodes(text, heard) if block.tag == "replace")  # as jiwer aligns words
    pairs = [
        (written, said)
        for block in replaced
        for written, said in zip(text[block.src_start : block.src_end], heard[block.dest_start : block.dest_end])
        if Levenshtein.normalized_distance(written, said) > MIN_DISTANCE
    ]
    return text, pairs


def _rng_of_audio(clip: Clip, samples: np.ndarray) -> np.random.Generator:
    """Chance from what is heard alone: copies with other texts hear the same noise."""
    textless = replace(clip, words=(), verifiable=())
    return np.random.default_rng(int(textless.content_id(f"{zlib.crc32(np.ascontiguousarray(samples)):08x}"), 16))
