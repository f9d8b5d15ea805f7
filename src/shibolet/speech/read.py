"""Reading a source: its rows become utterances, or ledger lines that say why not."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from shibolet.errors import DataError
from shibolet.records.batches import ForEach, in_threads
from shibolet.records.ledger import LedgerLine
from shibolet.records.spilled import SpilledList
from shibolet.records.utterance import Utterance
from shibolet.speech import readers
from shibolet.speech.manifests import open_manifest
from shibolet.speech.rows import RowSink
from shibolet.speech.sources import DataSource, Progress
from shibolet.speech.text import get_language

# Of words; of Hebrew Wikipedia's 99% are, 64% in the worst of 741 sentences, of romanised none.
MIN_IN_SCRIPT_FRAC = 0.1
SCRIPT_SAMPLE = 5000  # utterances looked at


def read_source(
    source: DataSource,
    cache_dir: Path,
    on_progress: Progress | None = None,
    language: str | None = None,
    for_each: ForEach = in_threads,
    domain_of: Callable[[Utterance], str] | None = None,
) -> tuple[SpilledList[Utterance], SpilledList[LedgerLine]]:
    """Every usable utterance of a source, headers probed but nothing decoded, and a line for each row that is not.

    `cache_dir` holds what is read from streams. Rows that say they are in another language than `language`, or than the
    source's where that is None, leave. `for_each` reads the headers of a manifest's files; `domain_of` is asked for the
    domain of an utterance that has none. DataError when the source cannot be read, ids repeat, or nothing is usable.
    """
    sink = RowSink(source, language, domain_of)
    if source.manifest is not None:
        place = str(source.manifest)
        readers.read_manifest_rows(open_manifest(source), sink, on_progress, for_each)
    elif source.parquet is not None:
        place = str(source.parquet)
        readers.read_table_rows(*readers.glob_tables(source), sink, on_progress)
    else:
        from shibolet.speech.hub import hub_tables  # with `datasets`, which takes a second

        place = source.hub
        readers.read_table_rows(*hub_tables(source, cache_dir), sink, on_progress)
    sink.require_own_ids()
    if not sink.utterances:
        raise DataError(
            f"source '{source.name}' ({place}): none of {sink.num_rows:,} rows can be used. {sink.first_reasons()}"
            if sink.num_rows
            else f"source '{source.name}' ({place}) has no rows"
        )
    sink.require_timestamps()
    return sink.utterances, sink.ledger


def require_script(utterances: Sequence[Utterance], language: str, source: str) -> None:
    """DataError when hardly a word of a source is in the language's letters: nothing that listens could judge it."""
    rules = get_language(language)
    looked_at = utterances[:: -(-len(utterances) // SCRIPT_SAMPLE)]
    words = [rules.to_words(utterance.text) for utterance in looked_at]
    # Digits can be read in any language, so they say nothing here.
    in_letters = [
        ok for text in words for token, ok in zip(text.tokens, text.verifiable) if any(map(str.isalpha, token))
    ]
    num_words, in_script = len(in_letters), sum(in_letters)
    if in_script <= MIN_IN_SCRIPT_FRAC * num_words:
        raise DataError(
            f"source '{source}': {in_script:,} of {num_words:,} words are in {rules.name} letters, under "
            f"{MIN_IN_SCRIPT_FRAC:.0%} ('{looked_at[0].text[:40]}', ...): is `language: {language}` right, are the "
            "texts romanised, does `columns` name another one?"
        )


def all_capitals(utterances: Sequence[Utterance], source: str) -> str | None:
    """Advice, in a sentence, for a source without a small letter whose letters are capitals, or most of them.

    Hebrew has neither; an acronym in it says nothing of its writing.
    """
    seen: set[str] = set()
    for utterance in utterances:
        new = set(utterance.text) - seen
        if any(map(str.islower, new)):
            return None
        seen |= new
    if not any(map(str.isupper, seen)):
        return None
    letters = Counter(chain.from_iterable(u.text for u in utterances))
    if 2 * sum(letters[one] for one in seen if one.isupper()) <= sum(letters[one] for one in seen if one.isalpha()):
        return None
    first = next(u.text for u in utterances if any(map(str.isupper, u.text)))
    return (
        f"{source}: every text is in capital letters ('{first[:40]}'), which a model that has read ordinary writing "
        "spells worse; letter_case: lower in this source trains it on small ones"
    )
