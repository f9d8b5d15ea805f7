"""The audit's models on evaluation sets: protects from claims on wrong references, and from dropping any of them."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from audit_documents import gate_verdict
from ears import Ears

from shibolet.audit.config import AuditConfig, SelfTestConfig
from shibolet.audit.hearing import Listener
from shibolet.audit.sampling import SampleConfig
from shibolet.errors import DataError
from shibolet.evaluate.config import EvaluationSet
from shibolet.listen.engine import Engine, Written
from shibolet.recipe import load_recipe
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.doubtful import DoubtfulScores
from shibolet.records.runfolder import RunFolder
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.report.page import write_report
from shibolet.rounds import auditing, doubting, scoring
from shibolet.rounds.shared import Round, SourceData, open_round
from shibolet.speech.audio import load

AUDIT = AuditConfig(
    aligner="ears", recogniser="ears", num_workers=0, selftest=SelfTestConfig(num_clips=20),
    sample=SampleConfig(shares={}, min_utterances=100, max_utterances=100),
)  # fmt: skip
SWAPPED = {"u130", "u131"}


class Forgetful(Engine):
    """Transcribes as `Ears` hear, less so many words at the end."""

    clips_at_once, identity = 8, "forgetful"

    def __init__(self, num_lost: int) -> None:
        self.num_lost = num_lost

    def write(self, clips: Sequence[np.ndarray]) -> list[Written]:
        heard = [hearing.hypothesis.split() for hearing in Ears().hear(clips, [["א"]] * len(clips))]
        return [Written(" ".join(words[: len(words) - self.num_lost]), "end") for words in heard]


def in_the_set(corpus: Sequence[Utterance], broken: Path) -> list[Utterance]:
    """Forty utterances: two of them swapped, one that cannot be decoded, one longer than all that trains."""
    own = {u.id: u for u in corpus[120:]}
    own["u130"], own["u131"] = replace(own["u130"], text=own["u131"].text), replace(own["u131"], text=own["u130"].text)
    broken.write_bytes(b"RIFF")
    own["u140"] = replace(own["u140"], audio=AudioRef(path=str(broken)))
    own["u150"] = replace(own["u150"], duration_s=300.0)
    return list(own.values())


@contextmanager
def opened(base: Path, ears: Ears, corpus: Sequence[Utterance], told: list[str]) -> Iterator[Round]:
    """A round with a set in its language and one in another; ears hear and align, others transcribe."""
    recipe = load_recipe("demo", ["models.baseline=first", "evaluate.sets.1.language=English"])
    recipe = recipe.model_copy(update={"audit": AUDIT})
    with pytest.MonkeyPatch.context() as patched, open_round(recipe, base / "run", "run", told.append) as current:
        for module in (auditing, doubting):
            patched.setattr(module, "listener_of", partial(listener_of, ears, base / "heard"))
        patched.setattr(Round, "recogniser", lambda self, name: ears)
        patched.setattr(Round, "identity", lambda self, model: f"hash of {model}")
        patched.setattr(Round, "transcriber", lambda self, model, *_: Forgetful(num_lost=model == "second"))
        current.data = SourceData(list(corpus[:120]), [], "training data")
        current._sources[EvaluationSet, "clean"] = SourceData(in_the_set(corpus, base / "broken.wav"), [], "clean")
        current._sources[EvaluationSet, "whatsapp"] = SourceData(list(corpus[120:123]), [], "other")
        yield current


def listener_of(ears: Ears, folder: Path, current: Round, prepared: bool = False) -> Listener:
    return Listener(ears, ears, folder, load, AUDIT, "Hebrew")


@pytest.fixture(scope="module")
def audited_round(corpus, tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("audited")
    with opened(base, Ears(), corpus, []) as current:
        auditing.do_audit(current)
        auditing.do_gate(current)
    return base


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def current(audited_round, corpus, ears, told, tmp_path: Path) -> Iterator[Round]:
    """A round that was audited."""
    shutil.copytree(audited_round, tmp_path, dirs_exist_ok=True)
    with opened(tmp_path, ears, corpus, told) as current:
        yield current


def change(current: Round, **evaluate) -> None:
    settings = current.recipe.evaluate.model_copy(update=evaluate)
    current.recipe = current.recipe.model_copy(update={"evaluate": settings})


def compared(current: Round) -> Comparison:
    scoring.do_evaluate(current, scoring.candidates_of(current, candidate="second"))
    return scoring.do_compare(current)


def test_swapped_references_are_listed_with_both_rates_and_change_no_verdict(current, corpus, told) -> None:
    """A claim on a set with wrong references has to say so, and may not gain by leaving them out."""
    result, folder = compared(current), current.folder
    scores = {label: DoubtfulScores.read(folder.doubtful_scores(label, "clean")) for label in ("round1", "round2")}
    for one, name in zip(scores.values(), result.titles, strict=True):
        assert {reference.id for reference in one.references} == SWAPPED
        assert one.unjudged == {"beyond_calibration": 1, "undecodable": 1} and one.judged == 38
        assert one.wer.rate > one.wer_without.rate > 0  # what cannot be decoded counts in both
        assert one.wer.words - one.wer_without.words == sum(reference.errors.words for reference in one.references)
        assert one.sentences[0].startswith(f"References in doubt on set 'clean': 2 of 38 that could be judged. {name}:")
        assert f"evaluate: {' '.join(one.sentences)}" in told
    heard = {u.id: u.text for u in corpus}
    assert {one.id: one.heard for one in scores["round1"].references} == {id: heard[id] for id in SWAPPED}
    assert folder.audited_sets() == ["audit-sets/clean"], "the English set was judged as Hebrew"
    without = result.doubtful.sets["clean"]
    assert (without.listed, without.judged, without.without.utterances) == (2, 38, 38)
    sides = [errors.rate for errors in without.without.wer.sides]
    assert sides == [one.wer_without.rate for one in scores.values()]
    assert "The verdict is that with all." in result.doubtful.sentences[0]
    page = write_report(folder.path).read_text(encoding="utf-8")
    assert "References in doubt" in page and all(f"<code>{id}</code>" in page for id in SWAPPED)
    assert page.count("data:audio/mpeg") >= 2 and result.doubtful.sentences[0] in page

    change(current, audit_sets=False)
    alone = compared(current)
    assert alone.doubtful is None and alone == result.model_copy(update={"doubtful": None})
    assert folder.doubtful() == folder.audited_sets() == []
    assert "References in doubt" not in write_report(folder.path).read_text(encoding="utf-8")


def test_sets_are_heard_once_for_all_systems_and_starts(current, ears) -> None:
    """Hearing is what costs hours."""
    before = ears.num_heard
    compared(current)
    assert ears.num_heard == before + 38
    compared(current)
    change(current, audit_sets=False)
    compared(current)
    change(current, audit_sets=True)
    compared(current)
    assert ears.num_heard == before + 38


def test_another_list_hears_no_system_again(current, told, monkeypatch) -> None:
    """Else a line of the audit that moved would cost a transcription of every set."""
    compared(current)
    told.clear()
    monkeypatch.setattr(Forgetful, "transcribe", None)
    audit = AUDIT.model_copy(update={"min_confidence": 0.0})
    current.recipe = current.recipe.model_copy(update={"audit": audit})
    assert compared(current).doubtful.sets["clean"].listed == 0
    for label in ("round1", "round2"):
        assert any(said.startswith(f"doubtful/{label}/clean: audit of the set changed; what was") for said in told)
    assert any(said.startswith("compare: references in doubt changed; ") for said in told)


def test_a_page_leaves_out_what_speaks_of_another_audit_of_the_set(current, corpus) -> None:
    """A start that was killed between the audit of the sets and the scores once left a folder without a page."""
    folder = current.folder
    compared(current)
    kept = [u for u in current._sources[EvaluationSet, "clean"].utterances if u.id != "u130"]
    current._sources[EvaluationSet, "clean"] = SourceData(kept, [], "less one")
    doubting.do_audit_sets(current)
    for _ in range(2):
        page = write_report(folder.path).read_text(encoding="utf-8")
        assert "<code>shibolet evaluate</code> makes this again" in page and "Heard by the audit" not in page
        folder.retire("audit-sets/clean")  # as while it is audited again
    compared(current)
    page = write_report(folder.path).read_text(encoding="utf-8")
    assert "makes this again" not in page and page.count("Heard by the audit") == 1


def test_a_system_that_doubts_the_references_itself_is_named(current, monkeypatch) -> None:
    """What it hears otherwise is left out, so it looks better without: that is why no verdict is taken so."""
    monkeypatch.setattr(Round, "identity", lambda self, model: "of the same bytes" if model != "second" else "other")
    result = compared(current)
    title = current.names[0].title
    assert result.doubtful.sentences[-1] == doubting.FAVOURED.format(title)
    first, second = (DoubtfulScores.read(current.folder.doubtful_scores(f"round{n}", "clean")) for n in (1, 2))
    assert first.sentences[-1] == doubting.JUDGE.format(title) and len(second.sentences) == 1


def test_nobody_can_doubt_them_without_an_instrument_that_is_believed(current, told, monkeypatch) -> None:
    """A list by a deaf instrument is worse than none; so is one that was made before it was found to be deaf."""
    compared(current)
    assert current.folder.doubtful()
    gate_verdict("INVALID").write(current.folder.gate())
    current.folder.seal("gate", current.folder.inputs("gate"), {"audit": current.folder.verified("audit")})
    assert compared(current).doubtful is None and current.folder.doubtful() == []
    assert any("not audited: the gate says INVALID" in said for said in told)
    gate_verdict("PROCEED").write(current.folder.gate())
    current.folder.seal("gate", current.folder.inputs("gate"), {"audit": current.folder.verified("audit")})
    ears = current.recogniser("ears")
    ears.look_up = lambda ids: [None for _ in ids]
    assert compared(current).doubtful is None
    assert any("a file of hypotheses, and no model" in said for said in told)
    current.folder.retire("audit", "gate")
    assert compared(current).doubtful is None
    assert any("has no audit; 'shibolet audit' with the recipe makes one" in said for said in told)


def test_a_set_without_a_doubt_says_so(current, corpus, told) -> None:
    current._sources[EvaluationSet, "clean"] = SourceData(list(corpus[120:]), [], "all right")
    told.clear()
    result = compared(current)
    said = "evaluate: References in doubt on set 'clean': 0 of 40 that could be judged."
    assert told.count(said) == 1, "it is said of the set, not of each system"
    assert result.doubtful.sentences == ("References in doubt: 0 of 40 that could be judged.",)
    assert result.doubtful.overall is None and result.doubtful.sets["clean"].without is None


def test_a_damaged_table_is_refused(current) -> None:
    compared(current)
    table = current.folder.audited_set("clean")
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"audit-sets/clean/utterances\.parquet changed since 'audit-sets/clean'"):
        scoring.do_compare(current)
    compared(current)  # `evaluate` makes it again
    assert RunFolder(current.folder.path).verified("audit-sets/clean")
