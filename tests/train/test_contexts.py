"""Contexts in training: protects from words that give the answer away, from draws that a resume changes, and from
sequences longer than were planned."""

from collections import Counter
from dataclasses import replace

import pytest
from tiny_run import outcome, tiny_config
from whisper_models import loaded_whisper

from shibolet.errors import DataError, RecipeError
from shibolet.model.protocols import Prompt
from shibolet.model.qwen3_asr.family import FAMILY
from shibolet.train.config import ContextConfig
from shibolet.train.context import with_contexts
from shibolet.train.data import read_examples
from shibolet.train.fingerprint import fingerprint_of
from shibolet.train.phases import blueprint_of
from shibolet.train.plan import make_plan
from shibolet.train.reader import PackReader, PackRequest
from shibolet.train.stage import Reached, run_train

EVERY = {"max_utterances": 1000, "min_letters": 1}  # of the tiny corpus, all words are rare


@pytest.fixture
def tell(examples, loaded):
    """The tiny corpus with contexts by these settings."""

    def run(room: int = 4096, **settings):
        return with_contexts(
            examples, ContextConfig(**EVERY | settings), family=FAMILY, tokenizer=loaded.tokenizer, language="Hebrew",
            seed=3, max_tokens=room,
        )  # fmt: skip

    return run


def told_in(example, loaded) -> list[str]:
    """The terms in the prompt of an utterance as an epoch has it."""
    if example.frame is None:
        return []
    text = loaded.tokenizer.decode(example.frame.before)
    return text.split("system\n")[1].split("<|im_end|>")[0].split(", ")


def test_shares_are_those_of_the_recipe_and_distractors_are_never_said(tell, loaded):
    drawn = [(one.text.split(), told_in(one.in_epoch(epoch), loaded)) for one in tell() for epoch in range(40)]
    cases = Counter(
        "none" if not told else "right" if set(told) & set(text) else "distractors" for text, told in drawn
    )  # fmt: skip
    shares = {case: num / len(drawn) for case, num in cases.items()}
    assert shares == pytest.approx({"none": 0.5, "right": 0.25, "distractors": 0.25}, abs=0.05)
    rights = [(sum(one in text for one in told), told) for text, told in drawn if set(told) & set(text)]
    assert {num for num, _ in rights} == {1, 2, 3} and all(len(told) == len(set(told)) for _, told in rights)
    places = Counter(told.index(next(one for one in told if one in text)) == 0 for text, told in drawn
                     if len(told) > 4 and set(told) & set(text))  # fmt: skip
    assert places[True] < places[False], "the right word is not always the first"


def test_an_utterance_without_a_term_stays_out_of_the_share_of_right_ones(tell, examples, loaded, tmp_path):
    """Else distractors alone come twice as often as the recipe says; and a list of them is never empty."""
    names = tmp_path / "names.txt"
    names.write_text(f"{examples[0].text}\nירושלים\n", encoding="utf-8")
    without = tell(file=names, right_share=0.5, distractor_share=0.25, num_distractors=(0, 0))[1:]
    told = [told_in(one.in_epoch(epoch), loaded) for one in without for epoch in range(40)]
    assert sum(map(bool, told)) / len(told) == pytest.approx(0.25, abs=0.05) and {len(one) for one in told} == {0, 1}


def test_a_context_that_no_utterance_can_be_told_is_refused(tell, examples, loaded, tmp_path):
    """The recipe's key would do nothing. With other forms, without room, or with terms that are all too long."""
    names = tmp_path / "names.txt"
    names.write_text(f"{examples[0].text}\n", encoding="utf-8")
    for refused in ({"room": 10}, {"max_tokens": 1, "file": names}):
        with pytest.raises(RecipeError, match=r"none of the 22 utterances can be told terms: 0 have"):
            tell(**refused)
    timed = [replace(one, forms=object()) for one in examples]
    common = {"family": FAMILY, "tokenizer": loaded.tokenizer, "language": "Hebrew", "seed": 3, "max_tokens": 4096}
    with pytest.raises(RecipeError, match=r"none of the 22 utterances can be told terms: 22 have a previous text"):
        with_contexts(timed, ContextConfig(**EVERY), **common)
    plan = make_plan(tiny_config(context=EVERY), blueprint_of(loaded.model.config, tiny_config()), tell())
    assert any(note.startswith("train.context: 22 of 22 utterances can be told terms") for note in plan.notes)


def test_a_list_beyond_the_models_own_limit_names_the_key(prepared_dir, tmp_path):
    """A Whisper takes 223 tokens, and the longest list is planned a term beyond the recipe's limit."""
    loaded = loaded_whisper()
    family, tokenizer = loaded.family, loaded.tokenizer
    examples, _ = read_examples(prepared_dir, "train", family, family.targets(tokenizer, Prompt("Hebrew")), 4096)
    names = tmp_path / "names.txt"
    num_words = 120 // len(family.targets(tokenizer, Prompt("Hebrew")).encode([" שלום"])[0])
    names.write_text("\n".join([examples[0].text, "שלום " * num_words, "עולם " * num_words]), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"train\.context\.max_tokens is 200, and lists are planned .* lowering it"):
        with_contexts(
            examples, ContextConfig(file=names, max_tokens=200), family=family, tokenizer=tokenizer, language="Hebrew",
            seed=0, max_tokens=4096,
        )  # fmt: skip


def test_an_epoch_tells_the_same_whoever_asks_and_another_tells_another(tell, loaded):
    made = [[told_in(one.in_epoch(epoch), loaded) for one in tell()] for epoch in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    alone = [told_in(one.in_epoch(1), loaded) for one in reversed(tell())][::-1]
    assert alone == made[2]


def test_lengths_hold_and_the_pack_is_that_of_the_prompt(tell, examples, loaded, prompt):
    """Token for token as `Prompt.context` has it; labels and losses count the same utterances."""
    told = tell()
    reader = PackReader(FAMILY, prompt.frame, loaded.extractor)
    for epoch in range(6):
        drawn = [one.in_epoch(epoch) for one in told]
        assert all(one.num_tokens <= longest.num_tokens for one, longest in zip(drawn, told, strict=True))
        assert [one.num_targets for one in drawn] == [one.num_targets for one in examples]
        pack = reader.longest_pack(drawn)
        assert pack.num_tokens == sum(one.num_tokens for one in drawn)
    one = next(one for one in drawn if one.frame)
    context = ", ".join(told_in(one, loaded))
    frame = FAMILY.targets(loaded.tokenizer, Prompt("Hebrew", context)).frame
    alone = PackReader(FAMILY, frame, loaded.extractor).longest_pack([replace(one, frame=None)])
    assert reader.longest_pack([one]).input_ids.tolist() == alone.input_ids.tolist()
    with FAMILY.packed(loaded.model):
        (read,) = reader.read(loaded.model, [PackRequest(0, 0, 0, (one,))])
    assert context in loaded.tokenizer.decode(read.input_ids.flatten())


def test_a_long_list_loses_its_last_terms(tell, loaded, prompt):
    """Whole terms and never a part of one; the longest form counts with the limit."""
    often = {"right_share": 0.5, "distractor_share": 0.5, "num_distractors": (9, 9)}
    cut = [told_in(one.in_epoch(0), loaded) for one in tell(max_tokens=9, **often)]
    whole = [told_in(one.in_epoch(0), loaded) for one in tell(max_tokens=200, **often)]
    assert all(few == many[: len(few)] for few, many in zip(cut, whole, strict=True)) and cut != whole
    assert max(len(prompt.encode([", ".join(few)])[0]) for few in cut) <= 9
    lengths = [[one.num_tokens for one in tell(max_tokens=most, **often)] for most in (9, 200)]
    assert all(one < two for one, two in zip(*lengths, strict=True))


def test_a_whisper_is_told_as_its_previous_text(prepared_dir):
    loaded = loaded_whisper()
    family, tokenizer = loaded.family, loaded.tokenizer
    examples, _ = read_examples(prepared_dir, "train", family, family.targets(tokenizer, Prompt("Hebrew")), 4096)
    told = with_contexts(
        examples, ContextConfig(**EVERY, right_share=1, distractor_share=0), family=family, tokenizer=tokenizer,
        language="Hebrew", seed=0, max_tokens=4096,
    )  # fmt: skip
    one = told[0].in_epoch(0)
    before, after = tokenizer.decode(one.frame.prompt).split("<|startoftranscript|>")
    assert before.startswith("<|startofprev|>") and after.endswith("<|notimestamps|>")
    assert set(before.removeprefix("<|startofprev|>").strip().split(", ")) & set(examples[0].text.split())
    plain = family.targets(tokenizer, Prompt("Hebrew")).frame
    assert one.num_tokens - examples[0].num_tokens == len(one.frame.prompt) - len(plain.prompt)


def test_what_there_is_no_room_for_is_told_nothing(tell, examples):
    room = min(one.num_tokens for one in tell())
    told = tell(room=room)
    are_told = [one.forms is not None for one in told]
    assert 0 < sum(are_told) < len(told) and all(
        one.num_tokens <= room for one, is_told in zip(told, are_told) if is_told
    )
    assert all(one == plain for one, plain, is_told in zip(told, examples, are_told, strict=True) if not is_told)


def test_terms_of_a_file_are_told_where_they_are_said_and_whole(tell, examples, loaded, tmp_path):
    names = tmp_path / "names.txt"
    first = examples[0].text.split()
    names.write_text("\n".join([" ".join(first[:2]), "תל אביב", "ירושלים"]), encoding="utf-8")
    told = tell(file=names, right_share=1, distractor_share=0, num_distractors=(1, 1))
    own = [set(told_in(one.in_epoch(0), loaded)) for one in told]
    assert " ".join(first[:2]) in own[0]
    for one, terms in zip(examples, own, strict=True):
        is_said = f" {' '.join(first[:2])} " in f" {one.text} "
        assert (" ".join(first[:2]) in terms) == is_said or not is_said, "a term that is not said may be a distractor"
        assert terms <= {" ".join(first[:2]), "תל אביב", "ירושלים"}
    names.write_text("ירושלים\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"no term of .* is said in a training text"):
        tell(file=names)


def test_texts_without_a_rare_word_are_refused(tell):
    with pytest.raises(RecipeError, match=r"raise train\.context\.max_utterances"):
        tell(max_utterances=1)
    with pytest.raises(RecipeError, match=r"add up to 1\.5"):
        ContextConfig(right_share=0.75, distractor_share=0.75)
    with pytest.raises(RecipeError, match="the lower end comes first"):
        ContextConfig(num_distractors=(4, 2))


def test_without_the_key_nothing_changes_and_with_it_it_is_another_training(tell, examples, loaded):
    plain, told = tiny_config(), tiny_config(context=EVERY)
    assert "context" not in plain.identity() and "context" in told.identity()
    assert (
        with_contexts(examples, None, family=FAMILY, tokenizer=None, language="Hebrew", seed=0, max_tokens=9)
        == examples
    )
    made = [fingerprint_of(loaded, some, plain, "Hebrew", 0)["training data"] for some in (examples, tell())]
    assert made[0] != made[1]


def test_other_terms_in_the_file_are_another_training_and_another_place_of_it_is_not(tmp_path):
    """Else a finished training stands for terms that it was never told."""
    names, moved = tmp_path / "names.txt", tmp_path / "moved.txt"
    names.write_text("חיפה\n", encoding="utf-8")
    moved.write_text("# towns\nחיפה\n", encoding="utf-8")
    first = tiny_config(context={"file": names}).identity()
    assert tiny_config(context={"file": moved}).identity() == first
    names.write_text("חיפה\nיפו\n", encoding="utf-8")
    assert tiny_config(context={"file": names}).identity() != first
    with pytest.raises(
        DataError, match=r"context: .*gone\.txt cannot be read: .*; give a text file with a term a line"
    ):
        tiny_config(context={"file": tmp_path / "gone.txt"}).identity()


def test_a_training_goes_on_as_if_it_had_never_stopped(prepared_dir, base_dir, tmp_path):
    common = {
        "prepared_dir": prepared_dir, "base": str(base_dir), "language": "Hebrew", "seed": 5, "num_threads": 1,
        "config": tiny_config(context=EVERY, checkpoint_every_steps=1), "score_dev": None, "about": {},
    }  # fmt: skip
    for name, steps in (("whole", [3]), ("cut", [1, 3])):
        for step in steps:
            with pytest.raises(Reached):
                run_train(**common, out_dir=tmp_path / name, until_step=step)
    assert len(outcome(tmp_path / "whole")["metrics"]) == 3
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
