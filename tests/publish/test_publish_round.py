"""Publishing a run folder: only what was kept, only what a fresh process can repeat, and never by the way."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from audit_documents import alignment_report, gate_verdict, prepared
from made_speech import sentences
from training_documents import train_result, training_plan
from transformers import Qwen3ASRFeatureExtractor

from shibolet.demo import tiny
from shibolet.errors import DataError, ModelError, Rejected, UploadError
from shibolet.model.family import LoadedModel
from shibolet.model.qwen3_asr.load import load_recogniser
from shibolet.model.qwen3_asr.save import save_model
from shibolet.publish.config import PublishConfig
from shibolet.recipe import load_recipe
from shibolet.records.documents.comparison import Comparison
from shibolet.records.documents.published import Reproduced
from shibolet.records.files import read_jsonl, write_jsonl
from shibolet.records.hypotheses import HypothesisLine
from shibolet.rounds import reproduce as reproducing
from shibolet.rounds import scoring
from shibolet.rounds.publish import do_publish
from shibolet.rounds.reproduce import code_of, reproduce, spread
from shibolet.rounds.shared import Round, open_round

CONFIG = PublishConfig(to="org/name")
TEXTS = ["שלום עולם", "בית ספר", "ילד הלך אל הים"]


@pytest.fixture
def clips(request) -> list[np.ndarray]:
    """26 clips of noise, or of speech where a test asks for it."""
    if getattr(request, "param", "noise") == "speech":
        return [speech.samples for speech in sentences(26, seed=11)]
    rng = np.random.default_rng(3)
    return [0.1 * rng.standard_normal(int(16000 * rng.uniform(0.6, 1.4))) for _ in range(26)]


@pytest.fixture
def current(tmp_path: Path, clips: list[np.ndarray]):
    """A run that was scored on the clips: Round 1 is an untrained model, Round 2 the shipped one."""
    rows = []
    for i, clip in enumerate(clips):
        path = tmp_path / "corpus" / f"{i}.wav"
        path.parent.mkdir(exist_ok=True)
        sf.write(path, clip, 16000)
        rows.append({"audio": path.name, "text": TEXTS[i % 3], "id": f"u{i}", "recording": f"r{i // 3}"})
    write_jsonl(tmp_path / "corpus" / "test.jsonl", rows)
    sets = f"[{{name: noise, manifest: {tmp_path / 'corpus' / 'test.jsonl'}}}]"
    settings = [
        "evaluate.batch_utterances=6",
        "evaluate.max_new_tokens_per_s=12",
        f"models.baseline={tmp_path / 'round1'}",
    ]
    recipe = load_recipe("demo", [f"evaluate.sets={sets}", *settings])
    with open_round(recipe, tmp_path / "run", "run", lambda sentence: None) as current:
        begun = [current.folder.stage(name, {}) for name in ("gate", "prepare", "train")]
        tokenizer = tiny.train_tokenizer(TEXTS * 5)
        model = LoadedModel(tiny.new_recogniser(tokenizer, 1), tokenizer, Qwen3ASRFeatureExtractor(), tmp_path, "")
        save_model(model, tmp_path / "round1")
        save_model(load_recogniser("builtin:round1"), current.folder.final)
        write_a_run_around(current)
        for stage in begun:
            stage.finish()
        scoring.do_evaluate(current, scoring.candidates_of(current))
        scoring.do_compare(current)
        yield current


def write_a_run_around(current: Round) -> None:
    """The files that a card is written from."""
    folder = current.folder
    gate_verdict("PROCEED").write(folder.gate())
    alignment_report().write(folder.alignment_report())
    prepared().write(folder.prepared / "summary.json")
    training_plan().write(folder.plan)
    train_result().write(folder.train_result)


@pytest.fixture
def repeated(monkeypatch):
    """Does without the fresh process."""
    calls = []

    def say(current, model, label, config):
        calls.append(model)
        return Reproduced(ids=tuple(map(str, range(20))), differing=(), words=60, differing_words=0, looped=())

    monkeypatch.setattr("shibolet.rounds.reproduce.reproduce", say)
    return calls


def test_a_rejected_round_is_published_only_by_force(current, repeated):
    assert not Comparison.read(current.folder.compare).is_kept
    with pytest.raises(Rejected, match=r"not published: .* --force") as caught:
        do_publish(current, CONFIG, upload=False)
    assert caught.value.exit_code == 40 and not current.folder.publish.exists()
    model = Path(do_publish(current, CONFIG, force=True, upload=False))
    assert "published all the same" in (model / "README.md").read_text()


@pytest.mark.parametrize("layout", ["native", "legacy"])
def test_a_failed_upload_leaves_the_export_and_the_command_that_goes_on(current, repeated, hub, layout, monkeypatch):
    monkeypatch.setattr("shibolet.publish.upload.ATTEMPTS", 1)
    config = PublishConfig(to="org/name", layout=layout)
    hub.cut = 3
    with pytest.raises(UploadError, match=r"To go on: shibolet publish .*run --to org/name") as caught:
        do_publish(current, config, force=True)
    assert f"--layout {layout} --private --force" in str(caught.value) and caught.value.exit_code == 60
    assert load_recogniser(str(current.folder.publish / "model"))
    hub.cut = None
    assert do_publish(current, config, force=True).startswith(f"{hub.url}/org/name/commit/")
    assert len(repeated) == 1  # the export was there
    files = hub.repos["org/name"]["files"]
    assert files.keys() == {path.name for path in (current.folder.publish / "model").iterdir()}
    assert hub.repos["org/name"]["private"] in (True, "private")


def test_the_commit_names_the_round_by_its_title(tmp_path, monkeypatch):
    """Every round's commit once said Round 2."""
    said = []
    monkeypatch.setattr("shibolet.rounds.publish.export_round", lambda *args, **settings: None)
    monkeypatch.setattr(
        "shibolet.publish.upload.upload_folder", lambda folder, to, *, private, message: said.append(message) or "page"
    )
    recipe = load_recipe("hebrew-round3", ["models.base=builtin:round1", "models.baseline=builtin:round1"])
    with open_round(recipe, tmp_path / "run", "publish", lambda sentence: None) as current:
        assert do_publish(current, CONFIG) == "page"
    assert said == ["Round 3 of hebrew-round3"]


def test_no_token_path_or_machine_in_any_file(current, repeated, tmp_path, monkeypatch):
    token = "hf_" + "Z9q" * 11
    monkeypatch.setenv("HF_TOKEN", token)
    model = Path(do_publish(current, CONFIG, force=True, upload=False))
    whole = b"".join(path.read_bytes() for path in model.rglob("*") if path.is_file())
    assert len(whole) > 100_000
    for secret in (token, str(tmp_path), str(Path.home()) + "/", str(Path(__file__).parents[2])):
        assert secret.encode() not in whole


@pytest.mark.slow("publish", seconds=30)
@pytest.mark.parametrize("clips", ["speech"], indirect=True)
@pytest.mark.parametrize("layout", ["native", "legacy"])
def test_the_cards_code_repeats_the_evaluation(current, layout, monkeypatch):
    """As printed, in a process without shibolet: `publish` once repeated with its own decoder what no library did."""
    ran = []

    def run_and_show(code, place, files):
        ran.append((code, reproducing_run(code + "import sys\nprint('shibolet' in sys.modules)\n", place, files)))
        assert ran[-1][1].pop() is False
        return ran[-1][1]

    reproducing_run = reproducing.run_code
    monkeypatch.setattr(reproducing, "run_code", run_and_show)
    config = CONFIG.model_copy(update={"layout": layout})
    model = Path(do_publish(current, config, force=True, upload=False))
    [(code, texts)] = ran
    assert len(texts) == 20 and len(set(texts)) > 15 and not any("language" in text for text in texts)
    done = Reproduced.read(current.folder.publish / "reproduced.json")
    assert done.same == 20 and not done.differing_words and done.words > 60
    card = (model / "README.md").read_text()
    assert "20 of 20 hypotheses of the evaluation came out word for word." in card
    assert (code_of(card) == code) == (layout == "native") and ("Converted back" in card) == (layout == "legacy")


def hears(monkeypatch, change) -> None:
    """In place of the process that runs the card's code: what the evaluation heard, changed by place and text."""
    chosen = reproducing._expected

    def expected(current, label):
        found = chosen(current, label)
        texts = [change(i, text) for i, (_, text) in enumerate(found)]
        monkeypatch.setattr(reproducing, "run_code", lambda code, place, files: texts)
        return found

    monkeypatch.setattr(reproducing, "_expected", expected)


def say(current, texts) -> None:
    """Make the evaluation's hypotheses those of `texts`, by place."""
    path = current.folder.hypotheses("round2", "noise")
    write_jsonl(path, [{**row, "hypothesis": texts(i)} for i, row in enumerate(read_jsonl(path))])


def test_what_another_rounding_changes_is_counted_and_a_fault_is_refused(current, monkeypatch):
    current.folder.publish.mkdir()
    say(current, lambda i: f"{i} ב ג ד")
    hears(monkeypatch, lambda i, text: text if i else f"{text[:-1]}ה")
    done = reproduce(current, current.folder.final, "round2", CONFIG)
    assert (done.same, done.words, done.differing_words) == (19, 80, 1)
    assert [(one.evaluation[-1], one.export[-1]) for one in done.differing] == [("ד", "ה")]
    hears(monkeypatch, lambda i, text: f"{text[:-1]}ה" if i < 5 else text)
    with pytest.raises(ModelError, match="5 of 20 hypotheses differ, 5 of 80 words; the first is 'u"):
        reproduce(current, current.folder.final, "round2", CONFIG)
    long = " ".join("ב" * 100)
    say(current, lambda i: long)
    hears(monkeypatch, lambda i, text: f"language Hebrew{text}")  # a word of a hundred, in every text
    with pytest.raises(ModelError, match="20 of 20 hypotheses differ"):
        reproduce(current, current.folder.final, "round2", CONFIG)


def test_recordings_that_were_heard_in_pieces_are_not_repeated(current):
    path = current.folder.hypotheses("round2", "noise")
    write_jsonl(path, [{**row, "duration_s": 31.0} for row in read_jsonl(path)])
    with pytest.raises(DataError, match=r"over evaluate\.max_piece_s, so the code of the model card has nothing"):
        reproduce(current, current.folder.final, "round2", CONFIG)


def test_a_set_in_another_language_is_not_repeated(current, monkeypatch):
    """It was heard in its own language, and the card's code asks for the recipe's."""
    (noise,) = current.sets
    beside = noise.model_copy(update={"name": "beside", "language": "English"})
    evaluated = current.folder.hypotheses("round2", "noise").parent
    shutil.copytree(evaluated, evaluated.with_name("beside"))
    monkeypatch.setitem(vars(current), "sets", [noise, beside])
    ids = [utterance.id for utterance, _ in reproducing._expected(current, "round2")]
    assert len(ids) == len(set(ids)) == 20
    monkeypatch.setitem(vars(current), "sets", [beside])
    with pytest.raises(DataError, match=r"no set of evaluate\.sets is in Hebrew"):
        reproducing._expected(current, "round2")


def test_code_that_fails_ends_in_a_sentence(tmp_path):
    with pytest.raises(ModelError, match="the code of the model card fails on the export: OSError: no such model"):
        reproducing.run_code("raise OSError('no such model')", tmp_path, [])


def test_utterances_are_taken_evenly_from_the_shortest_to_the_longest():
    lines = [
        HypothesisLine(id=str(i), reference="", hypothesis="", duration_s=float(s), domain=None)
        for i, s in enumerate(np.random.default_rng(0).permutation(103))
    ]
    for wanted in (1, 5, 20, 103, 500):
        lengths = [line.duration_s for line in spread(lines, wanted)]
        assert len(set(lengths)) == min(wanted, 103) and lengths[0] == 0
        assert wanted == 1 or lengths[-1] == 102
