"""A run's numbers against those of a second implementation: protects from a fault that the tests share with the code.

`tests/demo/test_demo_round.py` does the same with a round that was run.
"""

import ast
import importlib.util
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import second_implementation
import second_scoring
from second_implementation import differences, possible_counts, recompute
from second_scoring import NORMALISERS, letters_loop, times_repeated

from shibolet.evaluate.stage import read_rows
from shibolet.scoring.sclite import Entry, align_weighted, listing
from shibolet.speech.text import get_language

_spec = importlib.util.spec_from_file_location("finished_run", Path(__file__).parent / "report" / "conftest.py")
finished_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(finished_run)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished round with a repaired STOP; treat as read-only."""
    path = tmp_path_factory.mktemp("run")
    finished_run.write_run(path)
    return path


def test_every_number_of_a_run_is_found_again(run):
    assert differences(run) == []
    again = recompute(run)
    assert len(again) == 2 + 4 + 1  # gates, rounds by set, comparison
    assert (again["gate.json"]["decision"], again["gate-prepared.json"]["decision"]) == ("STOP", "PROCEED")
    blocks = [again["compare.json"]["overall"], *again["compare.json"]["domains"].values()]
    assert len(blocks) == 3 and all(low < high for block in blocks for low, high in [block["wer"]["interval_points"]])
    assert again["compare.json"]["losses"]["failures"]["baseline"] == 2


def times(factor: float) -> Callable[[float], float]:
    return lambda value: value * factor


def moved(frac: float) -> Callable[[list], list]:
    """An interval moved by a share of its width."""
    return lambda ends: [end + frac * (ends[1] - ends[0]) for end in ends]


@pytest.mark.parametrize(
    ("file", "keys", "change"),
    [
        ("gate.json", ("low_quality_pct", "lower"), times(1.001)),
        ("gate.json", ("strata", "whatsapp", "upper"), times(0.999)),
        ("gate.json", ("hours_low_quality_pct",), times(1.001)),
        ("gate-prepared.json", ("decision",), lambda _: "CAUTION"),
        ("evaluate/round1/clean/scores.json", ("cer", "rate"), times(1.0001)),
        ("evaluate/round2/whatsapp/scores.json", ("by_bucket", "medium", "wer", "errors"), lambda num: num + 1),
        ("evaluate/round2/whatsapp/scores.json", ("wer", "interval"), moved(0.05)),
        ("compare.json", ("overall", "wer", "candidate", "rate"), times(1.0001)),
        ("compare.json", ("domains", "clean", "cer", "delta_points"), times(1.0001)),
        ("compare.json", ("sets", "whatsapp", "wer", "interval_points"), moved(-0.05)),
        ("compare.json", ("overall", "wer", "p"), lambda p: p + 1e-4),
        ("compare.json", ("overall", "wer", "shown"), lambda _: "worse"),
        ("compare.json", ("largest_group", "points"), times(0.9)),
        ("compare.json", ("verdict",), lambda verdict: {"keep": "reject", "reject": "keep"}[verdict]),
    ],
)
def test_a_changed_number_is_named_with_both_values(run, tmp_path, file, keys, change):
    copy = shutil.copytree(run, tmp_path / "run")
    content = json.loads((copy / file).read_text(encoding="utf-8"))
    owner = content
    for key in keys[:-1]:
        owner = owner[key]
    before, owner[keys[-1]] = owner[keys[-1]], change(owner[keys[-1]])
    assert owner[keys[-1]] != before
    (copy / file).write_text(json.dumps(content), encoding="utf-8")
    found = differences(copy)
    named = [sentence for sentence in found if sentence.startswith(" ".join((file, *keys)))]
    assert len(named) == 1 and f"{owner[keys[-1]]} there" in named[0], found


def test_a_changed_hypothesis_is_seen_in_scores_and_comparison(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "evaluate" / "round2" / "clean" / "hypotheses.jsonl"
    first, rest = path.read_text(encoding="utf-8").split("\n", 1)
    path.write_text(json.dumps(json.loads(first) | {"hypothesis": "אחרת"}) + "\n" + rest, encoding="utf-8")
    found = "\n".join(differences(copy))
    assert "round2/clean/scores.json wer errors" in found
    assert (
        "compare.json overall wer candidate errors" in found and "compare.json domains clean cer delta_points" in found
    )


def test_a_changed_verdict_on_an_utterance_is_seen_in_the_gate(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "audit" / "utterances.parquet"
    table = pq.read_table(path)
    low = table["is_low_quality"].to_pylist()
    table = table.set_column(
        table.column_names.index("is_low_quality"), "is_low_quality", pa.array([not low[0], *low[1:]])
    )
    pq.write_table(table, path)
    found = differences(copy)
    assert any(sentence.startswith("gate.json low_quality_pct upper: ") for sentence in found)
    assert all(sentence.startswith("gate.json ") for sentence in found)


def test_a_changed_word_in_a_listing_is_seen(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run") / "evaluate" / "round1" / "whatsapp"
    entries = [Entry(row.id, align_weighted(row.said.split(), row.heard.split())) for row in read_rows(folder)]
    text = listing(entries)
    (folder / "listing.txt").write_text(text, encoding="utf-8")
    assert differences(tmp_path / "run") == []
    (folder / "listing.txt").write_text(text.replace("REF:  ", "REF:  אחרת ", 1), encoding="utf-8")
    (found,) = differences(tmp_path / "run")
    assert found.startswith("evaluate/round1/whatsapp/listing.txt test-0000 REF: אחרת ")


def test_nothing_of_the_project_is_in_it():
    for module in (second_implementation, second_scoring):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("shibolet") for name in names)


@pytest.mark.parametrize(
    ("hits", "drawn", "size", "counts"),
    [
        (0, 1, 2, (0, 1)),  # drawn good: the other may be either
        (1, 2, 2, (1, 1)),  # heard whole
        (0, 10, 20, (0, 4)),  # of four bad none is drawn in 4.3%, of five in 1.6%
    ],
)
def test_possible_counts(hits, drawn, size, counts):
    assert possible_counts(hits, drawn, size, 0.95) == counts


def test_normal_texts_equal_those_of_the_project():
    rng = random.Random(3)
    codes = [*range(0x590, 0x600), *range(0xFB1D, 0xFB50), *range(0x2000, 0x2070), 0xFEFF, 0x61C, 0x34F, 0xAD]
    pool = [*map(chr, codes), *"<>[]()|\"'.,!?-/ abcXYZ019½ﬁ²%€_:…İß" * 3, *["שלום", " ", "(א)", "[ב]", "<|1.2|>"] * 10]
    texts = ["".join(rng.choices(pool, k=rng.randint(0, 30))) for _ in range(2_000)]
    for code in ("he", "en"):
        language = get_language(code)
        for text in texts:
            assert NORMALISERS[language.scoring_version](text) == " ".join(language.to_scoring(text).split()), text


def test_loops():
    assert times_repeated("") == 0 and times_repeated("לא") == 1
    assert times_repeated("כן לא כן לא כן לא כן") == 3
    assert letters_loop("א" + "חה" * 10) and not letters_loop("חה" * 9)
