"""The demo's data: a training set of which a part is damaged on purpose, two test sets, and the truth apart from them.

Sentences are dealt by a hash of their text: Round 1's training, Round 2's training and the tests share none, whatever
the seeds. Everything is planned first from the seed alone; then spoken; then each utterance is recorded by itself, with
chance drawn from the seed and its id. So an interrupted build that is started again ends with the same bytes.
"""

import hashlib
import itertools
import math
import random
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from shibolet.demo.channel import ChannelConfig, Condition
from shibolet.demo.damage import KINDS, Damage, damage_audio, deal_damage
from shibolet.demo.lexicon import Lexicon, load_lexicon
from shibolet.demo.sentences import sample_sentence
from shibolet.demo.synth import SHARD_REQUESTS, Speech, SpeechRequest, synthesise
from shibolet.demo.voices import ROUND1_VOICES, TEST_VOICES, TRAIN_VOICES, VoiceGroup, draw_manner, vary
from shibolet.errors import DataError
from shibolet.listen.executor import in_threads
from shibolet.records.config import Config
from shibolet.records.files import hash_json, write_bytes, write_json, write_jsonl
from shibolet.records.reading import read_lines, read_own
from shibolet.speech.audio import SAMPLE_RATE_HZ, encode_flac
from shibolet.speech.augment import encode

Domain = Literal["clean", "whatsapp"]
DOMAINS: tuple[Domain, ...] = ("clean", "whatsapp")
TRUTH = "truth.jsonl"
_REMEDY = "delete the corpus, and the demo makes it again"
NUM_BUCKETS, TEST_BUCKET, TRAIN_BUCKET = 10, 0, 1  # the other buckets are Round 1's
# Closed classes are never held out: without them there are hardly any sentences.
OPEN_CATEGORIES = ("noun", "the", "at", "to", "from", "adj", "present", "past", "to_do", "name", "when", "how", "count")


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """A line of truth.jsonl: what was done to an utterance, and what is said in it; fields in the file's order."""

    id: str
    split: str
    kind: str  # of damage, or "clean"
    domain: Domain
    duration_s: float
    reference: str
    words: tuple[tuple[str, float, float], ...]  # start and end in seconds


def read_truth(corpus_dir: Path) -> list[Spoken]:
    """All splits."""
    return read_lines(corpus_dir / TRUTH, Spoken, _REMEDY)


class CorpusConfig(Config):
    """Sizes and difficulty of the demo's data."""

    num_train: int = 800  # utterances of one sentence
    num_long: int = 12  # recordings of 16-30 s that are one utterance each
    num_test: int = 320  # utterances of each test set
    recording_utterances: int = 8  # of one voice and one channel condition
    held_out_frac: float = 0.3  # of the word types, in no sentence of Round 2's training
    damaged_frac: float = 0.2  # of the training utterances of one sentence
    channel: ChannelConfig = ChannelConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """An utterance before anyone has said it."""

    split: str  # "train", "test_clean", "test_whatsapp"
    id: str
    recording: str
    speaker: str
    domain: Domain
    requests: tuple[SpeechRequest, ...]  # its sentences
    condition: Condition

    @property
    def text(self) -> str:
        return " ".join(word for request in self.requests for word in request.words)

    @property
    def audio(self) -> str:
        """Path of the file, relative to the split's folder."""
        return f"audio/{self.id}.{'ogg' if self.domain == 'whatsapp' else 'flac'}"


def bucket(words: Collection[str]) -> int:
    """The part of the data that a sentence belongs to, from its text alone."""
    return int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:8]) % NUM_BUCKETS


def sentences(rng: random.Random, lexicon: Lexicon, buckets: Collection[int]) -> Iterator[tuple[str, ...]]:
    """Endless sentences of these buckets, none twice."""
    seen: set[tuple[str, ...]] = set()
    while True:
        words = tuple(entry.spelling for entry in sample_sentence(rng, lexicon))
        if words not in seen and bucket(words) in buckets:
            seen.add(words)
            yield words


def round1_requests(seed: int, num_utterances: int) -> list[SpeechRequest]:
    """What Round 1 and the listening models learn from: every word, no sentence and no voice of the demo's own data."""
    rng = random.Random(f"round1 {seed}")
    stream = sentences(rng, load_lexicon(), set(range(NUM_BUCKETS)) - {TEST_BUCKET, TRAIN_BUCKET})
    return [
        SpeechRequest(words=next(stream), voice=draw_manner(rng, ROUND1_VOICES.draw(rng)))
        for _ in range(num_utterances)
    ]


def train_lexicon(seed: int, held_out_frac: float) -> Lexicon:
    """The words of Round 2's training."""
    lexicon = load_lexicon()
    open_words = [entry.spelling for entry in lexicon.entries if entry.category in OPEN_CATEGORIES]
    num_held_out = min(round(held_out_frac * len(lexicon.entries)), len(open_words))
    held_out = set(random.Random(f"held out {seed}").sample(open_words, num_held_out))
    return lexicon.restrict([entry.spelling for entry in lexicon.entries if entry.spelling not in held_out])


def plan(seed: int, config: CorpusConfig) -> list[Planned]:
    """All utterances of all splits, in manifest order; the same seed gives the same plan."""
    rng = random.Random(f"train {seed}")
    stream = sentences(rng, train_lexicon(seed, config.held_out_frac), {TRAIN_BUCKET})
    single = [(next(stream),) for _ in range(config.num_train)]
    long = [tuple(next(stream) for _ in range(rng.randint(6, 7))) for _ in range(config.num_long)]
    planned = _plan_split("train", rng, TRAIN_VOICES, single, long, DOMAINS, config)
    rng = random.Random(f"test {seed}")
    stream = sentences(rng, load_lexicon(), {TEST_BUCKET})
    said = [(next(stream),) for _ in range(config.num_test)]
    for domain in DOMAINS:
        planned += _plan_split(f"test_{domain}", rng, TEST_VOICES, said, [], (domain,), config)
    return planned


def _plan_split(
    split: str,
    rng: random.Random,
    voices: VoiceGroup,
    single: list[tuple[tuple[str, ...], ...]],
    long: list[tuple[tuple[str, ...], ...]],
    domains: tuple[Domain, ...],
    config: CorpusConfig,
) -> list[Planned]:
    """Deal utterances to recordings, recordings to domains and voices; names come after a shuffle and say nothing."""
    size = config.recording_utterances
    single = rng.sample(single, len(single))
    recordings = [single[start : start + size] for start in range(0, len(single), size)] + [[texts] for texts in long]
    variants = rng.sample(voices.variants, len(voices.variants))
    cast = []
    for index, texts in enumerate(recordings):
        domain = domains[index % len(domains)]
        cast.append((texts, domain, variants[index // len(domains) % len(variants)]))
    rng.shuffle(cast)
    rows = []
    for number, (texts, domain, variant) in enumerate(cast):
        person = draw_manner(rng, variant)
        noise_rng = np.random.default_rng(rng.getrandbits(64))
        draw = Condition.whatsapp if domain == "whatsapp" else Condition.clean
        condition = draw(noise_rng, config.channel)
        for sentences_said in texts:
            requests = tuple(SpeechRequest(words=words, voice=vary(rng, person)) for words in sentences_said)
            rows.append((f"r{number:03d}", f"s{voices.variants.index(variant):02d}", domain, requests, condition))
    rng.shuffle(rows)
    prefix = split.replace("_", "-")
    return [
        Planned(
            split=split, id=f"{prefix}-{index:04d}", recording=f"{prefix}-{recording}",
            speaker=f"{split.partition('_')[0]}-{speaker}", domain=domain, requests=requests, condition=condition,
        )
        for index, (recording, speaker, domain, requests, condition) in enumerate(rows)
    ]  # fmt: skip


def join_speech(speeches: Sequence[Speech], rng: np.random.Generator) -> Speech:
    """Sentences in a row, with silence before, between and after them."""
    pieces, words, num_samples = [], [], 0
    for index, speech in enumerate(speeches):
        pause_s = rng.uniform(0.1, 0.4) if index == 0 else rng.uniform(0.3, 0.9)
        pieces += [np.zeros(round(SAMPLE_RATE_HZ * pause_s), np.float32), speech.samples]
        words += [word.shift((num_samples + len(pieces[-2])) / SAMPLE_RATE_HZ) for word in speech.words]
        num_samples += len(pieces[-2]) + len(pieces[-1])
    pieces.append(np.zeros(round(SAMPLE_RATE_HZ * rng.uniform(0.1, 0.4)), np.float32))
    return Speech(samples=np.concatenate(pieces), words=tuple(words))


def build_corpus(
    out_dir: Path,
    seed: int,
    config: CorpusConfig | None = None,
    num_workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `train`, `test_clean` and `test_whatsapp` (manifest.jsonl and audio), and truth.jsonl beside them.

    An interrupted build continues; a finished one is left as it is. `on_progress` gets steps done and steps in all.
    Raises DataError when the folder holds a corpus of another seed or configuration.
    """
    config = config or CorpusConfig()
    lexicon = [asdict(entry) for entry in load_lexicon().entries]
    made_of = {"seed": seed, "config": config.model_dump(mode="json"), "lexicon": hash_json(lexicon)}
    made_of_path, truth_path, speech_dir = out_dir / "corpus.json", out_dir / TRUTH, out_dir / ".speech"
    if made_of_path.exists() and (before := read_own(made_of_path, _REMEDY)) != made_of:
        raise DataError(f"{out_dir} holds the corpus of {before}, not of {made_of}: choose another folder")
    write_json(made_of_path, made_of)
    if not truth_path.exists():  # written last
        planned = plan(seed, config)
        damage = plan_damage(seed, config, planned)
        requests = [request for utterance in planned for request in utterance.requests]
        num_steps, steps = len(planned) + math.ceil(len(requests) / SHARD_REQUESTS), itertools.count(1)
        step = (lambda: on_progress(next(steps), num_steps)) if on_progress else (lambda: None)
        speeches = synthesise(requests, speech_dir, num_workers, on_shard=step)
        spoken = ((utterance, [next(speeches) for _ in utterance.requests]) for utterance in planned)

        def record(one: tuple[Planned, list[Speech]]) -> Spoken:
            return record_utterance(out_dir, seed, *one, damage.get(one[0].id))

        truth = []
        for line in in_threads(record, spoken, num_workers):
            truth.append(line)
            step()
        for split in dict.fromkeys(utterance.split for utterance in planned):
            rows = [
                manifest_row(utterance, damage.get(utterance.id)) for utterance in planned if utterance.split == split
            ]
            write_jsonl(out_dir / split / "manifest.jsonl", rows)
        write_jsonl(truth_path, map(asdict, truth))
    shutil.rmtree(speech_dir, ignore_errors=True)


def plan_damage(seed: int, config: CorpusConfig, planned: Sequence[Planned]) -> dict[str, Damage]:
    """Damage by utterance id: as many of each kind in each domain, in the training set's single sentences only."""
    rng = random.Random(f"damage {seed}")
    num_each = round(config.damaged_frac * config.num_train / len(KINDS) / len(DOMAINS))
    damage: dict[str, Damage] = {}
    for domain in DOMAINS:
        single = [u for u in planned if u.split == "train" and u.domain == domain and len(u.requests) == 1]
        damage |= deal_damage(rng, {utterance.id: utterance.text for utterance in single}, num_each)
    return damage


def record_utterance(
    out_dir: Path, seed: int, utterance: Planned, speeches: Sequence[Speech], damage: Damage | None
) -> Spoken:
    """Write the audio of one utterance and return its line of the truth."""
    rng = np.random.default_rng(list(hashlib.sha256(f"{seed} {utterance.id}".encode()).digest()))
    speech = join_speech(speeches, rng)
    if damage:
        speech = damage_audio(speech, damage)
    samples = utterance.condition.record(speech.samples, rng)
    bitrate_bps = utterance.condition.bitrate_bps
    content = encode(samples, "opus", bitrate_bps) if bitrate_bps else encode_flac(samples)
    write_bytes(out_dir / utterance.split / utterance.audio, content)
    return Spoken(
        id=utterance.id,
        split=utterance.split,
        kind=damage.kind if damage else "clean",
        domain=utterance.domain,
        duration_s=len(samples) / SAMPLE_RATE_HZ,
        reference=" ".join(word.word for word in speech.words),
        words=tuple((word.word, round(word.start_s, 3), round(word.end_s, 3)) for word in speech.words),
    )


def manifest_row(utterance: Planned, damage: Damage | None) -> dict:
    """What the data set says about an utterance."""
    return {
        "audio": utterance.audio,
        "text": damage.text if damage else utterance.text,
        "id": utterance.id,
        "recording": utterance.recording,
        "speaker": utterance.speaker,
        "domain": utterance.domain,
    }
