"""An n-gram over tokens: its probabilities are those of the formulas, sum to 1, and survive the ARPA file."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from whisper_models import tiny_tokenizer

from shibolet.errors import DataError, ModelError
from shibolet.model.ngram.arpa import read_arpa, write_arpa
from shibolet.model.ngram.estimate import FALLBACK, discounts_of, estimate
from shibolet.model.ngram.fusion import Fusion
from shibolet.model.ngram.table import Ngram

V, END = 12, 11
Gram = tuple[int, ...]


def sentences(num: int, seed: int = 0) -> list[list[int]]:
    """Texts of a Markov chain over ids 0 to 8: 9 and 10 never come."""
    rng = np.random.default_rng(seed)
    moves = rng.dirichlet(np.full(9, 0.3), size=9)
    texts = []
    for _ in range(num):
        text = [int(rng.integers(9))]
        while rng.random() < 0.85:
            text.append(int(rng.choice(9, p=moves[text[-1]])))
        texts.append(text)
    return texts


class ByTheFormulas:
    """Interpolated modified Kneser-Ney by sets and dictionaries, one probability at a time (Chen and Goodman 1999)."""

    def __init__(self, texts: Sequence[Sequence[int]], order: int) -> None:
        raw: dict[Gram, int] = defaultdict(int)
        before: dict[Gram, set[int]] = defaultdict(set)
        for text in texts:
            padded = (V, *text, END)
            for n in range(1, order + 1):
                for i in range(len(padded) - n + 1):
                    gram = padded[i : i + n]
                    raw[gram] += 1
                    if i:
                        before[gram].add(padded[i - 1])
        self.counts = {
            gram: count if len(gram) == order or gram[0] == V else len(before[gram])
            for gram, count in raw.items()
            if gram != (V,)
        }
        self.discounts = [self._discounts(n) for n in range(1, order + 1)]
        self.children: dict[Gram, list[Gram]] = defaultdict(list)
        for gram in self.counts:
            self.children[gram[:-1]].append(gram)

    def _discounts(self, n: int) -> list[float]:
        num = lambda r: sum(count == r for gram, count in self.counts.items() if len(gram) == n)  # noqa: E731
        if not (num(1) and num(2) and num(3)):
            return [0, *FALLBACK]
        y = num(1) / (num(1) + 2 * num(2))
        found = [0.0, *(r - (r + 1) * y * num(r + 1) / num(r) for r in (1, 2, 3))]
        return found if all(0 < d <= r for r, d in enumerate(found) if r) else [0, *FALLBACK]

    def probability(self, context: Gram, token: int) -> float:
        children = self.children.get(context)
        below = self.probability(context[1:], token) if context else 1 / V
        if not children:
            return below
        discount = self.discounts[len(context)]
        total = sum(self.counts[gram] for gram in children)
        rest = sum(discount[min(self.counts[gram], 3)] for gram in children) / total
        own = self.counts.get((*context, token), 0)
        return (own - discount[min(own, 3)]) / total + rest * below


def contexts_of(texts: Sequence[Sequence[int]], length: int, num: int = 60) -> list[Gram]:
    """Contexts of that length: begins and middles of texts, and random ones with ids that no text has."""
    rng = np.random.default_rng(1)
    found = [tuple(rng.integers(0, V - 1, size=length).tolist()) for _ in range(num)]
    for text in texts[:num]:
        padded = (V, *text)
        found += [padded[i : i + length] for i in range(len(padded) - length + 1)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("num", [1, 7, 400])
def test_every_probability_is_that_of_the_formulas_and_they_sum_to_one(order, num):
    """Protects from continuation counts of the wrong side, a begin that is counted as a token, lost back-off mass."""
    texts = sentences(num)
    ngram, discounts = estimate(texts, order, V, END)
    theirs = ByTheFormulas(texts, order)
    assert [list(found) for found in discounts] == [pytest.approx(d[1:]) for d in theirs.discounts[: len(discounts)]]
    contexts = contexts_of(texts, max(order - 1, 1))
    ours = np.exp(ngram.logps(np.array(contexts)))
    np.testing.assert_allclose(ours.sum(axis=1), 1, atol=1e-9)
    kept = contexts if order > 1 else [()] * len(contexts)
    expected = [[theirs.probability(context, token) for token in range(V)] for context in kept]
    np.testing.assert_allclose(ours, expected, atol=1e-9)
    assert num < 400 or order < 3 or discounts[-1] != FALLBACK, "the discounts were never estimated"


def test_discounts_of_counts_that_say_nothing_are_the_usual_ones():
    """A text of few sentences has no n-gram that comes three times: a division by 0 must not end the estimation."""
    assert discounts_of(np.array([1, 1, 2])) == FALLBACK
    assert discounts_of(np.array([1] * 4 + [2] * 3 + [3] * 400)) == FALLBACK, "below 0"


def test_without_texts_there_is_no_model():
    with pytest.raises(DataError, match="there are none"):
        estimate([[], []], 3, V, END)


@pytest.fixture(scope="module")
def made() -> tuple[Ngram, dict[str, int]]:
    """An n-gram over the ids of a tokenizer, and its pieces."""
    tokenizer = tiny_tokenizer()
    pieces = tokenizer.get_vocab()
    texts = tokenizer([" שלום עולם", " הילד הלך אל הים", " שלום הילד", " the sea"] * 3, add_special_tokens=False)
    return estimate(texts["input_ids"], 4, len(pieces), tokenizer.eos_token_id)[0], pieces


def test_the_file_says_what_the_model_said(made, tmp_path):
    """Protects from orders, logarithms or back-offs that are mixed up on the way to a file and back."""
    ngram, pieces = made
    write_arpa(ngram, pieces, tmp_path / "x.arpa")
    larger = ngram.vocab_size + 5  # a model has more ids than its tokenizer
    again = read_arpa(tmp_path / "x.arpa", pieces, larger, ngram.end_id)
    contexts = np.array([[ngram.begin_id, *row] for row in ngram.orders[0].token[:20, None].tolist()])
    theirs = again.logps(np.where(contexts == ngram.begin_id, larger, contexts))[:, : ngram.vocab_size]
    np.testing.assert_allclose(theirs, ngram.logps(contexts), atol=1e-5)


def test_kenlm_reads_the_same_from_the_file(made, tmp_path):
    """Another reader of ARPA: what it says sums to 1 over the vocabulary and is what we say."""
    kenlm = pytest.importorskip("kenlm", reason="needs kenlm, which a compiler has to build")
    ngram, pieces = made
    write_arpa(ngram, pieces, tmp_path / "x.arpa")
    model, names = kenlm.Model(str(tmp_path / "x.arpa")), {id: piece for piece, id in pieces.items()}
    names[ngram.end_id] = "</s>"
    rng, known = np.random.default_rng(0), ngram.orders[0].token[:-1]
    for _ in range(20):
        context = [ngram.begin_id, *rng.choice(known, size=3).tolist()]
        state, after = kenlm.State(), kenlm.State()
        model.BeginSentenceWrite(state)
        for token in context[1:]:
            model.BaseScore(state, names[token], after)
            state, after = after, kenlm.State()
        said = np.array([model.BaseScore(state, names[token], after) for token in range(ngram.vocab_size)])
        assert np.sum(10**said) == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(said * math.log(10), ngram.logps(np.array([context]))[0], atol=1e-4)


def test_kenlm_agrees_on_the_contexts_that_were_seen(tmp_path):
    """Random contexts back off to unigrams: here all orders are asked."""
    kenlm = pytest.importorskip("kenlm", reason="needs kenlm, which a compiler has to build")
    texts, names = sentences(200), {str(id): id for id in range(V)}
    ngram, _ = estimate(texts, 4, V, END)
    write_arpa(ngram, names, tmp_path / "x.arpa")
    model = kenlm.Model(str(tmp_path / "x.arpa"))
    for text in texts[:50]:
        theirs = [score * math.log(10) for score, *_ in model.full_scores(" ".join(map(str, text)))]
        padded, ours = [V, *text], []
        for i, token in enumerate([*text, END]):
            context = np.array([padded[max(0, i - 2) : i + 1]])
            ours.append(ngram.logps(context)[0, token])
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_processor_sees_the_text_and_not_the_prompt():
    """Protects from prompt tokens as contexts, a begin that is not there, and ends that are not asked for."""
    texts = sentences(100)
    ngram, _ = estimate(texts, 3, V, END)
    fusion = Fusion(ngram, 0.5, [END, 9], torch.device("cpu"))  # 9 ends a text too
    scores, prompt = torch.randn(2, V), torch.tensor([[5, 6, 7], [0, 0, 7]])
    for written in ([], [1], [1, 2], [4, 1, 2]):
        ids = torch.tensor([[*row, *written] for row in prompt.tolist()])
        added = (fusion.processors(3)(ids, scores) - scores) / 0.5
        expected = ngram.logps(np.array([[V, *written][-2:]]))[0]
        expected[9] = expected[END]
        np.testing.assert_allclose(added.numpy(), np.stack([expected] * 2), atol=1e-5)


TWO = "\\data\\\nngram 1=1\nngram 2=1\n\n\\1-grams:\n-1\t<unk>\t0\n\n\\2-grams:\n"
BROKEN = {
    "": "should stand where 'the end of the file'",
    "\\data\\\nngram 1=2\n\n\\1-grams:\n-1\t<unk>\t0\n": "line after the last should be one of 2 1-grams",
    "\\data\\\nngram 1=99999\n\n\\1-grams:\n": "is not an ARPA file of 1 to 6 orders",
    "\\data\\\nngram 2=1\n": "should say how many n-grams",
    "\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tא\t0\n\n\\end\\\n": "has no <unk>",
    "\\data\\\nngram 1=1\n\n\\1-grams:\nnan\t<unk>\t0\n\n\\end\\\n": "not a number|not finite|has no <unk>",
    "\\data\\\nngram 1=1\n\n\\1-grams:\n-x\t<unk>\t0\n\n\\end\\\n": "not a number",
    "\\data\\\nngram 1=2\n\n\\1-grams:\n-1\t</s>\t0\n-1\t</s>\t0\n\n\\end\\\n": "occurs twice",
    f"{TWO}-1\t<s> </s>\n\n\\end\\\n": "goes on from",
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_file_that_is_no_arpa_is_one_sentence(content, tmp_path):
    """A cut download must not become a traceback, or a model of half a file."""
    path = tmp_path / "x.arpa"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=BROKEN[content].replace("\\", r"\\")):
        read_arpa(path, {"א": 0}, V, END)


def test_the_file_of_another_tokenizer_is_refused(made, tmp_path):
    """Its probabilities would be added to the wrong tokens, and nothing would say so."""
    ngram, pieces = made
    write_arpa(ngram, pieces, tmp_path / "x.arpa")
    with pytest.raises(ModelError, match="is not a token of this model; an n-gram belongs to the tokenizer"):
        read_arpa(tmp_path / "x.arpa", {"a": 0}, V, END)
    with pytest.raises(DataError, match="cannot be read"):
        read_arpa(Path(tmp_path / "none"), pieces, V, END)


def test_a_piece_that_arpa_keeps_for_itself_is_refused(tmp_path):
    """A token '<s>' of a text would be read as the begin of texts."""
    ngram, _ = estimate([[0, 1]], 2, V, END)
    with pytest.raises(DataError, match="the token '<s>'"):
        write_arpa(ngram, {"<s>": 0, "b": 1, "end": END}, tmp_path / "x.arpa")
