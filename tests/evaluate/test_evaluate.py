"""Evaluation: every utterance is in the score, files are whole and repeatable, and training sees the same numbers."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from made_scores import overlap_of
from transformers import Qwen3ASRFeatureExtractor
from whisper_models import loaded_whisper

from shibolet.demo.tiny import new_recogniser, train_tokenizer
from shibolet.errors import DataError
from shibolet.evaluate import dev
from shibolet.evaluate.config import EvaluateConfig
from shibolet.evaluate.describe import describe
from shibolet.evaluate.dev import DevRow, _Kept, dev_scorer
from shibolet.evaluate.stage import evaluate_set, read_rows
from shibolet.listen.engine import Engine, Written
from shibolet.listen.transcribe import Transcriber
from shibolet.model.encoder import encoder_is_frozen
from shibolet.model.family import LoadedModel
from shibolet.model.whisper import decoding
from shibolet.records.candidate import named
from shibolet.records.documents.scores import Failure, FrequentError, Scores, WordErrors
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.records.ledger import LedgerLine
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.rows import score_row
from shibolet.speech.text import get_language

RATE = 16000
TEXTS = ["שלום עולם", "מה נשמע היום", "בית־ספר", "<script>alert(1)</script> טוב"]


class Parrot(Engine):
    """Says, of a clip whose first sample is i / 100, the i-th text; counts what it was asked."""

    clips_at_once = 2

    def __init__(self, texts: list[str], ending: str = "end") -> None:
        self.texts, self.ending, self.short, self.long = texts, ending, 0, 0

    def write(self, clips):
        self.short += len(clips)
        return [Written(self.texts[round(float(clip[0]) * 100)], self.ending) for clip in clips]

    def write_long(self, samples, max_piece_s):
        self.long += 1
        return Written(self.texts[round(float(samples[0]) * 100)], self.ending)


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Four utterances of two recordings and two domains: the last one is no audio."""
    made = []
    for i, (text, duration_s) in enumerate(zip(TEXTS, [1.0, 6.0, 2.0, 1.5], strict=True)):
        path = tmp_path / f"{i}.wav"
        sf.write(path, np.full(round(duration_s * RATE), i / 100, np.float32), RATE, subtype="FLOAT")
        if i == 3:
            path.write_bytes(b"not a wave file")
        made.append(
            Utterance(
                id=f"u{i}", audio=AudioRef(path=str(path)), text=text, duration_s=duration_s, source="here",
                recording=f"r{i // 2}", speaker="s", domain=("clean", "noisy")[i % 2],
            )
        )  # fmt: skip
    return made


def evaluate(transcriber, utterances, out_dir, **changes):
    settings = {
        "set_name": "here", "language": "Hebrew", "config": EvaluateConfig(batch_utterances=2), "out_dir": out_dir,
        "named": named("parrot"), "identity": "1", **changes,
    }  # fmt: skip
    return evaluate_set(transcriber, utterances, **settings)


def test_what_cannot_be_decoded_counts_as_deleted(utterances, tmp_path):
    """A WER over what happened to succeed is not a WER."""
    scores = evaluate(Parrot(TEXTS), utterances, tmp_path / "out")
    assert scores.num_utterances == 4 and scores.num_empty_hypotheses == 1
    # Two words of the broken file: `<script>` and `</script>` are markup to the leaderboard, "alert(1)" keeps "alert".
    assert scores.wer.errors == scores.wer.deletions == 2
    assert scores.wer.words == 2 + 3 + 2 + 2
    detail = "not audio that can be read (Invalid data found when processing input)"
    assert scores.failures == (Failure(id="u3", reason="undecodable", detail=detail),)
    assert scores.by_domain["clean"].wer.errors == 0
    assert scores.by_domain["noisy"].wer.errors == 2
    assert {name: part.utterances for name, part in scores.by_bucket.items()} == {"short": 3, "medium": 1}
    assert scores.wer.groups == 1 and scores.normaliser == "leaderboard-1"


def test_what_was_written_again_after_a_loop_is_marked_of_clips_and_long_recordings_alike(utterances, tmp_path):
    """Else a model that loops would seem to stop doing so by writing in another way."""
    config = EvaluateConfig(max_piece_s=2.0)
    scores = evaluate(Parrot(TEXTS, "again"), utterances, tmp_path / "a", config=config)
    rows = read_rows(tmp_path / "a")
    assert [row.written_again for row in rows] == [True, True, True, False], "the last is no audio"
    assert scores.loops.written_again == 3
    evaluate(Parrot(TEXTS, "limit"), utterances, tmp_path / "b", config=config)
    assert not any(row.written_again for row in read_rows(tmp_path / "b"))


def test_files_hold_what_was_returned_and_repeat_byte_for_byte(utterances, tmp_path):
    """Rounds are compared from these files, in another process."""
    scores = evaluate(Parrot(TEXTS), utterances, tmp_path / "a")
    evaluate(Parrot(TEXTS), utterances, tmp_path / "b")
    for name in ("hypotheses.jsonl", "listing.txt", "scores.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert Scores.read(tmp_path / "a/scores.json") == scores
    lines = read_jsonl(tmp_path / "a/hypotheses.jsonl")
    assert [line["id"] for line in lines] == ["u0", "u1", "u2", "u3"]
    assert [line["hypothesis"] for line in lines] == [*TEXTS[:3], ""]
    assert lines[3]["reference"] == TEXTS[3], "a transcript is kept as it came"
    rows = read_rows(tmp_path / "a")
    assert rows == [
        score_row(u, line["hypothesis"], set="here", normaliser=get_language("he").to_scoring, snr_db=line["snr_db"])
        for u, line in zip(utterances, lines, strict=True)
    ]
    assert describe(rows, get_language("he"), EvaluateConfig().buckets_s).wer == scores.wer


def test_rows_on_disk_know_recording_and_speaker_and_older_ones_are_read_without(utterances, tmp_path):
    """Without them every interval would count clips of one voice as independent."""
    spoken = [replace(u, recording=f"r{i}", speaker=f"s{i}") for i, u in enumerate(utterances)]
    line = LedgerLine(
        id="row-7", source="here", stage="read", rule="missing_file", text="אחת", recording="r0", speaker="s9"
    )
    scores = evaluate(Parrot(TEXTS), spoken, tmp_path / "out", ledger=[line])
    rows = read_rows(tmp_path / "out")
    assert [(row.recording, row.speaker) for row in rows] == [*((f"r{i}", f"s{i}") for i in range(4)), ("r0", "s9")]
    assert (scores.counted, scores.caveat) == ("4 groups of recordings and speakers", None)
    assert scores.wer.groups == 4 and scores.wer.interval
    lines = read_jsonl(tmp_path / "out/hypotheses.jsonl")
    for line in lines:
        for name in ("recording", "speaker", "source", "snr_db"):
            del line[name]
    write_jsonl(tmp_path / "out/hypotheses.jsonl", lines)
    old = read_rows(tmp_path / "out")
    assert [row.words for row in old] == [row.words for row in rows]
    assert {(row.recording, row.speaker) for row in old} == {(None, None)}
    unknown = describe(old, get_language("he"), EvaluateConfig().buckets_s)
    assert unknown.counted == "5 utterances" and "counted as independent" in unknown.caveat


def test_utterances_in_one_file_are_of_one_recording(utterances, tmp_path):
    whole = utterances[1]
    spans = [
        replace(whole, id=f"p{i}", audio=replace(whole.audio, start_s=i, end_s=i + 1), duration_s=1.0, recording=None,
                speaker=None) for i in range(3)
    ]  # fmt: skip
    apart = replace(utterances[0], recording=None, speaker=None)
    scores = evaluate(Parrot(TEXTS), [*spans, apart], tmp_path / "out")
    assert [row.recording for row in read_rows(tmp_path / "out")] == ["1.wav"] * 3 + [None]
    assert scores.wer.groups == 2 and scores.wer.interval is None


def test_what_was_trained_on_is_in_the_scores_and_makes_them_anew(utterances, tmp_path):
    evaluate(Parrot(TEXTS), utterances, tmp_path / "out")
    path = tmp_path / "out/scores.json"
    assert Scores.read(path).overlap is None
    again, overlap = Parrot(TEXTS), overlap_of(1, of=4)
    assert evaluate(again, utterances, tmp_path / "out", overlap=overlap).overlap == overlap
    assert again.short == 3 and Scores.read(path).overlap == overlap


def test_a_result_is_reused_only_for_the_same_model_data_and_settings(utterances, tmp_path):
    """Scores of another model, or of audio that has changed since, must not be taken for these."""
    out = tmp_path / "out"
    evaluate(Parrot(TEXTS), utterances, out)
    again = Parrot(TEXTS)
    evaluate(again, utterances, out)
    assert again.short == 0
    for changes in ({"identity": "2"}, {"config": EvaluateConfig(batch_utterances=2, max_new_tokens_per_s=9.0)}):
        again = Parrot(TEXTS)
        evaluate(again, utterances, out, **changes)
        assert again.short == 3, changes
    evaluate(Parrot(TEXTS), utterances, out)
    sf.write(
        utterances[0].audio.path, np.full(RATE, 0.02, np.float32), RATE, subtype="FLOAT"
    )  # now says the third text
    assert evaluate(Parrot(TEXTS), utterances, out).wer.errors > 2


def test_long_recordings_go_piece_by_piece_and_progress_reaches_the_end(utterances, tmp_path):
    seen, parrot = [], Parrot(TEXTS)
    evaluate(
        parrot, utterances, tmp_path / "out", config=EvaluateConfig(max_piece_s=5.0),
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert (parrot.long, parrot.short) == (1, 2)
    assert seen == [(2, 4), (4, 4)]


def test_rows_that_could_not_be_read_are_named(utterances, tmp_path):
    line = LedgerLine(id="row-7", source="here", stage="read", rule="undecodable", detail="row-7.wav: no samples")
    scores = evaluate(Parrot(TEXTS), utterances, tmp_path / "out", ledger=[line])
    assert scores.unreadable_rows == (Failure(id="row-7", reason="undecodable", detail="row-7.wav: no samples"),)


def test_a_row_without_audio_but_with_text_counts_as_deleted(utterances, tmp_path):
    """A file that is missing must not make the score better."""
    line = LedgerLine(id="row-7", source="here", stage="read", rule="missing_file", detail="no x.wav", text="אחת שתיים")
    scores = evaluate(Parrot(TEXTS), utterances, tmp_path / "out", ledger=[line])
    without = evaluate(Parrot(TEXTS), utterances, tmp_path / "without")
    assert scores.num_utterances == 5 and scores.num_empty_hypotheses == 2
    assert scores.wer.deletions == without.wer.deletions + 2
    assert scores.failures[-1] == Failure(id="row-7", reason="missing_file", detail="no x.wav")
    assert scores.unreadable_rows == ()


def test_what_is_told_of_the_errors_is_of_all_of_them(utterances, tmp_path):
    """The kinds of errors, the other normaliser and the listing are of the same hypotheses as WER."""
    texts = ["שלום שלום", "מה נשמע היום " + "כן " * 8, "בית ספר.", ""]
    scores = evaluate(Parrot(texts), utterances, tmp_path / "out")
    assert scores.frequent_errors.substitutions == (FrequentError(said="עולם", heard="שלום", times=1),)
    assert scores.insertion_tail.runaway_ids == scores.loops.ids == ("u1",)
    assert (scores.normaliser, scores.as_target.normaliser) == ("leaderboard-1", "he-target-2")
    assert scores.as_target.wer.errors > scores.wer.errors, "a full stop is a letter to a target"
    assert list(scores.by_noise)[-1] == "unknown" and scores.by_speaker and not scores.by_set
    listing = (tmp_path / "out/listing.txt").read_text(encoding="utf-8")
    assert listing.count("id: (") == 4 and "leaderboard-1" in listing and "substitution 4" in listing
    assert f"[{scores.wer.errors} / {scores.wer.words}, " in listing.splitlines()[0]
    summed = scores.wer.words - scores.wer.substitutions - scores.wer.deletions
    assert listing.endswith(
        f"Sum Scores: (#C #S #D #I) {summed} {scores.wer.substitutions} {scores.wer.deletions} "
        f"{scores.wer.insertions}\n"
    )


def test_numbers_in_digits_change_the_number_aware_rate_and_nothing_beside_it(utterances, tmp_path):
    """The leaderboard's figures would no longer compare with those of others."""
    spelled = [replace(u, text="call two six eight") for u in utterances[:3]]
    said = ["call two six eight", "call two six eight", "Call 268."]
    scores = evaluate(Parrot(said), spelled, tmp_path / "out", language="English")
    assert scores.wer.errors == 3 and scores.by_domain["clean"].wer.errors == 3
    aware = scores.number_aware
    assert aware.wer == WordErrors(errors=0, words=12, rate=0.0, substitutions=0, deletions=0, insertions=0)
    assert aware.by_domain.keys() == {"clean", "noisy"}
    heard = evaluate(Parrot(TEXTS), utterances, tmp_path / "words")
    assert heard.number_aware.wer.rate == heard.wer.rate > 0, "no number, no difference"


def dev_row(id: str, text: str, flac: bytes) -> DevRow:
    return DevRow(Utterance(id=id, audio=AudioRef(path=""), text=text, duration_s=1.0, source="dev"), flac)


class StandIn(torch.nn.Linear):
    """A model of no family."""


@pytest.fixture(autouse=True)
def stand_ins_train(monkeypatch):
    """Whether an encoder is frozen is asked of a family."""
    monkeypatch.setattr(dev, "encoder_is_frozen", lambda model: type(model) is not StandIn and encoder_is_frozen(model))


def of_device(name: str) -> SimpleNamespace:
    """Of a loaded model what a dev score looks at before it transcribes."""
    model = StandIn(2, 2)
    model.device = torch.device(name)
    family = SimpleNamespace(clips_at_once=lambda device, beam_size: 32, max_samples=None, title="Toy")
    return SimpleNamespace(model=model, family=family)


def test_a_transcriber_is_kept_while_weights_and_memory_allow(monkeypatch):
    """Its graphs hold addresses of weights, and its rows memory that training may need."""
    made, gib = [], 1 << 30
    used = {"reserved": 30 * gib, "allocated": 16 * gib, "free": 45 * gib}
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: used["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: used["allocated"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (used["free"], 80 * gib))
    kept = _Kept(lambda loaded, keep_encoded: made.append(keep_encoded) or f"transcriber {len(made)}")

    def score(loaded, rows_gib: int) -> str:
        with kept.transcriber(loaded) as transcriber:
            used.update({name: used[name] + rows_gib * gib for name in ("reserved", "allocated")})
            used["free"] -= rows_gib * gib
        return transcriber

    loaded = of_device("cuda")
    assert [score(loaded, 11), score(loaded, 0)] == ["transcriber 1"] * 2
    loaded.model.weight.data = loaded.model.weight.data.clone()  # as where weights move into one tensor for ranks
    assert score(loaded, 0) == "transcriber 2"
    assert kept.release() and not kept.release() and score(loaded, 0) == "transcriber 3", "as a phase begins"
    assert score(loaded, 24) == "transcriber 3" and score(loaded, 0) == "transcriber 4"  # 70 of 80 GiB: not kept
    on_cpu = of_device("cpu")
    assert [score(on_cpu, 0), score(on_cpu, 0)] == ["transcriber 5", "transcriber 6"] and not kept.release()
    assert not any(made), "nothing of an encoder that trains may be kept"


def test_a_frozen_whisper_hears_a_dev_set_once_on_a_cpu(monkeypatch):
    """Windows of 30 s are nearly all that a score costs there, and the same each time until the encoder changes."""
    loaded, encoded, rows = loaded_whisper(seed=4, max_target_positions=64), [], []
    for i, seconds in enumerate((2.0, 1.0, 3.0)):
        flac = io.BytesIO()
        samples = (0.1 * np.random.default_rng(i).standard_normal(int(seconds * RATE))).astype(np.float32)
        sf.write(flac, samples, RATE, format="FLAC")
        rows.append(dev_row(f"u{i}", TEXTS[i], flac.getvalue()))
    encoder_states = decoding.encoder_states
    monkeypatch.setattr(decoding, "encoder_states", lambda *given: encoded.append(1) or encoder_states(*given))
    settings = EvaluateConfig(max_new_tokens_per_s=5.0)
    score = dev_scorer(rows, "Hebrew", settings)

    def scored() -> tuple:
        """Of this scorer, and of one that has kept nothing; and how many windows the first one encoded."""
        encoded.clear()
        mine = score(loaded)
        num = len(encoded)
        assert mine == dev_scorer(rows, "Hebrew", settings)(loaded)
        return mine, num

    assert scored()[1] == 3 and scored()[1] == 3, "an encoder that trains is another one each time"
    for name, weight in loaded.model.named_parameters():
        weight.requires_grad_(not name.startswith("model.encoder."))
    first, num = scored()
    assert num == 3
    with torch.no_grad():
        for weight in loaded.model.parameters():
            if weight.requires_grad and weight.ndim > 1:
                weight.mul_(5)  # as after steps of the decoder
    second, num = scored()
    assert num == 0 and second != first
    with torch.no_grad():
        loaded.model.model.encoder.layers[1].fc1.weight.mul_(20)
    assert scored()[1] == 3, "an encoder that a phase in between has trained"


def test_dev_scores_are_of_the_same_few_utterances_whatever_their_order():
    """A subset that changes would make dev WER move by itself."""
    encoded = io.BytesIO()
    sf.write(encoded, np.zeros(RATE, np.float32), RATE, format="FLAC")
    rows = [dev_row(f"u{i}", TEXTS[0], encoded.getvalue()) for i in range(50)]

    def scored(rows, dev_utterances):
        seen = []
        score = dev_scorer(rows, "Hebrew", EvaluateConfig(dev_utterances=dev_utterances))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shibolet.evaluate.dev.Transcriber", lambda *args, **settings: Parrot([TEXTS[0]]))
            patch.setattr(
                "shibolet.evaluate.dev.score_row", lambda u, *a, **k: seen.append(u.id) or score_row(u, *a, **k)
            )
            assert score(of_device("cpu")).num_utterances == len(seen)
        return set(seen)

    few = scored(rows, 7)
    assert len(few) == 7 and scored(rows[::-1], 7) == few and few < scored(rows, 20)
    assert len(scored(rows, None)) == len(scored(rows, 99)) == 50


def test_sets_that_cannot_be_scored_are_refused(utterances, tmp_path):
    with pytest.raises(DataError, match="no utterances"):
        evaluate(Parrot(TEXTS), [], tmp_path / "out")
    with pytest.raises(DataError, match="'u0' occurs twice"):
        evaluate(Parrot(TEXTS), [utterances[0], utterances[0]], tmp_path / "out")
    with pytest.raises(DataError, match="'shibolet evaluate RECIPE' makes it"):
        read_rows(tmp_path / "nowhere")


def test_dev_scores_are_those_of_the_stage(tmp_path):
    """Early stopping by other numbers than the final ones picks the wrong checkpoint."""
    tokenizer = train_tokenizer(["language Hebrew שלום עולם מה נשמע"])
    model = new_recogniser(tokenizer, seed=0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(6)  # so that it writes something, and something else for each clip
    extractor = Qwen3ASRFeatureExtractor()
    rng = np.random.default_rng(0)
    rows, utterances = [], []
    for i in range(5):
        samples = (0.1 * rng.standard_normal(RATE + 3000 * i)).astype(np.float32)
        encoded = io.BytesIO()
        sf.write(encoded, samples, RATE, format="FLAC", subtype="PCM_16")
        (tmp_path / f"{i}.flac").write_bytes(encoded.getvalue())
        fields = {"id": f"u{i}", "text": TEXTS[i % 4], "duration_s": len(samples) / RATE, "domain": "clean"}
        fields |= {"recording": f"r{i}", "speaker": None}
        utterances.append(Utterance(audio=AudioRef(path=str(tmp_path / f"{i}.flac")), source="dev", **fields))
        rows.append(DevRow(utterances[-1], encoded.getvalue()))
    config = EvaluateConfig(batch_utterances=2, max_new_tokens_per_s=5.0)
    loaded = LoadedModel(model, tokenizer, extractor, tmp_path, "x")
    scores = dev_scorer(rows, "Hebrew", config)(loaded)
    transcriber = Transcriber(loaded, "Hebrew", batch_utterances=2, max_new_tokens_per_s=5.0)
    staged = evaluate(transcriber, utterances, tmp_path / "out", config=config, set_name="dev")
    assert staged.num_empty_hypotheses < 5 and staged.cer.substitutions > 0
    for key in ("num_utterances", "num_empty_hypotheses", "by_domain", "by_bucket"):
        assert getattr(scores, key) == getattr(staged, key)
    for mine, other in ((scores.wer, staged.wer), (scores.cer, staged.cer)):
        assert dict(mine).items() <= dict(other).items()
    assert len(scores.folds.words) == 5, "a fold for each recording"
    assert (sum(scores.folds.errors), sum(scores.folds.words)) == (
        scores.wer.errors, scores.wer.words,
    )  # fmt: skip


def test_dev_set_must_be_what_prepare_writes():
    with pytest.raises(DataError, match="no words to score"):
        dev_scorer([], "Hebrew", EvaluateConfig())
    encoded = io.BytesIO()
    sf.write(encoded, np.zeros(800, np.float32), 8000, format="FLAC")
    score = dev_scorer([dev_row("u", "כן", encoded.getvalue())], "Hebrew", EvaluateConfig())
    with pytest.raises(DataError, match="'u' is not mono at 16,000 Hz"):
        score(of_device("cpu"))


def test_a_dev_clip_that_the_model_does_not_take_is_named():
    loaded, rows = of_device("cpu"), []
    loaded.family.max_samples = 2 * RATE
    for id, num_samples in (("fits", 2 * RATE), ("long", 2 * RATE + RATE // 2)):
        encoded = io.BytesIO()
        sf.write(encoded, np.zeros(num_samples, np.float32), RATE, format="FLAC")
        rows.append(dev_row(id, "כן", encoded.getvalue()))
    with pytest.raises(DataError, match=r"'long' has 2\.50 s and a Toy takes 2 s at most; set prepare\.max_duration_s"):
        dev_scorer(rows, "Hebrew", EvaluateConfig())(loaded)
