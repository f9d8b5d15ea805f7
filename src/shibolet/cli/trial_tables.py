"""Tables of what was tried with models that are there: ways to decode, averages, votes, an n-gram, rates."""

from shibolet.cli.terminal import OUT, facts, pct, table
from shibolet.records.documents.average import Average
from shibolet.records.documents.combined import Combined
from shibolet.records.documents.decoding import DecodingTable, Setting
from shibolet.records.documents.ngram import NgramMade
from shibolet.records.documents.search import SearchTable
from shibolet.report.searched import in_order


def show_decoding(tuned: DecodingTable) -> None:
    """WER and cost of each setting, and which to take."""
    interval = lambda low, high: "-" if low is None else f"{low:+.2f} to {high:+.2f}"  # noqa: E731
    rows = [
        (
            _brief(one), f"{one.wer_pct:.2f}%", f"{one.cer_pct:.2f}%",
            f"{one.points:+.2f}", interval(*one.interval_points), f"{one.audio_s_per_s:g}", f"{one.times_greedy:.1f}",
        )
        for one in tuned.settings
    ]  # fmt: skip
    level = f" {tuned.level_pct:.3g}%"
    header = ["", " WER", " CER", " points", level, " audio s/s", " times greedy"]
    table("Decoding, on dev", header, rows)
    if tuned.joined:
        rows = [
            (_brief(one), f"{one.wer_pct:.2f}%", "-" if one.added_points is None else f"{one.added_points:+.2f}",
             interval(*one.added_interval), f"{one.times_greedy:.1f}")
            for one in tuned.joined
        ]  # fmt: skip
        header = ["", " WER", " points added", " 95%", " times greedy"]
        table("Added to the one that is admitted, on the half of dev that did not choose", header, rows)
    OUT.print(tuned.sentence, markup=False)
    chosen = tuned.recommended
    lines = [f"{key}: {value:g}" for key, value in chosen.recipe_keys.items()]
    if chosen.ngram_weight:
        lines.append(f"ngram: {{file: {tuned.ngram}, weight: {chosen.ngram_weight:g}}}")
    OUT.print(f"In the recipe: evaluate: {{{', '.join(lines)}}}", markup=False)


def _brief(one: Setting) -> str:
    """A way to decode, in a column's width."""
    if one.mbr_samples is not None:
        bias = f", bias {one.repeat_bias:g}" if one.repeat_bias else ""
        return f"MBR {one.mbr_samples} at {one.mbr_temperature:g}{bias}"
    if one.beam_size > 1:
        ngram = f", n-gram {one.ngram_weight:g}" if one.ngram_weight else ""
        return f"beams {one.beam_size}, {one.length_penalty:g}{ngram}"
    return f"bias {one.repeat_bias:g}" if one.repeat_bias else "greedy"


def show_combined(combined: Combined) -> None:
    """What the vote changed, and what to do with the file."""
    rows = [
        (name, f"{one.utterances:,}", f"{one.changed:,}", pct(one.unanimous / one.slots) if one.slots else "-",
         f"{one.of_fewer:,}", f"{one.left_out:,}")
        for name, one in combined.sets.items()
    ]  # fmt: skip
    header = ["set", " utterances", " changed", " unanimous", " of fewer", " left out"]
    first = combined.systems[0]
    table(f"Vote of {', '.join(combined.systems)}", header, rows)
    OUT.print(
        f"Changed: other words than {first}, which wins at a tie, has. Unanimous: slots where all have the same word. "
        f"Of fewer: not all systems have a hypothesis. The file is {combined.out}.",
        markup=False,
    )
    OUT.print(
        f"shibolet evaluate RECIPE --hypotheses combined={combined.out} scores it; shibolet compare RECIPE --system "
        f"{first} --system combined says whether it is better.",
        markup=False,
    )


def show_ngram(made: NgramMade) -> None:
    """What an n-gram was made from, and what of the tests is in it."""
    counts = ", ".join(f"{num:,}" for num in made.ngrams)
    facts(
        [
            ("texts", f"{made.texts:,} ({made.source}), {made.tokens:,} tokens of {made.model}"),
            ("n-grams", f"{counts}, by order 1 to {len(made.ngrams)}"),
            *(("tests", sentence) for sentence in made.sentences),
        ]
    )


def show_average(made: Average) -> None:
    """What each average came to on dev and on the sets that were named."""
    for set_name in dict.fromkeys(["dev", *(name for one in made.tried for name in one.sets)]):
        rows = []
        for one in made.tried:
            score = one.dev if set_name == "dev" else one.sets[set_name]
            low, high = score.interval_points
            rows.append((
                one.name, f"{score.wer_pct:.2f}%", f"{score.cer_pct:.2f}%", f"{score.points:+.2f}",
                "-" if low is None else f"{low:+.2f} to {high:+.2f}",
                "chosen" if one.name == made.chosen else "beyond its limit" if set_name in one.beyond else "",
            ))  # fmt: skip
        level = f" {made.level_pct:.3g}%"
        table(f"Averages, on {set_name}", ["", " WER", " CER", " points", level, ""], rows)
    facts([(f"{number}", part.title) for number, part in enumerate(made.parts, start=1)])
    for sentence in (made.sentence, *made.notes):
        OUT.print(sentence, markup=False)


def show_search(searched: SearchTable) -> None:
    """Trials from the lowest loss on, what was confirmed, what it took."""
    rows = [
        (
            one.number or "own", *(f"{one.factors[name]:g}" for name in searched.dimensions),
            *("" if rung >= len(one.losses) else loss_of(one.losses[rung]) for rung in range(len(searched.rungs))),
        )
        for one in in_order(searched)
    ]  # fmt: skip
    header = [" trial", *(f" {name}" for name in searched.dimensions), *(f" {rung.steps}" for rung in searched.rungs)]
    of = f"by steps of {searched.phase_steps:,}"
    table(f"Factors of the rates of phase {searched.phase}, and the loss a label on dev {of}", header, rows)
    OUT.print(searched.sentence, markup=False)
    cost, found = searched.cost, searched.confirmation
    if found and found.points is not None:
        both = f"{found.own_wer_pct:.2f}% with the recipe's own rates, {found.found_wer_pct:.2f}% with those found"
        facts([("WER", f"{both}; {searched.confirming_utterances:,} utterances, {found.counted}, {searched.reached}")])
    each = f", each {cost.times_own:.2f} times as long as the recipe's own" if cost.times_own != 1 else ""
    trained = f"{cost.beginning_steps:,} steps that all share, {cost.trial_steps:,} of trials{each}"
    said = f"{trained}, {cost.loss_steps:.0f} for"
    confirming = "losses; the confirmation comes on top" if found else "losses"
    facts([("cost", f"{cost.trainings:.2f} trainings of {cost.training_steps:,} steps: {said} {confirming}")])


def loss_of(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4f}"
