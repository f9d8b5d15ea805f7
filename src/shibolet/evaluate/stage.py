"""Stage: what a model hears in a set of recordings, scored, on disk. Which sets and which models is for others to say.

<out_dir>/hypotheses.jsonl  one line an utterance, in the set's order, texts as they came
          scores.json       WER and CER in all and by slice, what failed, and what both files were made from
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile as sf
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3ASRFeatureExtractor

from shibolet.errors import AudioError, DataError
from shibolet.evaluate.config import EvaluateConfig
from shibolet.listen.transcribe import Transcriber
from shibolet.model.load import LoadedModel
from shibolet.records.files import hash_json, read_json, read_jsonl, write_json, write_jsonl
from shibolet.records.ledger import LedgerLine
from shibolet.records.manifest import manifest_hash
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.intervals import rate_interval
from shibolet.scoring.rows import ScoredRow, score_row
from shibolet.scoring.slices import Buckets, pool_by_slice
from shibolet.speech import audio
from shibolet.speech.text import get_language

HYPOTHESES, SCORES = "hypotheses.jsonl", "scores.json"
ROW_FIELDS = ("id", "reference", "hypothesis", "duration_s", "domain", "recording", "speaker", "source")

Progress = Callable[[int, int], None]  # utterances done, utterances in all
DevScorer = Callable[[PreTrainedModel, PreTrainedTokenizerBase, Qwen3ASRFeatureExtractor], dict]
ShareOut = Callable[[Callable[[Sequence], list], Sequence], list]  # (work, items) -> work(items), done by several


class Hearer(Protocol):
    """What evaluation needs of a transcriber."""

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]: ...

    def transcribe_long(self, samples: np.ndarray, max_piece_s: float) -> str: ...


def evaluate_set(
    transcriber: Hearer,
    utterances: Sequence[Utterance],
    *,
    set_name: str,
    language: str,
    config: EvaluateConfig,
    out_dir: Path,
    model_name: str,
    identity: str,
    ledger: Sequence[LedgerLine] = (),
    on_progress: Progress | None = None,
) -> dict:
    """Transcribe and score a set, write both files into `out_dir`, and return the content of `scores.json`.

    An utterance that cannot be decoded is scored as an empty hypothesis and listed under "failures"; `ledger` names the
    rows of the set that never became utterances, listed under "unreadable_rows". A result that `out_dir` already holds
    for the same model identity, data and settings is returned as it is.
    """
    if not utterances:
        raise DataError(f"set '{set_name}' has no utterances")
    if repeated := [id for id, times in Counter(utterance.id for utterance in utterances).items() if times > 1]:
        raise DataError(f"set '{set_name}': utterance id '{repeated[0]}' occurs twice; ids must be unique in a set")
    spoken = get_language(language)
    unreadable = [{"id": line.id, "reason": line.rule, "detail": line.detail} for line in ledger]
    inputs = {
        "identity": identity,
        "data": hash_json([manifest_hash(utterances), unreadable]),
        "language": spoken.name,
        "normaliser": spoken.scoring_version,
        "config": config.model_dump(mode="json", exclude={"sets"}),
    }
    if (out_dir / SCORES).is_file() and (found := read_json(out_dir / SCORES))["inputs"] == inputs:
        return found
    hypotheses, failures = _hear(transcriber, utterances, config, on_progress)
    rows = [
        score_row(utterance, text, set=set_name, normaliser=spoken.to_scoring)
        for utterance, text in zip(utterances, hypotheses, strict=True)
    ]
    scores = {
        "model": model_name,
        "identity": identity,
        "set": set_name,
        "language": spoken.name,
        "normaliser": spoken.scoring_version,
        **summarise(rows, config.buckets_s, with_intervals=True),
        "failures": failures,
        "unreadable_rows": unreadable,
        "inputs": inputs,
    }
    write_jsonl(out_dir / HYPOTHESES, [_line(u, text) for u, text in zip(utterances, hypotheses, strict=True)])
    write_json(out_dir / SCORES, scores)  # last: where it is, both are whole
    return scores


def summarise(rows: Sequence[ScoredRow], buckets: Buckets, *, with_intervals: bool = False) -> dict:
    """JSON of WER and CER in all, by domain, by duration bucket, and by set where there are several.

    With `with_intervals` both carry "interval": [low, high] of the rate at 95% over "recordings", null when there are
    fewer than two.
    """
    slices = pool_by_slice(rows, buckets)
    scores = {
        "num_utterances": len(rows),
        "num_empty_hypotheses": sum(not row.hypothesis.strip() for row in rows),
        "duration_s": slices["overall"]["duration_s"],
        "wer": slices["overall"]["wer"],
        "cer": slices["overall"]["cer"],
        "by_domain": slices["domains"],
        "by_bucket": slices["buckets"],
    }
    if len(slices["sets"]) > 1:
        scores["by_set"] = slices["sets"]
    if with_intervals:
        clusters = [row.cluster for row in rows]
        for measure, counts in (("wer", [row.words for row in rows]), ("cer", [row.chars for row in rows])):
            estimate = rate_interval(counts, clusters)
            scores[measure]["interval"] = None if estimate.low is None else [estimate.low, estimate.high]
            scores[measure]["recordings"] = estimate.num_clusters
    return scores


def read_rows(out_dir: Path) -> list[ScoredRow]:
    """The scored utterances of an evaluated set, in its order; DataError when it is not there or scored otherwise."""
    if not (out_dir / SCORES).is_file():
        raise DataError(f"{out_dir}: no {SCORES}; run 'shibolet evaluate' first")
    scores = read_json(out_dir / SCORES)
    spoken = get_language(scores["language"])
    if scores["normaliser"] != spoken.scoring_version:
        raise DataError(
            f"{out_dir}: scored with normaliser '{scores['normaliser']}', this version has '{spoken.scoring_version}'; "
            "run 'shibolet evaluate' again"
        )
    return [
        score_row(
            Utterance(
                id=line["id"], audio=AudioRef(path=""), text=line["reference"], duration_s=line["duration_s"],
                source=line["source"], recording=line["recording"], speaker=line["speaker"], domain=line["domain"],
            ),
            line["hypothesis"], set=scores["set"], normaliser=spoken.to_scoring,
        )
        for line in read_jsonl(out_dir / HYPOTHESES)
    ]  # fmt: skip


def dev_scorer(
    rows: Iterable[Mapping[str, Any]], language: str, config: EvaluateConfig, share_out: ShareOut | None = None
) -> DevScorer:
    """A function that scores a model, which must be in evaluation mode, on the dev set: the JSON of `summarise`.

    `rows` are those of the prepared dev shards: id, audio, text, duration_s, domain, recording, speaker. Audio is
    decoded once, here. With `share_out` several processes transcribe a part each, and all have the score.
    """
    spoken = get_language(language)
    utterances, clips = [], []
    for row in rows:
        samples, rate_hz = sf.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        if rate_hz != audio.SAMPLE_RATE_HZ or samples.ndim != 1:
            raise DataError(f"dev utterance '{row['id']}' is not mono at 16,000 Hz; run 'shibolet prepare' again")
        clips.append(samples)
        fields = {name: row[name] for name in ("id", "text", "duration_s", "domain", "recording", "speaker")}
        utterances.append(Utterance(audio=AudioRef(path=""), source="dev", **fields))
    if not any(spoken.to_scoring(utterance.text) for utterance in utterances):
        raise DataError("the dev set has no words to score; raise prepare.dev_frac")

    def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, extractor: Qwen3ASRFeatureExtractor) -> dict:
        transcriber = Transcriber(
            LoadedModel(model, tokenizer, extractor, path=Path(), identity="in training"), spoken.name,
            batch_utterances=config.batch_utterances, max_new_tokens_per_s=config.max_new_tokens_per_s,
        )  # fmt: skip
        texts = share_out(transcriber.transcribe, clips) if share_out else transcriber.transcribe(clips)
        scored = [
            score_row(utterance, text, set="dev", normaliser=spoken.to_scoring)
            for utterance, text in zip(utterances, texts, strict=True)
        ]
        return summarise(scored, config.buckets_s)

    return score


def _hear(
    transcriber: Hearer, utterances: Sequence[Utterance], config: EvaluateConfig, on_progress: Progress | None
) -> tuple[list[str], list[dict]]:
    """Hypotheses in the set's order, and the failures; audio of one batch is in memory at a time."""
    texts, failures = [""] * len(utterances), {}
    order = sorted(range(len(utterances)), key=lambda i: (-utterances[i].duration_s, i))
    for first in range(0, len(order), config.batch_utterances):
        clips: dict[int, np.ndarray] = {}
        for i in order[first : first + config.batch_utterances]:
            try:
                samples = audio.load(utterances[i].audio)
            except AudioError as error:
                failures[i] = {"id": utterances[i].id, "reason": error.reason, "detail": str(error)}
                continue
            if len(samples) > config.max_piece_s * audio.SAMPLE_RATE_HZ:
                texts[i] = transcriber.transcribe_long(samples, config.max_piece_s)
            else:
                clips[i] = samples
        for i, text in zip(clips, transcriber.transcribe(list(clips.values())), strict=True):
            texts[i] = text
        if on_progress is not None:
            on_progress(min(first + config.batch_utterances, len(order)), len(order))
    return texts, [failures[i] for i in sorted(failures)]


def _line(utterance: Utterance, hypothesis: str) -> dict:
    values = {**utterance.to_json(), "reference": utterance.text, "hypothesis": hypothesis}
    return {name: values[name] for name in ROW_FIELDS}
