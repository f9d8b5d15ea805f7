"""Protects keep and reject: only a difference that the interval shows is kept, and nothing is compared unpaired."""

import json
import random
from dataclasses import replace

import pytest
from made_scores import ROUNDS, overlap_of

from shibolet.compare import CompareConfig, compare, compare_systems
from shibolet.errors import DataError
from shibolet.records.candidate import named
from shibolet.records.documents.comparison import Comparison, SystemsComparison
from shibolet.records.utterance import AudioRef, Utterance
from shibolet.scoring.counts import EditCounts
from shibolet.scoring.rows import ScoredRow, score_row
from shibolet.speech.text import get_language

CONFIG = CompareConfig(bootstrap_samples=1000, loop_cost=0)  # so few utterances allow for no loop


def rows(errors: dict[str, float], num: int = 60, seed: int = 0) -> list[ScoredRow]:
    """`num` utterances of ten words in each domain with about that share of wrong words, three to a recording."""
    rng = random.Random(seed)
    made = []
    for domain, rate in errors.items():
        for i in range(num):
            wrong = sum(rng.random() < rate for _ in range(10))
            made.append(
                ScoredRow(
                    id=f"u{i}",
                    set=f"eval-{domain}",
                    domain=domain,
                    recording=f"{domain}-{i // 3}",
                    speaker=None,
                    duration_s=2.0 + i % 20,
                    reference=f"ref {i}",
                    hypothesis="",
                    said="",
                    heard="",
                    words=EditCounts(10 - wrong, wrong),
                    chars=EditCounts(50 - wrong, wrong),
                )
            )
    return made


def judge(baseline: list[ScoredRow], candidate: list[ScoredRow], config: CompareConfig = CONFIG, **more) -> Comparison:
    return compare((baseline, candidate), ROUNDS, config, **more)


def systems_of(rows_by_label: dict[str, list[ScoredRow]], **more) -> SystemsComparison:
    return compare_systems({named(label): own for label, own in rows_by_label.items()}, CONFIG, **more)


def test_a_clear_gain_is_kept_and_reported_in_points() -> None:
    before, after = rows({"clean": 0.2, "whatsapp_noisy": 0.5}), rows({"clean": 0.1, "whatsapp_noisy": 0.3}, seed=1)
    result = judge(before, after, CONFIG)
    wer = result.overall.wer
    errors = [sum(row.words.errors for row in side) for side in (before, after)]
    assert [side.errors for side in wer.sides] == errors
    assert wer.delta_points == pytest.approx(100 * (errors[1] - errors[0]) / 1200)
    assert wer.delta_relative_pct == pytest.approx(100 * (errors[1] / errors[0] - 1))
    assert wer.interval_points[0] < wer.delta_points < wer.interval_points[1] < 0
    assert wer.probability_of_improvement > 0.999
    assert (result.verdict, result.lead_with, result.next_steps) == ("keep", "sets", ())
    assert result.target.reached and result.sentence.startswith("Round 2 is better")
    assert list(result.sets) == ["eval-clean", "eval-whatsapp_noisy"]
    assert sum(block.utterances for block in result.buckets.values()) == result.overall.utterances == 120
    assert (result.overall.groups, result.overall.counted) == (40, "40 recordings")
    assert result.overall.cer.baseline.chars == 6000
    json.dumps(result.to_json(), allow_nan=False)


def test_no_difference_is_rejected_with_both_next_steps() -> None:
    sides = [[replace(row, snr_db=21.0) for row in rows({"street": 0.3}, seed=seed)] for seed in (0, 1)]
    result = judge(*sides)
    assert result.verdict == "reject" and result.sentence.startswith("No difference shown")
    assert result.lead_with == "domains"
    assert len(result.next_steps) == 2 and "codec augmentation" in result.next_steps[1]
    assert "Domain 'street' is noisy (median signal over noise 21 dB)" in result.next_steps[1]
    assert len(judge(*sides, heard_codecs=True).next_steps) == 1


@pytest.mark.parametrize("snr_db", [None, 30.0, 46.0])
def test_only_what_was_measured_is_noisy(snr_db) -> None:
    """Its name says nothing: a set of clean clips called whatsapp is no reason for codec augmentation."""
    sides = [[replace(row, snr_db=snr_db) for row in rows({"whatsapp": 0.3}, seed=seed)] for seed in (0, 1)]
    assert not any("codec" in step for step in judge(*sides).next_steps)


def test_the_gain_on_the_target_domain_comes_first_against_what_was_expected() -> None:
    """A round made for noisy speech that gains on clean speech alone has not done what it was for."""
    before, after = rows({"whatsapp": 0.3, "clean": 0.3}), rows({"whatsapp": 0.3, "clean": 0.1})
    config = CONFIG.model_copy(
        update={"target_domain": "whatsapp", "target_points": 0.5, "expected_points": (0.5, 1.0)}
    )
    result = judge(before, after, config)
    target, block = result.target, result.domains["whatsapp"].wer
    assert result.verdict == "keep" and not target.reached and result.lead_with == "domains"
    assert target.gained_points == -block.delta_points
    assert target.interval_points == (-block.interval_points[1], -block.interval_points[0])
    assert target.sentence == (
        f"The target of 0.50 WER points on domain 'whatsapp' is not reached: {target.gained_points:.2f} gained, 95% "
        "interval {:.2f} to {:.2f}; the plan expects 0.5 to 1.".format(*target.interval_points)
    )
    assert result.sentence.startswith(f"{target.sentence} Round 2 is better")
    assert "no gain of WER points on domain 'whatsapp', and the target is 0.50" in result.next_steps[0]
    on_all = judge(before, after, CONFIG)
    assert on_all.target.reached and on_all.target.sentence.startswith("The target of 1.00 WER points is reached: ")


def test_a_target_domain_that_no_utterance_is_of_is_said() -> None:
    result = judge(rows({"clean": 0.3}), rows({"clean": 0.1}), CONFIG.model_copy(update={"target_domain": "whatsapp"}))
    assert result.sentence.startswith(
        "The target on domain 'whatsapp' cannot be judged: no utterance of these sets is of it. Round 2 is better"
    )
    assert result.target.gained_points is None and not result.target.reached


def test_worse_is_named_worse() -> None:
    result = judge(rows({"clean": 0.1}), rows({"clean": 0.3}, seed=1), CONFIG)
    assert result.verdict == "reject" and result.sentence.startswith("Round 2 is worse")
    assert not any("codec" in step for step in result.next_steps)  # no noisy domain in these sets


def test_a_small_but_certain_gain_is_kept_and_leads_with_domains() -> None:
    before = rows({"clean": 0.3}, num=300)
    after = [
        replace(row, words=EditCounts(row.words.hits + (i % 20 == 0), row.words.substitutions - (i % 20 == 0)))
        if row.words.substitutions
        else row
        for i, row in enumerate(before)
    ]
    result = judge(before, after, CONFIG)
    assert 0 < result.target.gained_points < 1
    assert (result.verdict, result.lead_with) == ("keep", "domains")


def test_same_input_same_bytes_in_any_order_of_round_2() -> None:
    before, after = rows({"clean": 0.2}), rows({"clean": 0.15}, seed=1)
    assert judge(before, after, CONFIG).to_json() == judge(before, after[::-1], CONFIG).to_json()


def test_one_recording_cannot_be_judged() -> None:
    before, after = rows({"clean": 0.5}, num=3), rows({"clean": 0.0}, num=3)
    result = judge(before, after, CONFIG)
    assert result.verdict == "reject" and "no interval over 1 recording: it takes 3" in result.sentence
    assert result.overall.wer.interval_points is None


def spoken_by(domain_rows: list[ScoredRow], recordings: int | None, speakers: int | None) -> list[ScoredRow]:
    """The same rows in so many recordings, of so many speakers; None: not known."""
    return [
        replace(
            row,
            recording=None if recordings is None else f"r{i % recordings}",
            speaker=None if speakers is None else f"s{i % speakers}",
        )
        for i, row in enumerate(domain_rows)
    ]


def test_many_clips_of_one_speaker_show_nothing_of_others() -> None:
    """46 clips of one person are one voice, however many files they are in."""
    for recordings in (None, 46):
        sides = [spoken_by(side, recordings, 1) for side in (rows({"c": 0.5}, num=46), rows({"c": 0.1}, num=46))]
        result = judge(*sides, CONFIG)
        wer = result.overall.wer
        assert (result.verdict, result.overall.groups) == ("reject", 1)
        assert (wer.shown, wer.interval_points, wer.p) == ("no difference shown", None, None)
        assert result.sentence.startswith("No difference shown: WER -")
        assert ", and no interval over 1 " in result.sentence and "it takes 3 at least" in result.sentence
        assert result.rule.endswith("without an interval: not kept")
    two = [spoken_by(side, None, 2) for side in (rows({"c": 0.5}, num=46), rows({"c": 0.1}, num=46))]
    assert judge(*two, CONFIG).verdict == "reject"


def test_recordings_of_one_speaker_are_one_group_in_all_sets() -> None:
    before, after = (spoken_by(rows({"a": rate, "b": rate}, seed=seed), 24, 8) for rate, seed in ((0.5, 0), (0.2, 1)))
    result = judge(before, after, CONFIG)
    assert result.overall.groups == result.sets["eval-a"].groups == 8
    words = "8 groups of recordings and speakers"
    assert words in result.sentence and words in result.method.interval and result.method.caveat is None
    assert result.verdict == "keep"


def test_where_nothing_is_known_the_sentence_says_so() -> None:
    before, after = (spoken_by(rows({"a": rate}, seed=seed), None, None) for rate, seed in ((0.5, 0), (0.2, 1)))
    result = judge(before, after, CONFIG)
    caveat = "ecordings and speakers unknown: utterances counted as independent, so the interval may be too narrow"
    assert result.verdict == "keep" and "over 60 utterances. R" + caveat + "." in result.sentence
    assert result.method.caveat == "r" + caveat
    systems = systems_of({"a": before, "b": after}).pairs[0]
    assert caveat in systems.sentence and "over 60 utterances" in systems.method.interval


def test_a_set_that_was_trained_on_is_not_kept_unless_the_recipe_says_so() -> None:
    sides = rows({"clean": 0.3, "new": 0.3}), rows({"clean": 0.1, "new": 0.1}, seed=1)
    overlaps = {"eval-clean": overlap_of(12, "eval-clean"), "eval-new": overlap_of(note="Two voices are known.")}
    result = judge(*sides, CONFIG, overlaps=overlaps)
    assert result.verdict == "reject" and result.overall.wer.shown == "better"
    assert overlaps["eval-clean"].sentence in result.sentence
    assert result.sentence.endswith("Not kept: Set 'eval-clean' shares audio with the training data.")
    assert "no set shares audio with the training data" in result.rule
    assert any("'eval-clean' cannot show" in step and "accept_overlap" in step for step in result.next_steps)
    assert result.overlaps == overlaps
    accepting = CompareConfig(bootstrap_samples=1000, loop_cost=0, accept_overlap=("eval-clean",))
    accepted = judge(*sides, accepting, overlaps=overlaps)
    assert accepted.verdict == "keep" and overlaps["eval-clean"].sentence in accepted.sentence
    assert "no set but eval-clean shares audio" in accepted.rule and accepted.next_steps == ()
    assert judge(*sides, CONFIG, overlaps={"eval-new": overlaps["eval-new"]}).verdict == "keep", "a note only"
    pair = systems_of({"a": sides[0], "b": sides[1]}, overlaps_by_label={"b": overlaps}).pairs[0]
    assert pair.sentence.endswith(f"b: {overlaps['eval-clean'].sentence}")


def test_another_language_that_was_trained_on_does_not_keep_the_round_back() -> None:
    own, other = (rows({"clean": 0.3}), rows({"clean": 0.1}, seed=1)), (rows({"en": 0.1}), rows({"en": 0.1}, seed=1))
    result = judge(*own, CONFIG, other_languages=other, overlaps={"eval-en": overlap_of(60, "eval-en")})
    assert result.verdict == "keep" and result.overlaps["eval-en"].utterances == 60


def test_what_does_not_pair_is_an_error() -> None:
    both = rows({"clean": 0.2}, num=10)
    with pytest.raises(
        DataError, match="4 of 10 utterances have no score in Round 2: eval-clean/u0, eval-clean/u1, eval-clean/u2, "
    ):
        judge(both, both[4:], CONFIG)
    with pytest.raises(DataError, match="1 of 10 utterances have no score in Round 1: eval-clean/u9;"):
        judge(both[:9], both, CONFIG)
    with pytest.raises(DataError, match="Round 2 scores utterance 'u0' of set 'eval-clean' twice"):
        judge(both, [*both, both[0]], CONFIG)
    with pytest.raises(DataError, match="another reference"):
        judge(both, [replace(both[0], words=EditCounts(9)), *both[1:]], CONFIG)
    with pytest.raises(DataError, match="nothing to compare"):
        judge([], [], CONFIG)


def spoken(domain: str, wrong: float, num: int = 60, seed: int = 0) -> list[ScoredRow]:
    """Rows with texts, so that segments have errors too."""
    rng = random.Random(seed)
    made = []
    for row in rows({domain: 0.0}, num):
        said = [f"w{i}" for i in range(10)]
        heard = [word if rng.random() > wrong else "x" for word in said]
        num_wrong = heard.count("x")
        counts = {"words": EditCounts(10 - num_wrong, num_wrong), "chars": EditCounts(20 - num_wrong, num_wrong)}
        made.append(replace(row, said=" ".join(said), heard=" ".join(heard), **counts))
    return made


def test_every_test_agrees_on_what_is_clear_and_on_what_is_not() -> None:
    clear = judge(spoken("clean", 0.3), spoken("clean", 0.1, seed=1), CONFIG).overall.wer
    assert clear.shown == "better" and clear.p < 0.01
    assert clear.mapsswe.z < -4 and clear.mapsswe.p < 0.001 and clear.mapsswe.segments > 60
    assert 0 < clear.detectable_points < 20
    unclear = judge(spoken("clean", 0.2), spoken("clean", 0.2, seed=2), CONFIG)
    wer = unclear.overall.wer
    assert wer.shown == "no difference shown" and wer.p > 0.05 < wer.mapsswe.p
    assert "a difference of" in unclear.sentence


def test_p_values_of_sets_are_adjusted_for_their_number() -> None:
    before = [row for i in range(4) for row in rows({f"d{i}": 0.3}, seed=i)]
    after = [row for i in range(4) for row in rows({f"d{i}": 0.25}, seed=10 + i)]
    blocks = judge(before, after, CONFIG).sets.values()
    raw, adjusted = ([getattr(block.wer, name) for block in blocks] for name in ("p", "holm_p"))
    assert min(adjusted) == pytest.approx(min(1, 4 * min(raw)))
    assert all(one <= other for one, other in zip(raw, adjusted))


def test_the_recipes_rule_decides() -> None:
    before, after = rows({"clean": 0.3}), rows({"clean": 0.3}, seed=1)
    high = judge(before, after, CONFIG).overall.wer.interval_points[1]
    assert high > 0
    lenient = judge(before, after, CompareConfig(bootstrap_samples=1000, loop_cost=0, keep_below_points=high + 3))
    assert lenient.verdict == "keep" and f"ends below {high + 3:g} points" in lenient.rule
    gain = judge(rows({"clean": 0.3}), rows({"clean": 0.2}, seed=1), CompareConfig(keep_below_points=-20))
    assert gain.verdict == "reject" and gain.sentence.startswith("Round 2 is better")
    assert "Not kept all the same: keep when" in gain.sentence and "Kept all the same" in lenient.sentence


def test_forgetting_is_said_stays_out_of_the_rest_and_rejects_where_the_recipe_says_so() -> None:
    before, after = rows({"clean": 0.3}), rows({"clean": 0.1}, seed=1)
    other = rows({"english": 0.1}), rows({"english": 0.3}, seed=1)
    known = {"other_languages": other, "languages": {"eval-english": get_language("English")}}
    result = judge(before, after, CONFIG, **known)
    assert result.verdict == "keep" and list(result.forgetting) == ["eval-english"]
    assert "eval-english" not in result.sets and result.overall.utterances == 60
    assert any(step.startswith("Forgetting: set 'eval-english'") for step in result.next_steps)
    assert result.sentence.startswith("Set 'eval-english', in another language, goes from ")
    strict = CompareConfig(bootstrap_samples=1000, loop_cost=0, limits={"en": 1.0})
    refused = judge(before, after, strict, **known)
    assert refused.verdict == "reject" and refused.sentence.startswith("Round 2 is better")
    assert "That is more than the 1 points that English may lose." in refused.sentence
    assert "each set is shown to lose less WER points than 1 in English" in refused.rule
    assert refused.forgetting["eval-english"].limit_points == 1.0
    gained = judge(before, after, strict, **known | {"other_languages": (other[1], other[0])})
    assert gained.verdict == "keep" and gained.sentence.startswith("Round 2 is better")


def test_a_limit_holds_only_where_the_interval_of_the_loss_ends_below_it() -> None:
    """Once a set was refused only where it was shown to lose more: a small set could show nothing, and was kept."""
    before, after = rows({"clean": 0.3}), rows({"clean": 0.1}, seed=1)
    other = rows({"english": 0.2}), rows({"english": 0.2}, seed=1)
    known = {"other_languages": other, "languages": {"eval-english": get_language("English")}}

    def judged(limit: float) -> Comparison:
        limits = {"English": limit}
        return judge(before, after, CompareConfig(bootstrap_samples=1000, loop_cost=0, limits=limits), **known)

    low, high = judged(100.0).forgetting["eval-english"].wer.interval_points
    assert low < 0.5 < high
    assert [refusal.limit for refusal in judged(high).refusals] == ["forgetting"], "the end itself is not below"
    assert "is not shown to lose less than the 0.5 points that English may lose" in judged(0.5).sentence
    assert judged(high + 0.01).is_kept


def test_a_set_of_one_speaker_holds_no_limit_and_without_one_a_loss_opens_the_verdict() -> None:
    """A model once went from 30.7% to 350% on a Hebrew set of one speaker, and the verdict was a plain keep."""
    before, after = rows({"clean": 0.3}), rows({"clean": 0.1}, seed=1)
    other = [[replace(row, recording="r", speaker="s") for row in rows({"he": rate})] for rate in (0.2, 0.9)]
    known = {"other_languages": tuple(other), "languages": {"eval-he": get_language("Hebrew")}}
    free = judge(before, after, CONFIG, **known)
    assert free.is_kept and free.forgetting["eval-he"].wer.interval_points is None
    first = free.sentence.partition(" The recipe sets no limit to that loss")[0]
    assert first.startswith("Set 'eval-he', in another language, goes from 2") and first.endswith("for an interval.")
    limited = CompareConfig(bootstrap_samples=1000, loop_cost=0, limits={"Hebrew": 1000.0})
    (refusal,) = judge(before, after, limited, **known).refusals
    assert "too few to show that Hebrew loses less than 1000 points: take a set of 3 recordings" in refusal.sentence
    lost = judge(before, after, CompareConfig(bootstrap_samples=1000, loop_cost=0, limits={"English": 1.0}), **known)
    assert lost.refusals[0].sentence == "No set in English was scored, so its limit cannot be tested."


def test_every_limit_that_does_not_hold_is_named_and_without_a_gain_that_alone() -> None:
    before, after = rows({"clean": 0.3, "new": 0.3}), rows({"clean": 0.1, "new": 0.1}, seed=1)
    other = rows({"english": 0.1}), rows({"english": 0.3}, seed=1)
    strict = CompareConfig(bootstrap_samples=1000, loop_cost=50, limits={"English": 1.0})
    more = {
        "other_languages": other, "overlaps": {"eval-new": overlap_of(3, "eval-new")},
        "languages": {"eval-english": get_language("English")},
    }  # fmt: skip
    result = judge(before, after, strict, **more)
    assert [refusal.limit for refusal in result.refusals] == ["unseen_loops", "forgetting", "overlap"]
    assert all(refusal.sentence in result.sentence for refusal in result.refusals) and not result.is_kept
    (only,) = judge(after, before, strict, **more).refusals
    assert only.limit == "gain" and "not below 0 points" in only.sentence


def test_the_titles_are_those_of_the_two_that_are_compared(tmp_path) -> None:
    """A third round's verdict once spoke of Round 2 where it meant its own result."""
    names = named("Round 2"), named("Round 3", parent="round2")
    sides = rows({"clean": 0.3}), rows({"clean": 0.1}, seed=1)
    result = compare(sides, names, CONFIG, overlaps={"eval-clean": overlap_of(12, "eval-clean")})
    assert result.sentence.startswith("Round 3 is better than Round 2: WER -")
    assert "Round 3 does not loop or fail more often" in result.rule
    assert any("what Round 3 does with speech it has not seen" in step for step in result.next_steps)
    assert "Round 1" not in json.dumps(result.to_json())
    result.write(tmp_path / "compare.json")
    assert Comparison.read(tmp_path / "compare.json") == result
    assert (result.baseline.label, result.candidate.label, result.candidate.parent) == ("round2", "round3", "round2")
    with pytest.raises(DataError, match="utterances have no score in Round 3"):
        compare((sides[0], sides[1][:9]), names, CONFIG)


def test_slices_of_what_is_not_known_are_left_out() -> None:
    before, after = rows({"clean": 0.3}), rows({"clean": 0.1}, seed=1)
    result = judge(before, after, CONFIG)
    assert result.speakers == result.noise == {} and list(result.lengths) == ["10 to 20 words"]
    known = [[replace(row, speaker=row.recording[-1], snr_db=8.0) for row in side] for side in (before, after)]
    result = judge(*known, CONFIG)
    assert list(result.noise) == ["5 to 10 dB"] and len(result.speakers) == 10


def test_systems_are_compared_each_with_each_under_their_own_names() -> None:
    systems = {"a": spoken("clean", 0.3), "b": spoken("clean", 0.1, seed=1), "c": spoken("clean", 0.1, seed=2)}
    result = systems_of(systems)
    assert [(pair.baseline.label, pair.candidate.label) for pair in result.pairs] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    first, _, last = result.pairs
    assert first.overall.wer.baseline == result.systems["a"].wer
    assert first.sentence.startswith("b is better than a: WER -")
    assert last.sentence.startswith("No difference shown")
    p_values = sorted(pair.overall.wer.p for pair in result.pairs)
    assert sorted(pair.holm_p for pair in result.pairs)[0] == pytest.approx(3 * p_values[0])
    assert last.beside[0].startswith("0 loops in 60 utterances are compatible")
    assert len(first.beside) == 2 and "largest contribution of the 20 groups" in first.beside[1]
    assert len(last.beside) == 1, "where nothing is shown no group can decide it"
    json.dumps(result.to_json(), allow_nan=False)
    with pytest.raises(DataError, match="2 of 60 utterances have no score in b"):
        systems_of({"a": systems["a"], "b": systems["b"][2:]})
    with pytest.raises(DataError, match="two systems, not 1"):
        systems_of({"a": systems["a"]})


def test_what_was_only_written_otherwise_is_told_apart_from_what_was_heard_better() -> None:
    """A training that teaches the references' way of writing gains much, and nothing in the nearest reading."""
    english = get_language("English")

    def heard(texts: list[tuple[str, str]], name: str) -> list[ScoredRow]:
        made = []
        for i, (said, text) in enumerate(texts):
            utterance = Utterance(
                id=f"u{i}", audio=AudioRef(path=""), text=said, duration_s=2.0, source="s", recording=f"{name}-{i}"
            )
            made.append(score_row(utterance, text, set=name, normaliser=english.to_scoring))
        return made

    said = ["TWO SIX EIGHT", "J O H N", "ENTER FIFTY FOUR"] * 4
    written = ["268.", "JOHN", "enter 54"] * 4
    before, after = (heard(list(zip(said, texts, strict=True)), "eval") for texts in (written, said))
    other = tuple(heard([("call me", text)] * 4, "other") for text in ("call me", "call you"))
    result = judge(before, after, other_languages=other, languages={"eval": english, "other": english})
    assert result.overall.wer.delta_points < -80 and result.nearest.overall.wer.delta_points == 0
    assert result.nearest.sets["eval"].wer.baseline.errors == 0 and result.nearest.sets["other"].wer.delta_points == 50
    told = [line for line in result.beside if "spelled words as their letters" in line]
    assert told == list(result.nearest.sentences) and len(told) == 2
    assert "Set 'other', in another language, goes from 0.0% to 50.0%: +50.00, " in told[1]
    assert judge(before, after, other_languages=other).nearest is None, "no language is known"
    assert judge(other[0], other[1], languages={"other": english}).nearest is None, "nothing is read otherwise"
