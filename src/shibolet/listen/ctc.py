"""Any CTC model of transformers: what it hears, how well a text explains the same frames, and where its words are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCTC, AutoProcessor

from shibolet.errors import ModelError
from shibolet.listen.batches import by_audio, forward_lock, pack_audio_s
from shibolet.listen.checkpoints import open_model
from shibolet.listen.protocols import Alignment, Hearing
from shibolet.listen.viterbi import IMPOSSIBLE, ForcedPath, forced_paths
from shibolet.model.folders import from_folder, identity_of, opening, read_mapping
from shibolet.speech.activity import HANGOVER_S, speech_spans
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.text import get_language

WINDOW_SAMPLES = 10 * SAMPLE_RATE_HZ
MARGIN_SAMPLES = SAMPLE_RATE_HZ
LAG_CLIPS = 32  # that the lag is measured on
MAX_LAG_S = 0.5
NUM_SPECIAL = 4  # symbols of a model (start, end, padding, unknown) that some vocabularies leave out
LAG_PAUSE_S = 0.4  # a pause that the letters on both sides are told apart by

# Latin letters for Hebrew ones, in the manner of uroman, for vocabularies that have no others (MMS aligners). What is
# neither in the vocabulary nor here (digits, other scripts) is left out: a word of such letters has no span of its own.
_LATIN = "' b g d h v z h t y k k l m m n n s ' p p ts ts q r sh t".split()
ROMAN = dict(zip("אבגדהוזחטיךכלםמןנסעףפץצקרשת", _LATIN, strict=True))


def windows(num_samples: int) -> list[tuple[int, int, int, int]]:
    """Spans (start, end, head, tail) in samples that cover a clip; head and tail are heard for context and dropped."""
    if num_samples <= WINDOW_SAMPLES:
        return [(0, num_samples, 0, 0)]
    spans = []
    for first in range(0, num_samples, WINDOW_SAMPLES):
        start, end = max(0, first - MARGIN_SAMPLES), min(num_samples, first + WINDOW_SAMPLES + MARGIN_SAMPLES)
        spans.append((start, end, first - start, max(0, end - first - WINDOW_SAMPLES)))
    return spans


@dataclass(frozen=True, slots=True)
class Spoken:
    """A clip's emissions and the path of its text through them; frames are taken as evenly spread over the clip."""

    logp: np.ndarray  # [T, V]
    frame_s: float
    letters: np.ndarray  # [W] number of each word's letters that the model knows
    path: ForcedPath | None  # None: none of them, or more than frames
    word_at: np.ndarray  # [T] the word that a frame belongs to
    on_letter: np.ndarray  # [T] whether it is one of its letters, and no blank or space

    def word_spans_s(self, lag_s: tuple[float, float]) -> np.ndarray:
        """Start and end of each word [W, 2] in order, less the model's lag; one without a letter is empty."""
        frames, spans = np.flatnonzero(self.on_letter), np.zeros((len(self.letters), 2))
        for index in range(len(spans)):
            own = frames[self.word_at[frames] == index]
            spans[index] = (own[0], own[-1] + 1) if len(own) else spans[index - 1, 1] if index else 0
        starts_s, ends_s = (spans * self.frame_s - lag_s).T
        # The two lags are measured apart: without letters a word stays empty, with some it is no shorter than a frame,
        # and none goes on into the next.
        starts_s = np.maximum.accumulate(starts_s)
        ends_s = np.maximum(ends_s, starts_s + self.frame_s)
        ends_s = np.where(self.letters > 0, np.minimum(ends_s, np.append(starts_s[1:], np.inf)), starts_s)
        return np.stack([starts_s, ends_s], axis=1)


class CtcModel:
    """A `...ForCTC` checkpoint with its processor."""

    def __init__(self, path: Path, language: str, *, device: str = "cpu") -> None:
        adapter = _adapter(path, language)
        self._processor = from_folder(AutoProcessor, path, **adapter)
        sizes = {"ignore_mismatched_sizes": True} if adapter else {}
        self._model = open_model(AutoModelForCTC, path, device, **adapter, **sizes)
        self.identity = identity_of(path)
        with opening(path):  # where there is no tokenizer, it is a feature extractor alone
            tokenizer = self._processor.tokenizer
        self._vocabulary = tokenizer.get_vocab()
        self._letters = {index: token for token, index in self._vocabulary.items()}
        self._special = set(tokenizer.all_special_ids)
        num_symbols = self._model.config.vocab_size
        without = [i for i in range(num_symbols) if i not in self._letters]
        if len(without) > NUM_SPECIAL:
            raise ModelError(
                f"the CTC model in {path} writes {num_symbols} symbols, and its vocabulary has nothing for "
                f"{len(without)} of them, the first is {without[0]}; are model and vocabulary of one place?"
            )
        self.blank = self._model.config.pad_token_id
        # None: an aligner's vocabulary, without a sign between words
        self.space = self._vocabulary.get(getattr(tokenizer, "word_delimiter_token", None) or "|")
        # A group norm over time sees padding, mask or not: such a model takes one clip at a time.
        alone = getattr(self._model.config, "feat_extract_norm", None) == "group"
        self._max_batch_s = 0.0 if alone else pack_audio_s(self._model.device)
        self._forward = forward_lock(self._model.device)
        script = re.compile(f"[{get_language(language).letters}]")
        writes_script = any(script.fullmatch(letter) for letter in self._vocabulary)
        # It can align the words in Latin letters, but writes nothing that could be compared with them.
        self.romanises = not writes_script and any(script.fullmatch(c) and self.token_ids(c) for c in ROMAN)
        # Neither: as a recogniser it is deaf, which an audit's self-test has to find out by itself.
        self.knows_script = writes_script or self.romanises
        self.name = f"the CTC model in {path}"

    def token_ids(self, word: str) -> list[int]:
        """Ids of a word's letters, in Latin ones where the vocabulary has no others; unknown ones are left out."""
        own = [self._token_id(c) for c in word]
        latin = [[self._token_id(r) for r in ROMAN.get(c, "")] if i is None else [i] for c, i in zip(word, own)]
        return [i for ids in latin for i in ids if i is not None]

    def _token_id(self, letter: str) -> int | None:
        ids = (self._vocabulary.get(form) for form in (letter, letter.upper(), letter.lower()))
        return next((i for i in ids if i is not None and i not in self._special), None)

    def text_of(self, ids: Sequence[int]) -> str:
        """The words of a collapsed path."""
        letters = (
            " " if i == self.space else "" if i in self._special else self._letters.get(i, "") for i in map(int, ids)
        )
        return " ".join("".join(letters).split())

    def speak(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Spoken]:
        """Emissions of each clip (mono float32, 16 kHz), and the likeliest path of its words through them.

        A word of which the model knows no letter (digits, another script) may be anything: it is said, and unlike it is
        written. Texts of such words alone have no path.
        """
        emitted = self.emissions(clips)
        any_symbol = emitted[0].shape[1] if emitted else 0  # a column more: whatever is likeliest
        starred = [np.concatenate([logp, logp.max(-1, keepdims=True)], axis=1) for logp in emitted]
        tokens: list[list[int]] = []
        owners: list[np.ndarray] = []  # the word of each token; -1 of a space
        counts: list[np.ndarray] = []
        for said in words:
            own, owner = [], []
            by_word = [self.token_ids(word) for word in said]
            for index, letters in enumerate(by_word):
                letters = letters or [any_symbol]
                if own and self.space is not None:
                    own.append(self.space)
                    owner.append(-1)
                own += letters
                owner += [index] * len(letters)
            tokens.append(own)
            owners.append(np.array(owner, int))
            counts.append(np.array([len(letters) for letters in by_word]))
        fits = [i for i, known in enumerate(counts) if known.any()]
        paths = forced_paths([starred[i] for i in fits], [tokens[i] for i in fits], self.blank)
        path_of = dict(zip(fits, paths, strict=True))
        spoken = []
        for i, (clip, logp) in enumerate(zip(clips, emitted, strict=True)):
            path, none = path_of.get(i), np.zeros(0, int)
            at = owners[i][path.token_at] if path else none
            # A space, and the blanks after it, belong to the word before.
            word_at = np.maximum.accumulate(at) if path else none
            on_letter = path.on_token & (at >= 0) if path else none.astype(bool)
            spoken.append(Spoken(logp, len(clip) / SAMPLE_RATE_HZ / len(logp), counts[i], path, word_at, on_letter))
        return spoken

    def emissions(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Log-probabilities `[T, V]` of each clip; long clips are heard in windows, which bounds memory and time.

        The same array given twice (one audio under several texts) is heard once.
        """
        pieces, owners = [], []
        for index, clip in {id(clip): clip for clip in clips}.items():
            spans = windows(len(clip))
            pieces += [(clip[start:end], head, tail) for start, end, head, tail in spans]
            owners += [index] * len(spans)
        order = sorted(range(len(pieces)), key=lambda i: len(pieces[i][0]))
        heard: dict[int, np.ndarray] = {}
        for first, last in by_audio([pieces[i][0] for i in order], self._max_batch_s):
            batch = order[first:last]
            for i, logp in zip(batch, self._emit([pieces[i][0] for i in batch]), strict=True):
                samples, head, tail = pieces[i]
                begin, end = (round(len(logp) * at / len(samples)) for at in (head, len(samples) - tail))
                heard[i] = logp[begin:end]
        by_clip: dict[int, list[np.ndarray]] = {}
        for i, owner in enumerate(owners):
            by_clip.setdefault(owner, []).append(heard[i])
        whole = {owner: np.concatenate(parts) for owner, parts in by_clip.items()}
        return [whole[id(clip)] for clip in clips]

    @torch.inference_mode()
    def _emit(self, clips: list[np.ndarray]) -> list[np.ndarray]:
        # A tenth of a second is the least that every feature extractor takes.
        clips = [np.pad(clip, (0, max(0, 1600 - len(clip)))) for clip in clips]
        inputs = self._processor(
            clips, sampling_rate=SAMPLE_RATE_HZ, padding=True, return_attention_mask=True, return_tensors="pt"
        )
        lengths = inputs["attention_mask"].sum(-1)
        if "input_values" in inputs:
            lengths = self._model._get_feat_extract_output_lengths(lengths)
        device, dtype = self._model.device, self._model.dtype
        given = {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}
        with self._forward:
            logits = self._model(**given).logits
        logp = logits.float().log_softmax(-1).cpu().numpy()
        return [rows[: int(n)] for rows, n in zip(logp, lengths, strict=True)]

    def lag_s(self, clips: Sequence[np.ndarray], spoken: Sequence[Spoken]) -> tuple[float, float]:
        """How late the first letter comes after speech begins, and the last one after it ends, by energy.

        A CTC model is late by about the same everywhere: this is the median over the edges and the long pauses of the
        first clips. (At a start the hangover of energy's spans makes up for a weak onset, at an end it is taken off.)
        """
        heads, tails = [], []
        own = {id(clip): (clip, s) for clip, s in zip(clips, spoken, strict=True)}
        for clip, s in list(own.values())[:LAG_CLIPS]:
            best = s.logp.argmax(-1)
            letters_s = np.flatnonzero((best != self.blank) & (best != self.space)) * s.frame_s
            spans = speech_spans(clip)
            pauses = [(0.0, 0.0), *((end_s, start_s) for (_, end_s), (start_s, _) in pairwise(spans)), (np.inf, np.inf)]
            for (start_s, end_s), before, after in zip(spans, pauses, pauses[1:]):
                # A letter before the middle of a pause is a late one of the word before it.
                heard = letters_s[(letters_s >= sum(before) / 2) & (letters_s < sum(after) / 2)]
                if not len(heard):
                    continue
                if before[1] == 0 or before[1] - before[0] >= LAG_PAUSE_S:
                    heads.append(heard[0] - start_s)
                if after[0] == np.inf or after[1] - after[0] >= LAG_PAUSE_S:
                    tails.append(heard[-1] + s.frame_s - (end_s - HANGOVER_S))
        middle = lambda values: float(np.clip(np.median(values), -MAX_LAG_S, MAX_LAG_S)) if values else 0.0  # noqa: E731
        return middle(heads), middle(tails)


class CtcAligner:
    """`Aligner` over the path of the words: their letters' times less the model's lag."""

    def __init__(self, model: CtcModel) -> None:
        if not model.knows_script:
            raise ModelError(f"{model.name} knows no letter of the language, and none that could stand for one")
        self.identity, self._model = model.identity, model

    def align(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Alignment]:
        spoken = self._model.speak(clips, words)
        lag_s = self._model.lag_s(clips, spoken)
        return [_alignment(s, lag_s, len(clip) / SAMPLE_RATE_HZ) for s, clip in zip(spoken, clips, strict=True)]


def _alignment(spoken: Spoken, lag_s: tuple[float, float], duration_s: float) -> Alignment:
    if spoken.path is None:  # no room for the words in this audio, or nothing of them that could be heard
        return Alignment(starts_s=np.zeros(len(spoken.letters)), ends_s=np.zeros(len(spoken.letters)))
    starts_s, ends_s = np.clip(spoken.word_spans_s(lag_s), 0.0, duration_s).T
    return Alignment(starts_s=starts_s, ends_s=ends_s)


class CtcRecogniser:
    """`Recogniser` over the same path, against the free best one."""

    def __init__(self, model: CtcModel) -> None:
        if model.romanises:
            raise ModelError(f"{model.name} writes Latin letters: it can be the aligner, but not the recogniser")
        self.identity, self._model = model.identity, model

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        spoken = self._model.speak(clips, words)
        lag_s = self._model.lag_s(clips, spoken)
        return [self._judge(s, lag_s) for s in spoken]

    def _judge(self, spoken: Spoken, lag_s: tuple[float, float]) -> Hearing:
        model, logp, num_words = self._model, spoken.logp, len(spoken.letters)
        best = logp.argmax(-1)
        starts = np.flatnonzero((best != model.blank) & np.concatenate(([True], best[1:] != best[:-1])))
        hypothesis = model.text_of(best[starts])
        letter_times_s = starts[best[starts] != model.space] * spoken.frame_s
        if spoken.path is None:
            score = IMPOSSIBLE if spoken.letters.any() else None  # no letter that the model knows: it cannot say
            return Hearing(
                hypothesis=hypothesis, text_score=score, text_logp=score, worst_score=score,
                letter_times_s=letter_times_s,
            )  # fmt: skip
        loss, letters = spoken.path.frame_scores - logp.max(-1), np.maximum(1, spoken.letters)
        word_scores = np.bincount(spoken.word_at, weights=loss, minlength=num_words) / letters
        return Hearing(
            hypothesis=hypothesis,
            text_logp=float(spoken.path.frame_scores.sum() / letters.sum()),
            text_score=float(loss.sum() / letters.sum()),
            worst_score=float(word_scores.min()),
            letter_times_s=letter_times_s,
            word_spans_s=spoken.word_spans_s(lag_s),
        )


def _adapter(path: Path, language: str) -> dict[str, str]:
    """The arguments that choose a language of a checkpoint with an adapter for each (MMS)."""
    file = path / "vocab.json"
    vocabulary = read_mapping(str(path), file) if file.is_file() else {}
    if not any(isinstance(value, dict) for value in vocabulary.values()):
        return {}
    code = next((code for code in get_language(language).other_codes if code in vocabulary), None)  # of three letters
    if code is None:
        raise ModelError(
            f"the CTC model in {path} has adapters for {len(vocabulary)} languages, and none for {language}"
        )
    if not (adapter := path / f"adapter.{code}.safetensors").is_file():  # transformers would open a pickle instead
        raise ModelError(f"the CTC model in {path} has no {adapter.name}; download it again, with that file")
    return {"target_lang": code}
