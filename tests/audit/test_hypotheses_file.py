"""An audit from a file of hypotheses: what texts alone can show, and the whole where the copies were heard too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from ears import Ears

from shibolet.audit import selftest
from shibolet.audit.config import AuditConfig, SelfTestConfig
from shibolet.audit.export import MANIFEST, export_copies
from shibolet.audit.hearing import Listener
from shibolet.audit.sampling import SampleConfig
from shibolet.audit.stage import run_audit
from shibolet.errors import DataError
from shibolet.gate.config import GateConfig
from shibolet.gate.stage import gate, records_of
from shibolet.listen.hypotheses import RecordedHypotheses
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.records.utterance import AudioRef
from shibolet.speech.audio import load

CONFIG = AuditConfig(
    aligner=None, recogniser="hypotheses.jsonl", chunk_utterances=64, num_workers=0,
    sample=SampleConfig(sample_frac=1.0, shares={}, min_utterances=60), selftest=SelfTestConfig(num_clips=60),
)  # fmt: skip
CHANGED_AUDIO = ("audio_halved", "silent", *selftest.TAUGHT)


def heard_elsewhere(audio: dict[str, AudioRef]) -> list[dict]:
    """Lines of a file of hypotheses, by a system that makes no mistakes."""
    hearings = Ears().hear([load(ref) for ref in audio.values()], [["-"]] * len(audio))
    return [{"id": id, "hypothesis": h.hypothesis} for id, h in zip(audio, hearings, strict=True)]


@pytest.fixture(scope="module")
def of_utterances(corpus) -> list[dict]:
    return heard_elsewhere({u.id: u.audio for u in corpus})


@pytest.fixture(scope="module")
def exported(corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("copies")
    num, hours = export_copies(corpus, folder / "out", config=CONFIG, language="Hebrew")
    assert num == 60 * len(CHANGED_AUDIO) and 0.1 < hours < 1
    return folder / "out"


@pytest.fixture(scope="module")
def of_copies(exported: Path) -> list[dict]:
    rows = read_jsonl(exported / MANIFEST)
    return heard_elsewhere({row["id"]: AudioRef(path=str(exported / row["audio"])) for row in rows})


@pytest.fixture
def audited(tmp_path: Path, corpus):
    """Audits the corpus from these lines; gives the report, the gate's verdict and the ids that were flagged."""

    def run(lines: list[dict], utterances=corpus, config: AuditConfig = CONFIG) -> tuple[dict, dict, set[str]]:
        write_jsonl(tmp_path / "hypotheses.jsonl", lines)
        theirs = RecordedHypotheses(tmp_path / "hypotheses.jsonl")
        report = run_audit(
            utterances, [], out_dir=tmp_path / "audit", config=config, language="Hebrew",
            listener=Listener(None, theirs, tmp_path / "heard", load, config, "Hebrew"),
        )  # fmt: skip
        rows = pq.read_table(tmp_path / "audit" / "utterances.parquet").to_pylist()
        flagged = {row["id"] for row in rows if row["is_low_quality"]}
        return report, gate(report, records_of(tmp_path / "audit" / "utterances.parquet"), GateConfig()), flagged

    return run


WRONG = {f"u{i:03d}" for i in range(10)}


def test_hypotheses_alone_judge_the_texts_and_say_so(audited, of_utterances) -> None:
    """Half of a self-test must neither pass as the whole, nor keep good data from training."""
    report, verdict, flagged = audited(of_utterances)
    assert report.judged_by == verdict.judged_by == "text side only" and verdict.decision == "PROCEED"
    assert WRONG <= flagged and len(flagged) <= 10 + 7  # 5% of 150
    damaged = report.self_test.damaged
    assert {kind for kind, tally in damaged.items() if tally.total} == {"swapped", "text_halved", "shuffled_letters"}
    assert report.self_test.harmless.total == 0


def test_hypotheses_of_the_copies_make_the_self_test_whole(audited, of_utterances, of_copies) -> None:
    report, verdict, flagged = audited([*of_utterances, *of_copies])
    assert report.judged_by == verdict.judged_by == "text and audio" and verdict.decision == "PROCEED"
    assert WRONG <= flagged and len(flagged) <= 10 + 7
    tallies = report.self_test
    assert tallies.harmless.total == 180 and all(tally.total == 60 for tally in tallies.damaged.values())
    assert min(tallies.damaged[kind].hits for kind in ("audio_halved", "silent")) >= 57


def test_a_system_that_hears_the_original_in_every_copy_is_invalid(audited, of_utterances, of_copies) -> None:
    """Whose lines are of the originals, by a mistake or by looking texts up, shows nothing of damage to audio.

    Energy alone can tell a silent copy; it must not stand in for what the system heard in it.
    """
    said = {line["id"]: line["hypothesis"] for line in of_utterances}
    unchanged = [line | {"hypothesis": said[line["id"].partition("/")[2]]} for line in of_copies]
    report, verdict, _ = audited([*of_utterances, *unchanged])
    assert report.judged_by == "text and audio" and verdict.decision == "INVALID"
    assert "of 30 'silent' clips" in verdict.recommendation


@pytest.mark.parametrize(("kept", "judged_by"), [(0.85, "text side only"), (0.95, "text and audio")])
def test_copies_that_somebody_chose_show_nothing_and_a_few_may_be_missing(
    audited, of_utterances, of_copies, kept: float, judged_by: str
) -> None:
    drawn = np.random.default_rng(0).permutation(len(of_copies))[: round(kept * len(of_copies))]
    report, verdict, _ = audited([*of_utterances, *(of_copies[i] for i in drawn)])
    assert report.judged_by == judged_by and verdict.decision == "PROCEED"
    assert (report.self_test.harmless.total > 0) == (judged_by == "text and audio")


def test_texts_that_do_not_belong_to_the_hypotheses_are_a_stop(audited, of_utterances, corpus) -> None:
    texts = [u.text for u in corpus]
    swapped = [replace(u, text=texts[i - 37]) if i % 4 == 0 else u for i, u in enumerate(corpus)]
    _, verdict, flagged = audited(of_utterances, swapped)
    assert verdict.decision == "STOP" and {u.id for u in swapped[::4]} <= flagged


def test_utterances_that_are_not_in_the_file_are_failures_and_too_many_are_no_verdict(audited, of_utterances) -> None:
    report, verdict, flagged = audited(of_utterances[:120])
    assert report.failures == {"no_hypothesis": 40} and report.num_scored == 120
    assert verdict.decision == "INVALID" and {f"u{i}" for i in range(120, 160)} <= flagged


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("kan/", r"With several sources in data\.train an id in the file is 'source/id': write 'kan/u\d+' and not 'u"),
        (
            "x-",
            "such as 'x-u[0-9]+'; calibration needs 10. Call the utterances in the file by the ids that the data have",
        ),
    ],
)
def test_a_file_that_calls_the_utterances_else_is_refused_by_their_ids(
    audited, of_utterances, corpus, before: str, expected: str
) -> None:
    """Asked whether the audio is readable, a user would look in the wrong place."""
    with pytest.raises(DataError, match=expected):
        audited(of_utterances, [replace(u, id=f"{before}{u.id}", source="kan") for u in corpus])


def test_a_domain_that_is_not_understood_is_invalid_and_one_too_small_is_named(audited, of_utterances, corpus) -> None:
    """A quarter of the data that the system does not understand passes a test of everything together."""
    said = [line["hypothesis"] for line in of_utterances]
    domains = ["tiny" if i < 8 else "phone" if i % 4 == 0 else "studio" for i in range(len(corpus))]
    utterances = [replace(u, domain=domain) for u, domain in zip(corpus, domains, strict=True)]
    mixed = [
        line | {"hypothesis": said[i - 37]} if domains[i] == "phone" else line for i, line in enumerate(of_utterances)
    ]
    settings = CONFIG.model_copy(update={"selftest": SelfTestConfig(num_clips=160)})
    report, verdict, _ = audited(mixed, utterances, settings)
    assert report.self_test.domains.keys() == {"phone", "studio"} and report.self_test.untested == {"tiny": 8}
    assert verdict.decision == "INVALID" and verdict.recommendation.count("In domain 'phone': ")
    assert "In domain 'studio'" not in verdict.recommendation
    assert any(note.startswith("Domain 'tiny' is untested: 8 of its clips") for note in verdict.notes)
    good, verdict, _ = audited(of_utterances, utterances, settings)
    assert good.self_test.untested == {"tiny": 8} and verdict.decision == "PROCEED"


def test_copies_are_written_under_the_ids_that_the_audit_looks_for(exported: Path, corpus) -> None:
    rows = list(read_jsonl(exported / MANIFEST))
    assert len({row["id"] for row in rows}) == len({row["audio"] for row in rows}) == len(rows)
    assert {row["id"].partition("/")[0] for row in rows} == set(CHANGED_AUDIO)
    audio_of = {u.id: u for u in corpus}
    for row in rows[::17]:
        kind, _, id = row["id"].partition("/")
        samples, rate = sf.read(exported / row["audio"])
        assert rate == 16000 and len(samples) / rate == pytest.approx(row["duration"], abs=1e-3)
        expected = {"audio_halved": 0.5, "faster": 1 / 1.05, "slower": 1 / 0.95}.get(kind, 1.0)
        assert row["duration"] == pytest.approx(expected * audio_of[id].duration_s, rel=0.02)
        assert (np.abs(samples).max() < 0.01) == (kind == "silent")


def test_copies_are_the_same_sound_that_an_audit_here_would_hear(exported: Path, of_copies, corpus, tmp_path) -> None:
    """Chance that differs between the two would test the system on other copies than the ones judged."""
    ears = Ears()
    here = Listener(None, ears, tmp_path / "heard", load, CONFIG, "Hebrew")
    report = run_audit(corpus, [], out_dir=tmp_path / "audit", config=CONFIG, language="Hebrew", listener=here)
    assert report.judged_by == "text and audio"
    again, _ = export_copies(corpus[::-1], tmp_path / "again", config=CONFIG, language="Hebrew")
    assert again == len(of_copies)
    first, second = ({r["id"]: folder / r["audio"] for r in read_jsonl(folder / MANIFEST)}
                     for folder in (exported, tmp_path / "again"))  # fmt: skip
    assert first.keys() == second.keys()
    for id in list(first)[::23]:
        assert np.array_equal(sf.read(first[id])[0], sf.read(second[id])[0]), id


def test_a_folder_with_a_manifest_is_refused_and_left_as_it_is(exported: Path, corpus) -> None:
    """Lines of another sample beside these would be looked for in vain."""
    before = (exported / MANIFEST).read_bytes()
    with pytest.raises(DataError, match=r"--export-copies: .*manifest\.jsonl is there already; name an empty folder"):
        export_copies(corpus[:40], exported, config=CONFIG, language="Hebrew")
    assert (exported / MANIFEST).read_bytes() == before


def test_what_cannot_be_decoded_is_left_out_of_the_copies(tmp_path: Path, corpus) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    utterances = [replace(corpus[0], audio=AudioRef(path=str(tmp_path / "broken.wav"))), *corpus[1:30]]
    told = []
    num, _ = export_copies(
        utterances, tmp_path / "out", config=CONFIG, language="Hebrew", on_progress=lambda *seen: told.append(seen)
    )
    ids = [row["id"] for row in read_jsonl(tmp_path / "out" / MANIFEST)]
    assert num == len(ids) == 29 * len(CHANGED_AUDIO) and not any(id.endswith(f"/{corpus[0].id}") for id in ids)
    assert told[-1][1] == 30 * len(CHANGED_AUDIO)
