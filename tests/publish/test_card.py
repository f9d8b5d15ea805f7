"""The model card says what the files say, and nothing of the machine it was written on."""

import importlib.util
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file

from shibolet.errors import DataError
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.publish.card import model_card
from shibolet.publish.config import PublishConfig
from shibolet.publish.leaks import refuse_leaks
from shibolet.publish.names import public_name
from shibolet.recipe import load_recipe
from shibolet.records.documents.comparison import Comparison, WithoutDoubtful
from shibolet.records.documents.gate import GateVerdict
from shibolet.records.documents.labelled import Author, Labelled, Threshold
from shibolet.records.documents.prepared import Prepared
from shibolet.records.documents.published import Reproduced
from shibolet.records.documents.scores import Scores
from shibolet.records.documents.teaching import TeacherTexts
from shibolet.records.files import read_json, write_json
from shibolet.records.runfolder import RunFolder
from shibolet.report.recipe import ShownRecipe

_spec = importlib.util.spec_from_file_location("a_run", Path(__file__).parents[1] / "report" / "conftest.py")
a_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(a_run)

CONFIG = PublishConfig(to="org/name", licenses={"synthetic": "cc0-1.0"})
REPRODUCED = Reproduced(
    ids=tuple(map(str, range(32))), differing=({"id": "3", "evaluation": "a b", "export": "a c"},), words=90,
    differing_words=1, looped=(),
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run")
    a_run.write_run(path)
    write_weights(path)
    return path


def write_weights(run: Path) -> None:
    """A file for the trained model's, in float32."""
    (run / "train" / "final").mkdir(parents=True)
    save_file({"a": torch.zeros(1)}, run / "train" / "final" / "model.safetensors")


@pytest.fixture
def run(finished, tmp_path) -> RunFolder:
    shutil.copytree(finished, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def card_of(
    run: RunFolder, *overrides: str, config: PublishConfig = CONFIG, reproduced: Reproduced = REPRODUCED
) -> str:
    recipe = ShownRecipe.model_validate(load_recipe("demo", overrides).model_dump(mode="json"))
    return model_card(run, recipe, config, FAMILY, reproduced)


def test_hypotheses_that_are_left_out_as_loops_are_named(run):
    """Protects from a card that says how much came out the same and not what was left out of that."""
    assert "ended in a repetition loop" not in card_of(run)
    looped = REPRODUCED.model_copy(update={"looped": ("33", "34")})
    assert "In 2 more it ended in a repetition loop; these are left out" in " ".join(
        card_of(run, reproduced=looped).split()
    )


def pct(rate: float) -> str:
    return f"{round(100 * rate, 2)}"


def test_every_number_of_the_results_is_that_of_the_files(run):
    card, compared = card_of(run), Comparison.read(run.compare)
    tables = card.partition("## Results")[2].partition("## Use")[0]
    rows = [line for line in tables.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    expected = []
    for blocks in ({"all": compared.overall}, compared.sets, compared.domains):
        for name, block in blocks.items():
            wer, cer = block.wer, block.cer
            low, high = wer.interval_points
            expected.append(
                f"| {name} | {block.utterances} | {block.groups} | {pct(wer.baseline.rate)} | "
                f"{pct(wer.candidate.rate)} | {wer.delta_points:+.2f} | {low:+.2f} to {high:+.2f} | "
                f"{pct(cer.baseline.rate)} | {pct(cer.candidate.rate)} |"
            )
    expected.append("| set | utterances | WER | 95% interval | CER | 95% interval | not decoded |")
    for name in a_run.DOMAINS:
        score = Scores.read(run.scores("round2", name))
        (wl, wh), (cl, ch) = score.wer.interval, score.cer.interval
        expected.append(
            f"| {name} | {score.num_utterances} | {pct(score.wer.rate)} | {pct(wl)} to {pct(wh)} | "
            f"{pct(score.cer.rate)} | {pct(cl)} to {pct(ch)} | {len(score.failures)} |"
        )
    assert rows == expected and len(rows) == 8


def test_references_in_doubt_stand_with_the_results(run):
    """Who reads the rates elsewhere has to know that some references of the sets may be wrong."""
    said = ("References in doubt: 3 of 90.", "Without them: better.")
    without = WithoutDoubtful(sets={}, overall=None, sentences=said)
    Comparison.read(run.compare).model_copy(update={"doubtful": without}).write(run.compare)
    results = card_of(run).partition("## Results")[2].partition("## Use")[0]
    assert results.endswith("\nReferences in doubt: 3 of 90. Without them: better.\n\n")


def test_teacher_objectives_and_texts_by_machines_are_named(run, tmp_path):
    """Who takes the model has to know whose errors it may have learned, and under which licences."""
    plain = card_of(run)
    assert "was written by a model" not in plain and "teacher" not in plain.lower()
    assert "| B | the likelihood of the references |" in plain
    summary = Prepared.read(run.prepared / "summary.json")
    train = summary.train.model_copy(update={"hours": 4.0})
    summary.model_copy(update={"train": train}).write(run.prepared / "summary.json")
    rows = {"duration_s": [3600.0, 1800.0, 1800.0], "text_by": ["labelled", "corrected", None]}
    pq.write_table(pa.table(rows), run.prepared / "train-00009.parquet")
    author = Author(domain="phone", clips=9, writer_wer_pct=9, listener_wer_pct=1, chance=0.01, by="listener")
    Labelled(
        writer=str(tmp_path / "round2" / "train" / "final"), listener="org/model", max_wer=0.2, max_false_accept_pct=5,
        authors=(author,), agreement=Threshold(limit=None, clips=0, steps=()), given=None, habits=(), sources={},
        flagged=None, sentence="", notes=(),
    ).write(run.labelled / "label.json")  # fmt: skip
    TeacherTexts(teacher="x", utterances=90, kept=7, left_out={}, wer=0.1).write(run.path / "teach" / "teach.json")
    card = card_of(
        run, "train.phases.1.objective=distil", "train.distil.texts=true",
        f"models.teacher={tmp_path / 'round3' / 'train' / 'final'}",
        config=CONFIG.model_copy(update={"licenses": {"synthetic": "cc0-1.0", "round3": "apache-2.0"}}),
    )  # fmt: skip
    assert (
        "The text of 37.5% of these hours was written by a model, round2, and org/model heard the same; the text is "
        "that of the second in the domains phone: 1 utterances (0.500 h) came with another text, 1 utterances "
        "(1.000 h) came without a text. No such text is in dev."
    ) in card
    assert "7 texts of the teacher trained beside the references of 90 utterances" in card
    assert "| A | the divergence from what the teacher expects at each token of the references |" in card
    assert "The teacher is round3." in card and "Teacher, round3: apache-2.0." in card
    assert str(tmp_path) not in card


def test_an_averaged_model_has_the_name_of_its_average_and_no_path_of_this_machine():
    """Every average would be called "model" on the card, and a path that is gone would be taken for a Hub id."""
    named = {
        "runs/round2/train/final": "round2", "runs/round2/average/wise/model": "round2-wise",
        "/gone/round2/parts/single/model": "round2-single", "/gone/round2/publish/model": "round2",
        "./data/speech": "speech", "org/model": "org/model", "builtin:round1": "builtin:round1", "final": "final",
    }  # fmt: skip
    assert {name: public_name(name) for name in named} == named


def test_data_gate_and_training_are_those_of_the_files(run):
    card, prepared = card_of(run), Prepared.read(run.prepared / "summary.json")
    assert f"{prepared.train.utterances} utterances, {prepared.train.hours} h, trained the model" in card
    for rule, left in prepared.dropped_by_rule.items():
        assert f"| {rule} | {left.utterances} | {left.hours} |" in card
    for name, prepared_too in (("raw data", False), ("what was kept", True)):
        gate = GateVerdict.read(run.gate(prepared=prepared_too))
        rate, lower, upper = (round(getattr(gate.low_quality_pct, key), 2) for key in ("rate", "lower", "upper"))
        assert f"| {name} | {gate.decision} | {rate} | {lower} to {upper} |" in card
    assert "Step 240 of 286, chosen by dev WER, as the best of 11 on dev: its WER there is too good by" in card
    assert "31 of 32 hypotheses of the evaluation came out word for word, and 1 of 90 words differ." in card
    assert "- Round 2 loops in 0 of 240 utterances" in card
    assert "| synthetic | cc0-1.0 |" in card


def test_the_hubs_metadata_has_the_same_results(run):
    data = yaml.safe_load(card_of(run).split("---\n")[1])
    assert data["language"] == "he" and "base_model" not in data
    results = data["model-index"][0]["results"]
    values = {(result["dataset"]["name"], m["type"]): m["value"] for result in results for m in result["metrics"]}
    assert values == {
        (name, measure): round(100 * read_json(run.scores("round2", name))[measure]["rate"], 2)
        for name in a_run.DOMAINS
        for measure in ("wer", "cer")
    }


def test_a_third_round_is_called_by_its_own_title(tmp_path):
    """A card once spoke of Round 2 where it meant the model that it describes."""
    a_run.write_run(tmp_path, ("Round 2", "Round 3"))
    write_weights(tmp_path)
    card = card_of(RunFolder(tmp_path), "title=Round 3", "models.baseline_title=Round 2")
    assert (
        "Round 3 is this model. Round 2 is builtin:round1, scored" in card and "| WER Round 2 | WER Round 3 |" in card
    )
    assert "- Round 3 loops in 0 of 240 utterances" in card and "Round 1" not in card


def test_an_optional_set_that_could_not_be_had_is_left_out(run):
    more = "evaluate.sets.2={name: fleurs, hub: google/fleurs, optional: true}"
    assert "fleurs" not in card_of(run, more).partition("## Results")[2].partition("## Use")[0]


def test_a_number_that_changes_in_a_file_changes_on_the_card(run):
    before, compared = card_of(run), read_json(run.compare)
    compared["overall"]["wer"]["candidate"]["rate"] = 0.98765
    write_json(run.compare, compared)
    assert "98.77" not in before and "98.77" in card_of(run)


def test_the_recipe_alone_is_not_said_to_have_made_what_went_on_from_a_step(run):
    assert "Not all of it was trained" not in card_of(run)
    said = a_run.go_on_from_a_step(run)
    assert f"Not all of it was trained as the table says: {said}." in card_of(run)


def test_limits_and_a_forced_publication_are_said(run):
    compared = read_json(run.compare)
    write_json(run.compare, {**compared, "verdict": "reject", "next_steps": ["Do this next."]})
    GateVerdict.read(run.gate()).model_copy(update={"decision": "INVALID"}).write(run.gate())
    card = card_of(run)
    assert "says **reject**; it was published all the same" in card and "- Do this next." in card
    assert "failed its own test (INVALID)" in card


def test_the_precision_is_the_trained_models(run):
    """The card of a model that was trained and kept in float32 once said bfloat16."""
    assert "merged in float32; the trained weights are F32." in card_of(run)


def test_each_layout_says_how_it_is_read(run):
    assert "qwen_asr" not in card_of(run)
    assert "from qwen_asr import Qwen3ASRModel" in card_of(run, config=PublishConfig(to="org/name", layout="legacy"))


def test_a_layout_that_nothing_here_reads_is_not_said_to_have_been_converted_back(run, monkeypatch):
    """The code of its own card runs on it."""
    config = PublishConfig(to="org/name", layout="legacy")
    assert "Converted back" in card_of(run, config=config)
    monkeypatch.setattr(type(FAMILY), "exports", {"legacy": "qwen-asr"})
    assert "Converted back" not in card_of(run, config=config)


def test_hub_ids_are_linked_and_local_paths_are_not_shown(run, tmp_path):
    base = tmp_path / "private" / "my-base"
    card = card_of(
        run, f"models.base={base}", "models.baseline=OzLabs/Qwen3-ASR-Hebrew-1.7B",
        "data.train.0={name: crowd, hub: org/crowd, split: train}",
    )  # fmt: skip
    assert "my-base" in card and str(tmp_path) not in card
    assert "[OzLabs/Qwen3-ASR-Hebrew-1.7B](https://huggingface.co/OzLabs/Qwen3-ASR-Hebrew-1.7B)" in card
    assert "[org/crowd](https://huggingface.co/datasets/org/crowd) | not stated here; see its page |" in card
    assert yaml.safe_load(card.split("---\n")[1])["datasets"] == ["org/crowd"]
    assert not re.search(r"(?<![\w.:/)])/(?:home|root|tmp|data|Users)/", card)


@pytest.mark.parametrize("secret", ["hf_" + "Ab3" * 11, "{place}/corpus/a.wav"])
def test_an_export_with_a_token_or_a_path_is_refused(secret, tmp_path):
    place, export = tmp_path / "run", tmp_path / "export"
    export.mkdir()
    (export / "weights.bin").write_bytes(bytes(range(256)) * 70_000)
    refuse_leaks(export, place)
    with (export / "weights.bin").open("r+b") as file:  # across the border of two blocks that are read
        file.seek((1 << 24) - 10)
        file.write(secret.format(place=place).encode())
    with pytest.raises(DataError, match=r"weights\.bin holds a (path of this machine|Hub token)"):
        refuse_leaks(export, place)
