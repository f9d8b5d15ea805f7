"""Stage: what a model hears in a set of recordings, scored, on disk. Which sets and which models is for others to say.

<out_dir>/hypotheses.jsonl  one line an utterance, in the set's order, texts as they came
          listing.txt       every utterance word by word, aligned as sclite does it
          scores.json       WER and CER in all and by slice, kinds of errors, what failed, what all of it was made from
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import soundfile as sf
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3ASRFeatureExtractor

from shibolet.errors import AudioError, DataError
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.hear import Hearer, hear
from shibolet.listen.lazy import Engines
from shibolet.listen.transcribe import Transcriber
from shibolet.model.qwen3_asr.load import LoadedModel
from shibolet.records.files import hash_json, read_json, read_jsonl, write_bytes, write_json, write_jsonl
from shibolet.records.groups import count_groups
from shibolet.records.ledger import LedgerLine
from shibolet.records.manifest import manifest_hash
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.counts import EditCounts, count_chars, count_words
from shibolet.scoring.intervals import rate_interval
from shibolet.scoring.number_aware import number_aware_wer
from shibolet.scoring.rows import ScoredRow, groups_of, score_row
from shibolet.scoring.sclite import Entry, align_weighted, listing
from shibolet.scoring.selection import fold_sums
from shibolet.scoring.slices import Buckets, error_line, pool_by_slice
from shibolet.scoring.tallies import frequent_errors, insertion_tail, loops
from shibolet.speech import audio
from shibolet.speech.activity import estimate_snr_db
from shibolet.speech.text import Language, get_language

HYPOTHESES, LISTING, SCORES = "hypotheses.jsonl", "listing.txt", "scores.json"
FORMAT = 3  # of these files: older ones are made again
ROW_FIELDS = ("id", "reference", "hypothesis", "duration_s", "domain", "recording", "speaker", "source")
NO_HYPOTHESIS = "no_hypothesis"
NOT_OF_A_SET = {"sets", "dev_utterances"}  # settings that change nothing in the scores of a set
SLICES = {  # breakdown -> its key in scores.json
    "domains": "by_domain", "buckets": "by_bucket", "lengths": "by_length", "noise": "by_noise",
    "speakers": "by_speaker", "sets": "by_set",
}  # fmt: skip

Progress = Callable[[int, int], None]  # utterances done, utterances in all
ScoreDev = Callable[[PreTrainedModel, PreTrainedTokenizerBase, Qwen3ASRFeatureExtractor], dict]
ShareOut = Callable[[Callable[[Sequence], list], Sequence], list]  # (work, items) -> work(items), done by several


def evaluate_set(
    transcriber: Hearer | Engines,
    utterances: Sequence[Utterance],
    *,
    set_name: str,
    language: str,
    config: EvaluateConfig,
    out_dir: Path,
    model_name: str,
    identity: str,
    ledger: Sequence[LedgerLine] = (),
    overlap: dict | None = None,
    on_progress: Progress | None = None,
) -> dict:
    """Transcribe and score a set, write its files into `out_dir`, and return the content of `scores.json`.

    An utterance that cannot be decoded is scored as an empty hypothesis and listed under "failures"; so are rows of
    `ledger`, which never became utterances, where their text is known, and the others are listed under
    "unreadable_rows". `overlap` is what the set shares with the model's training data, None where these are not known.
    A result that `out_dir` already holds for the same model identity, data and settings is returned as it is.
    """
    scored = _ScoredSet(
        set_name, get_language(language), config, out_dir, model_name, identity, utterances, ledger, overlap
    )
    return scored.found() or scored.write(*hear(transcriber, utterances, config, on_progress))


def score_hypotheses(
    hypotheses: Mapping[str, str],
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
    """The same files for hypotheses by utterance id that another system made; one without is a failure, and empty."""
    scored = _ScoredSet(set_name, get_language(language), config, out_dir, model_name, identity, utterances, ledger)
    if found := scored.found():
        return found
    failures, snrs_db = [], []
    for number, utterance in enumerate(utterances, 1):
        if utterance.id not in hypotheses:
            detail = "the file of hypotheses has none for it"
            failures.append({"id": utterance.id, "reason": NO_HYPOTHESIS, "detail": detail})
        snrs_db.append(_snr_db(utterance))
        if on_progress is not None:
            on_progress(number, len(utterances))
    return scored.write([hypotheses.get(utterance.id, "") for utterance in utterances], failures, snrs_db)


@dataclass(frozen=True)
class _ScoredSet:
    """One system on one set, on disk."""

    set_name: str
    language: Language
    config: EvaluateConfig
    out_dir: Path
    model_name: str
    identity: str
    utterances: Sequence[Utterance]
    ledger: Sequence[LedgerLine]
    overlap: dict | None = None

    def __post_init__(self) -> None:
        if not self.utterances:
            raise DataError(f"set '{self.set_name}' has no utterances")
        if repeated := [id for id, times in Counter(u.id for u in self.utterances).items() if times > 1]:
            raise DataError(f"set '{self.set_name}': utterance id '{repeated[0]}' occurs twice; ids must be unique")

    @cached_property
    def unreadable(self) -> list[dict]:
        """Rows of which nothing can be counted."""
        return [_failure(line) for line in self.ledger if line.text is None]

    @cached_property
    def unheard(self) -> list[LedgerLine]:
        """Rows whose text is known and whose audio is not: their words count as deleted."""
        return [line for line in self.ledger if line.text is not None]

    @cached_property
    def inputs(self) -> dict:
        return {
            "format": FORMAT,
            "identity": self.identity,
            "data": hash_json([manifest_hash(self.utterances), [asdict(line) for line in self.ledger]]),
            "language": self.language.name,
            "normaliser": self.language.scoring_version,
            "config": self.config.model_dump(mode="json", exclude=NOT_OF_A_SET),
            "overlap": None if self.overlap is None else hash_json(self.overlap),
        }

    def found(self) -> dict | None:
        """What was written before from the same inputs."""
        path = self.out_dir / SCORES
        return found if path.is_file() and (found := read_json(path))["inputs"] == self.inputs else None

    def write(self, hypotheses: Sequence[str], failures: list[dict], snrs_db: Sequence[float | None]) -> dict:
        lines = [
            _line(utterance, text, snr_db)
            for utterance, text, snr_db in zip(_with_files(self.utterances), hypotheses, snrs_db, strict=True)
        ] + [_line(_unheard(line), "", None) for line in self.unheard]
        rows = [_row(line, self.set_name, self.language) for line in lines]
        scores = {
            "model": self.model_name,
            "identity": self.identity,
            "set": self.set_name,
            **describe(rows, self.language, self.config.buckets_s),
            "failures": [*failures, *map(_failure, self.unheard)],
            "unreadable_rows": self.unreadable,
            "overlap": self.overlap,
            "inputs": self.inputs,
        }
        write_jsonl(self.out_dir / HYPOTHESES, lines)
        write_bytes(self.out_dir / LISTING, _listing(rows, self.model_name, self.language).encode())
        write_json(self.out_dir / SCORES, scores)  # last: where it is, all are whole
        return scores


def _failure(line: LedgerLine) -> dict:
    return {"id": line.id, "reason": line.rule, "detail": line.detail}


def _unheard(line: LedgerLine) -> Utterance:
    return Utterance(
        id=line.id, audio=AudioRef(path=""), text=line.text or "", duration_s=line.duration_s or 0.0,
        source=line.source, recording=line.recording, speaker=line.speaker,
    )  # fmt: skip


def _with_files(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The same, with a file that several of them lie in as the recording of those whose own is not known."""
    place = lambda u: (u.audio.path, u.audio.row)  # noqa: E731
    times = Counter(map(place, utterances))
    return [
        replace(u, recording=Path(u.audio.path).name + ("" if u.audio.row is None else f" row {u.audio.row}"))
        if u.recording is None and times[place(u)] > 1
        else u
        for u in utterances
    ]


def describe(rows: Sequence[ScoredRow], language: Language, buckets: Buckets) -> dict:
    """JSON of all that is known of one system on one set: `summarise` with intervals, kinds of errors, normalisers.

    "as_target" are WER and CER by the rules of training targets, where punctuation and quotation marks count.
    "number_aware" is WER with numbers compared as they are said; files of earlier versions have none.
    """
    texts = [(language.to_target(row.reference), language.to_target(row.hypothesis)) for row in rows]
    words = sum((count_words(*pair) for pair in texts), EditCounts())
    chars = sum((count_chars(*pair) for pair in texts), EditCounts())
    return {
        "language": language.name,
        "normaliser": language.scoring_version,
        **summarise(rows, buckets, with_intervals=True),
        "as_target": {
            "normaliser": language.target_version, "wer": words.to_json("words"), "cer": chars.to_json("chars"),
        },
        "number_aware": number_aware_wer(rows, language),
        "insertion_tail": insertion_tail(rows),
        "loops": loops(rows),
        "frequent_errors": frequent_errors(rows),
    }  # fmt: skip


def summarise(rows: Sequence[ScoredRow], buckets: Buckets, *, with_intervals: bool = False) -> dict:
    """JSON of WER and CER in all, by domain, duration bucket, length, and where known by set, speaker and noise.

    With `with_intervals` both carry "interval": [low, high] of the rate at 95%, null when there are too few "groups" of
    recordings and speakers; "counted" says what these are, "caveat" why an interval may be too narrow.
    """
    slices = pool_by_slice(rows, buckets)
    scores = {
        "num_utterances": len(rows),
        "num_empty_hypotheses": sum(not row.hypothesis.strip() for row in rows),
        **{name: slices["overall"][name] for name in ("duration_s", "wer", "cer")},
        **{key: slices[name] for name, key in SLICES.items() if name in slices},
    }
    if len(slices["sets"]) == 1:
        del scores["by_set"]
    if with_intervals:
        groups = groups_of(rows)
        counted = count_groups(rows, groups)
        scores |= {"counted": counted.words, "caveat": counted.caveat}
        for measure, counts in (("wer", [row.words for row in rows]), ("cer", [row.chars for row in rows])):
            estimate = rate_interval(counts, groups)
            scores[measure]["interval"] = None if estimate.low is None else [estimate.low, estimate.high]
            scores[measure]["groups"] = counted.number
    return scores


def _listing(rows: Sequence[ScoredRow], model_name: str, language: Language) -> str:
    words = sum((row.words for row in rows), EditCounts())
    header = (
        f";; {model_name}: {error_line(words)}\n"
        f";; That is the shortest edit, of words normalised as {language.scoring_version}. The alignments below have\n"
        ";; sclite's weights (substitution 4, deletion 3, insertion 3): another split, at times a larger total.\n"
    )
    return listing((Entry(row.id, align_weighted(row.said.split(), row.heard.split())) for row in rows), header)


def read_overlap(out_dir: Path) -> dict | None:
    """What an evaluated set shares with the model's training data; None where that is not known."""
    return read_json(out_dir / SCORES).get("overlap")


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
    return [_row(line, scores["set"], spoken) for line in read_jsonl(out_dir / HYPOTHESES)]


def _row(line: Mapping[str, Any], set_name: str, language: Language) -> ScoredRow:
    """The scored row of a line of `hypotheses.jsonl`, whichever version wrote it."""
    fields = {name: line[name] for name in ("id", "duration_s", "domain")}
    fields |= {"source": line.get("source", set_name)} | {name: line.get(name) for name in ("recording", "speaker")}
    utterance = Utterance(audio=AudioRef(path=""), text=line["reference"], **fields)
    normaliser = language.to_scoring
    return score_row(utterance, line["hypothesis"], set=set_name, normaliser=normaliser, snr_db=line.get("snr_db"))


def dev_scorer(
    rows: Iterable[Mapping[str, Any]], language: str, config: EvaluateConfig, share_out: ShareOut | None = None
) -> ScoreDev:
    """A function that scores a model, which must be in evaluation mode, on the dev set: the JSON of `summarise`, and
    under "folds" what `scoring.selection` needs to say how much too good the best of several scores is.

    `rows` are those of the prepared dev shards: id, audio, text, duration_s, domain, recording, speaker. Of more than
    `config.dev_utterances` always the same are taken, by the hash of their ids. Audio is decoded once, here. With
    `share_out` several processes transcribe a part each, and all have the score.
    """
    spoken = get_language(language)
    rows = list(rows)
    chosen = {row["id"] for row in sorted(rows, key=lambda row: hash_json(row["id"]))[: config.dev_utterances]}
    utterances, clips = [], []
    for row in (row for row in rows if row["id"] in chosen):
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
        return summarise(scored, config.buckets_s) | {"folds": fold_sums(scored)}

    return score


def _snr_db(utterance: Utterance) -> float | None:
    """None where the audio cannot be decoded."""
    try:
        return round(estimate_snr_db(audio.load(utterance.audio)), 1)
    except AudioError:
        return None


def _line(utterance: Utterance, hypothesis: str, snr_db: float | None) -> dict:
    values = {**utterance.to_json(), "reference": utterance.text, "hypothesis": hypothesis}
    return {**{name: values[name] for name in ROW_FIELDS}, "snr_db": snr_db}
