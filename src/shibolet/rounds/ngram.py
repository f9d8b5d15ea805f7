"""An n-gram language model of a round's training transcripts, or of a text file, over the tokens of its model."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from shibolet.errors import DataError
from shibolet.records.documents.ngram import HeldTexts, NgramMade
from shibolet.records.files import hash_file, hash_json
from shibolet.records.utterance import Utterance
from shibolet.rounds.shared import Round
from shibolet.speech.text import Language, get_language
from shibolet.speech.textfiles import BadRow, explained, read_lines

STAGE, MADE, ORDER = "ngram", "ngram.json", 4
LONG_WORDS = 6  # a text of as many words, or a passage of a text, is no coincidence
MAX_NEW_FRAC = 0.5  # of a test text's passages that the source has and the training transcripts lack
TRANSCRIPTS = "the training transcripts"
BREAK = "\n"  # stands between texts that are not read on from one to the next

Line = tuple[str, str]  # its place, for a person, and its text


def do_ngram(current: Round, text: Path | None = None, order: int = ORDER) -> NgramMade:
    """Make `ngram/ngram.arpa` of a text file with a sentence a line, else of the training transcripts.

    DataError where the file holds a text of six words or more of an evaluation set or of dev, or over half of one, that
    the training transcripts do not hold: what beams gained by it there they would gain nowhere else.
    """
    from shibolet.model.folders import read_config
    from shibolet.model.outline import outline_of
    from shibolet.model.protocols import Prompt

    recipe, folder = current.recipe, current.folder
    path, config = read_config(recipe.models.base)
    outline = outline_of(config)
    if (tokenizer := outline.tokenizer_in(path)) is None:
        raise DataError(f"{path} has no tokenizer, so there are no tokens to count")
    pieces, language = tokenizer.get_vocab(), get_language(recipe.language)
    if text is not None and not text.is_file():
        raise DataError(f"--text {text}: there is no such file")
    inputs = {
        "format": NgramMade.FORMAT,
        "prepared": folder.verified("prepare"),
        "pieces": hash_json(pieces),
        "text": text and hash_file(text),
        "language": [language.name, language.target_version, language.scoring_version],
        "order": order,
        "sets": {source.name: current.read(source).digest for source in current.sets},
    }
    stage = current.begin(STAGE, inputs, reads=("prepare",))
    out_dir = folder.ngram.parent
    if not stage.done:
        from shibolet.model.ngram.arpa import write_arpa
        from shibolet.model.ngram.estimate import estimate

        train, tests = _transcripts(current), _tests(current)
        lines = train if text is None else _lines(text)
        held = check(lines, train, tests, language, reads_on=text is not None)
        targets = outline.targets(tokenizer, Prompt(language.name))
        encoded = targets.encode([language.to_target(line) for _, line in lines])
        ngram, discounts = estimate(encoded, order, max(pieces.values()) + 1, targets.frame.end_id)
        write_arpa(ngram, pieces, folder.ngram)
        NgramMade(
            file=folder.ngram.name, model=recipe.models.base, source=TRANSCRIPTS if text is None else text.name,
            order=order, texts=sum(map(bool, encoded)), tokens=sum(len(ids) + 1 for ids in encoded if ids),
            ngrams=[len(one.token) for one in ngram.orders], discounts=discounts, held=held, sentences=_sentences(held),
        ).write(out_dir / MADE)  # fmt: skip
        current.finish(stage)
    return NgramMade.read(out_dir / MADE)


def check(
    lines: Sequence[Line], train: Sequence[Line], tests: Mapping[str, str], language: Language, *, reads_on: bool
) -> HeldTexts:
    """What of `tests`, texts by what they are, stands in `lines`; DataError for much of a long one that `train` lacks.

    Words are compared as they are scored. A long text, of `LONG_WORDS` or more, is found whole, or by its passages: all
    runs of `LONG_WORDS` in it. With `reads_on` both may go over several lines.
    """
    words_of = {name: tuple(language.to_scoring(text).split()) for name, text in tests.items()}
    long = {name: words for name, words in words_of.items() if len(words) >= LONG_WORDS}
    short = {words for words in words_of.values() if 0 < len(words) < LONG_WORDS}
    scored = [(place, language.to_scoring(text).split()) for place, text in lines]
    found = _places(scored, {part for words in long.values() for part in (words, *_passages(words))}, reads_on)
    known = found.keys()
    if reads_on and found:
        known = _places([(place, language.to_scoring(text).split()) for place, text in train], set(found), False).keys()
    passages = new_passages = 0
    most_frac = 0.0
    for name, words in long.items():
        own = _passages(words)
        new = [passage for passage in own if passage in found and passage not in known]
        if words in found and words not in known:
            raise _leak(found[words], "the text", name, words)
        if (frac := len(new) / len(own)) > MAX_NEW_FRAC:
            raise _leak(found[new[0]], f"{100 * frac:.0f}% of the text", name, new[0])
        passages, new_passages, most_frac = passages + len(own), new_passages + len(new), max(most_frac, frac)
    said = {tuple(words) for _, words in scored}
    return HeldTexts(
        of=len(words_of),
        long=sum(words in found for words in long.values()),
        short=sum(words in short and words in said for words in words_of.values()),
        passages=passages,
        new_passages=new_passages,
        most_new_pct=100 * most_frac,
    )


def _passages(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [words[at : at + LONG_WORDS] for at in range(len(words) - LONG_WORDS + 1)]


def _leak(place: str, what: str, name: str, words: Sequence[str]) -> DataError:
    return DataError(
        f'{place} holds {what} of {name}, which the training transcripts do not: "{" ".join(words)}". What an n-gram '
        "gained by it would be no gain; take the test sets' texts out of the file"
    )


def _places(
    lines: Iterable[tuple[str, Sequence[str]]], texts: set[tuple[str, ...]], reads_on: bool
) -> dict[tuple[str, ...], str]:
    """The texts that stand in lines, each with the place where it begins first."""
    by_start: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for text in texts:
        by_start[text[:LONG_WORDS]].append(text)
    words: list[str] = []
    places: list[str] = []
    for place, own in lines:
        own = own if reads_on else [*own, BREAK]
        words += own
        places += [place] * len(own)
    found: dict[tuple[str, ...], str] = {}
    for at in range(len(words) - LONG_WORDS + 1):
        for text in by_start.get(tuple(words[at : at + LONG_WORDS]), ()):
            if text not in found and tuple(words[at : at + len(text)]) == text:
                found[text] = places[at]
    return found


def _transcripts(current: Round) -> list[Line]:
    """What prepare kept to train on."""
    return [(f"utterance '{u.id}'", u.text) for u in _split(current, "train")]


def _tests(current: Round) -> dict[str, str]:
    """Texts that beams are tuned or scored on, by what they are."""
    found = {f"utterance '{u.id}' of the dev split": u.text for u in _split(current, "dev")}
    for source in current.sets:
        data = current.read(source)
        for row in (*data.utterances, *data.ledger):
            if row.text:
                found[f"utterance '{row.id}' of set '{source.name}'"] = row.text
    return found


def _split(current: Round, split: str) -> list[Utterance]:
    return [u for u in current.prepared.utterances if Path(u.audio.path).name.startswith(f"{split}-")]


def _lines(path: Path) -> list[Line]:
    found = []
    with explained(f"--text {path}"):
        for number, line in read_lines(path):
            if isinstance(line, BadRow):
                raise DataError(f"--text {path}, line {number}: {line.detail}")
            found.append((f"{path.name}, line {number},", line.strip()))
    return found


def _sentences(held: HeldTexts) -> list[str]:
    found = [f"None of {held.of:,} texts of evaluation sets and dev stands in the n-gram's texts."]
    if held.long or held.short:
        found = [
            f"Of {held.of:,} texts of evaluation sets and dev, the n-gram's texts hold {held.long:,} of {LONG_WORDS} "
            f"words or more, all of which the training transcripts hold too, and {held.short:,} shorter ones as a "
            "line: on these it gains more than on other speech."
        ]
    if held.new_passages:
        share = f"{held.new_passages:,} ({100 * held.new_passages / held.passages:.2g}%)"
        found.append(
            f"Of {held.passages:,} passages of {LONG_WORDS} words in these texts, the n-gram's texts hold {share} that "
            f"the training transcripts lack, of one text at most "
            f"{held.most_new_pct:.0f}%. Over {100 * MAX_NEW_FRAC:.0f}% of one text are refused."
        )
    return found
