"""Any CTC model of transformers as a second opinion: what it hears, and the text's best path over the same frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCTC, AutoProcessor

from shibolet.errors import ModelError
from shibolet.listen.protocols import Hearing
from shibolet.model.load import identity_of

IMPOSSIBLE = -1e9
WINDOW_SAMPLES = 10 * 16000
MARGIN_SAMPLES = 16000


@dataclass(frozen=True, slots=True)
class ForcedPath:
    """The likeliest CTC path of a token sequence over T frames."""

    score: float  # log-probability
    frame_scores: np.ndarray  # [T] log-probability of the symbol taken at each frame
    token_at: np.ndarray  # [T] index of the token that a frame belongs to: its own, or for a blank the token before
    on_token: np.ndarray  # [T] whether the frame is the token itself and no blank


def viterbi(logp: np.ndarray, tokens: np.ndarray, blank: int) -> ForcedPath | None:
    """Likeliest alignment of `tokens` [L] to `logp` [T, V] under CTC's rules (Graves et al. 2006, section 4).

    None when T frames cannot hold the tokens (a repeated token needs a blank between).
    """
    num_frames, num_states = len(logp), 2 * len(tokens) + 1
    symbols = np.full(num_states, blank)
    symbols[1::2] = tokens
    # A token may be reached from the token before it, skipping the blank, unless both are the same.
    may_skip = np.zeros(num_states, bool)
    may_skip[3::2] = tokens[1:] != tokens[:-1]
    emit = logp[:, symbols]
    best = np.full(num_states, IMPOSSIBLE)
    best[:2] = emit[0, :2]
    came_from = np.zeros((num_frames, num_states), np.int8)
    for t in range(1, num_frames):
        one = np.concatenate(([IMPOSSIBLE], best[:-1]))
        two = np.where(may_skip, np.concatenate(([IMPOSSIBLE, IMPOSSIBLE], best[:-2])), IMPOSSIBLE)
        options = np.stack([best, one, two])
        came_from[t] = options.argmax(0)
        best = options.max(0) + emit[t]
    state = num_states - 1 if num_states == 1 or best[-1] >= best[-2] else num_states - 2
    score = float(best[state])
    if score <= IMPOSSIBLE / 2:
        return None
    states = np.empty(num_frames, np.int64)
    for t in range(num_frames - 1, -1, -1):
        states[t] = state
        state -= int(came_from[t, state])
    frame_scores = emit[np.arange(num_frames), states]
    return ForcedPath(score, frame_scores, np.maximum((states + 1) // 2 - 1, 0), states % 2 == 1)


def windows(num_samples: int) -> list[tuple[int, int, int, int]]:
    """Spans (start, end, head, tail) in samples that cover a clip; head and tail are heard for context and dropped."""
    if num_samples <= WINDOW_SAMPLES:
        return [(0, num_samples, 0, 0)]
    spans = []
    for first in range(0, num_samples, WINDOW_SAMPLES):
        start, end = max(0, first - MARGIN_SAMPLES), min(num_samples, first + WINDOW_SAMPLES + MARGIN_SAMPLES)
        spans.append((start, end, first - start, max(0, end - first - WINDOW_SAMPLES)))
    return spans


class CtcRecogniser:
    """`Recogniser` over a `...ForCTC` checkpoint; frames are taken as evenly spread over the clip."""

    def __init__(self, path: Path, *, device: str = "cpu", batch_clips: int = 16) -> None:
        self.identity = identity_of(path)
        self._processor = AutoProcessor.from_pretrained(path)
        self._model = AutoModelForCTC.from_pretrained(path, dtype=torch.float32, use_safetensors=True).to(device).eval()
        self._device, self._batch_clips = device, batch_clips
        tokenizer = self._processor.tokenizer
        self._vocabulary = tokenizer.get_vocab()
        self._letters = {index: token for token, index in self._vocabulary.items()}
        self._blank = self._model.config.pad_token_id
        self._space = self._vocabulary.get(getattr(tokenizer, "word_delimiter_token", None) or "|")
        if self._space is None:
            raise ModelError(f"the CTC model in {path} has no word delimiter in its vocabulary")

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
        while len(heard) < len(order):
            batch = order[len(heard) : len(heard) + self._batch_clips]
            for i, logp in zip(batch, self._emit([pieces[i][0] for i in batch]), strict=True):
                samples, head, tail = pieces[i]
                first, last = (round(len(logp) * at / len(samples)) for at in (head, len(samples) - tail))
                heard[i] = logp[first:last]
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
            clips, sampling_rate=16000, padding=True, return_attention_mask=True, return_tensors="pt"
        ).to(self._device)
        logits = self._model(**inputs).logits.float().log_softmax(-1).cpu().numpy()
        lengths = inputs["attention_mask"].sum(-1)
        if "input_values" in inputs:
            lengths = self._model._get_feat_extract_output_lengths(lengths)
        return [rows[: int(n)] for rows, n in zip(logits, lengths, strict=True)]

    def token_ids(self, word: str) -> list[int]:
        """Ids of a word's letters; letters that the model does not know are left out."""
        known = (
            self._vocabulary.get(c, self._vocabulary.get(c.upper(), self._vocabulary.get(c.lower()))) for c in word
        )
        return [i for i in known if i is not None]

    def hear(self, clips: Sequence[np.ndarray], words: Sequence[list[str]]) -> list[Hearing]:
        emitted = self.emissions(clips)
        return [self.judge(e, len(c) / 16000, w) for e, c, w in zip(emitted, clips, words, strict=True)]

    def judge(self, logp: np.ndarray, duration_s: float, words: list[str]) -> Hearing:
        """The hearing of one clip from its emissions; any number of texts can be judged on the same ones."""
        best = logp.argmax(-1)
        starts = np.flatnonzero((best != self._blank) & np.concatenate(([True], best[1:] != best[:-1])))
        hypothesis = " ".join(
            "".join(" " if best[t] == self._space else self._letters[int(best[t])] for t in starts).split()
        )
        frame_s = duration_s / len(logp)
        letter_times = starts[best[starts] != self._space] * frame_s
        tokens, owner = [], []
        for index, word in enumerate(words):
            letters = self.token_ids(word)
            if tokens and letters:
                tokens.append(self._space)
                owner.append(index)
            tokens += letters
            owner += [index] * len(letters)
        path = viterbi(logp, np.array(tokens), self._blank) if tokens else None
        if path is None:  # more letters than frames, or none that this model knows
            return Hearing(
                hypothesis=hypothesis, text_score=IMPOSSIBLE if tokens else 0.0,
                word_scores=np.full(len(words), IMPOSSIBLE if tokens else 0.0), letter_times_s=letter_times,
            )  # fmt: skip
        loss = path.frame_scores - logp.max(-1)
        word_at = np.array(owner)[path.token_at]
        by_word = np.bincount(word_at, weights=loss, minlength=len(words))
        on_letter = path.on_token & (np.array(tokens)[path.token_at] != self._space)
        letters = np.maximum(1, [len(self.token_ids(word)) for word in words])
        return Hearing(
            hypothesis=hypothesis,
            text_score=float(loss.sum() / letters.sum()),
            word_scores=by_word / letters,
            letter_times_s=letter_times,
            word_spans_s=_spans(word_at[on_letter], np.flatnonzero(on_letter), len(words)) * frame_s,
        )


def _spans(words: np.ndarray, frames: np.ndarray, num_words: int) -> np.ndarray:
    """First and last frame + 1 of each word `[W, 2]`; a word without a letter takes the end of the one before."""
    spans = np.zeros((num_words, 2))
    for index in range(num_words):
        own = frames[words == index]
        spans[index] = (own[0], own[-1] + 1) if len(own) else spans[index - 1, 1] if index else 0
    return spans
