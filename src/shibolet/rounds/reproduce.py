"""Whether an exported model repeats hypotheses of the evaluation by the code that its card prints.

The code runs as printed, in a process that never imports shibolet: the library opens the files and writes the texts. It
decodes one recording at a time and rounds differently from the batches of an evaluation, so a few words may differ. A
fault of the export shows in most texts. So does an evaluate.max_new_tokens_per_s that cuts texts off: the card's code
has no such limit.
"""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import soundfile as sf

from shibolet.errors import DataError, ModelError
from shibolet.listen.loops import is_loop
from shibolet.model.family import convert, family_named
from shibolet.publish.config import PublishConfig
from shibolet.records.documents.published import Differing, Reproduced
from shibolet.records.documents.scores import Scores
from shibolet.records.hypotheses import HypothesisLine, read_hypothesis_lines
from shibolet.records.utterance import Utterance
from shibolet.rounds.scorers import language_of
from shibolet.rounds.shared import Round
from shibolet.scoring.counts import EditCounts, count_words
from shibolet.speech import audio
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.text import get_language

Pair = tuple[tuple[Utterance, str], str]  # an utterance with what the evaluation heard, and what the export wrote
NUM_HYPOTHESES = 20  # at least, over all sets in the recipe's language
MIN_SAME_FRAC = 0.5  # of hypotheses, word for word: a fault that is in every text leaves none
MAX_DIFFERENT_FRAC = 0.05  # of words
MAX_LOOPS_FRAC = 0.1  # of hypotheses that `evaluate.loop_bias` may have written again, and a card's code does not
FILES = '["speech.wav"]'  # what the card's code transcribes
_RUN = """
import json, sys

texts = []
with open("code.txt", encoding="utf-8") as file:
    exec(compile(file.read(), "code.txt", "exec"), {"__name__": "__main__", "print": texts.append})
with open("texts.json", "w", encoding="utf-8") as file:
    json.dump(texts, file)
"""


def reproduce(current: Round, model: Path, label: str, config: PublishConfig) -> Reproduced:
    """What the code repeated of the evaluation of `label`; ModelError when its texts are those of another model.

    Code of the export's own layout runs where its library is in our environment, which is so for the family's first and
    for `exports`. An export in another layout is converted back to the first, bit for bit.
    """
    family, decoding = family_named(str(current.folder.final)), current.recipe.evaluate
    layout = config.layout if config.layout in family.exports else family.layouts[0]
    usage = family.usage(
        config.to, layout, model=model, language=current.recipe.language, beam_size=decoding.beam_size,
        length_penalty=decoding.length_penalty,
    )  # fmt: skip
    expected = _expected(current, label)
    with TemporaryDirectory(dir=model.parent) as scratch:
        place = Path(scratch) / config.to  # a folder of this name in the working directory goes before the Hub
        place.parent.mkdir()
        if config.layout == layout:
            place.symlink_to(model.absolute(), target_is_directory=True)
        else:
            convert(str(model), place, layout)
        for number, (utterance, _) in enumerate(expected):
            sf.write(Path(scratch) / f"{number}.wav", audio.load(utterance.audio), SAMPLE_RATE_HZ, subtype="FLOAT")
        files = [f"{number}.wav" for number in range(len(expected))]
        # A library that is not torch may want another CUDA than this machine's.
        only_cpu = {"on_cpu": True} if layout in family.exports else {}
        heard = run_code(code_of(usage), Path(scratch), files, **only_cpu)
    pairs = list(zip(expected, heard, strict=True))
    return _compare(model, *(_without_loops(pairs) if decoding.loop_bias else (pairs, ())))


def code_of(usage: str) -> str:
    """The block of Python in a card's usage."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", usage, re.DOTALL | re.MULTILINE)
    return code


def run_code(code: str, place: Path, files: Sequence[str], *, on_cpu: bool = False) -> list[str]:
    """What a card's code prints for audio files, run in the folder `place` by a process of its own without a network.

    ModelError when it fails.
    """
    (place / "code.txt").write_text(code.replace(FILES, json.dumps(list(files))), encoding="utf-8")
    settings = {"HF_HUB_OFFLINE": "1"} | ({"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})
    done = subprocess.run(
        [sys.executable, "-c", _RUN], cwd=place, env=os.environ | settings, capture_output=True, text=True
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ModelError(f"the code of the model card fails on the export: {lines[-1] if lines else 'no message'}")
    return json.loads((place / "texts.json").read_text(encoding="utf-8"))


def _expected(current: Round, label: str) -> list[tuple[Utterance, str]]:
    """Utterances of the sets in the recipe's language with what the evaluation heard: the code asks for no other."""
    own, chosen = get_language(current.recipe.language), []
    sets = [source for source in current.sets if get_language(language_of(current, source)) is own]
    if not sets:
        raise DataError(
            f"not published: no set of evaluate.sets is in {own.name}, so the code of the model card has nothing to "
            "repeat; name one"
        )
    for source in sets:
        lines = read_hypothesis_lines(current.folder.hypotheses(label, source.name))
        said = {line.id: line for line in lines}
        utterances = current.read(source).utterances
        if missing := [utterance.id for utterance in utterances if utterance.id not in said]:
            raise ModelError(
                f"set '{source.name}' has changed since it was scored: '{missing[0]}' has no hypothesis there; run "
                "'shibolet compare' again"
            )
        undecoded = {failure.id for failure in Scores.read(current.folder.scores(label, source.name)).failures}
        longest_s = current.recipe.evaluate.max_piece_s  # longer ones were heard in pieces
        usable = [line for line in lines if line.id not in undecoded and line.duration_s <= longest_s]
        wanted = {line.id for line in spread(usable, math.ceil(NUM_HYPOTHESES / len(sets)))}
        chosen += [(one, said[one.id].hypothesis) for one in utterances if one.id in wanted]
    if not chosen:
        raise DataError(
            f"not published: every recording of evaluate.sets in {own.name} is undecodable or over "
            "evaluate.max_piece_s, so the code of the model card has nothing to repeat; name a set with shorter ones"
        )
    return chosen


def spread(lines: Sequence[HypothesisLine], num_wanted: int) -> list[HypothesisLine]:
    """`num_wanted` of the utterances (or all), evenly from the shortest to the longest."""
    by_length = sorted(lines, key=lambda one: (one.duration_s, one.id))
    num = min(num_wanted, len(by_length))
    return [by_length[i * (len(by_length) - 1) // max(1, num - 1)] for i in range(num)]


def _without_loops(pairs: list[Pair]) -> tuple[list[Pair], tuple[str, ...]]:
    """Those in whose audio the export does not loop, and ids of the others; all, where it loops in too many."""
    looped = tuple(one.id for (one, _), after in pairs if is_loop(after, one.duration_s))
    if len(looped) > MAX_LOOPS_FRAC * len(pairs):
        return pairs, ()
    return [pair for pair in pairs if not is_loop(pair[1], pair[0][0].duration_s)], looped


def _compare(model: Path, pairs: Sequence[Pair], looped: tuple[str, ...]) -> Reproduced:
    counts, differing = EditCounts(), []
    for (utterance, before), after in pairs:
        counts += count_words(before, after)
        if before != after:
            differing.append(Differing(id=utterance.id, evaluation=before, export=after))
    done = Reproduced(
        ids=tuple(utterance.id for (utterance, _), _ in pairs), differing=tuple(differing),
        words=counts.reference_length, differing_words=counts.errors, looped=looped,
    )  # fmt: skip
    if done.same < MIN_SAME_FRAC * len(pairs) or counts.errors > MAX_DIFFERENT_FRAC * counts.reference_length:
        first = differing[0]
        raise ModelError(
            f"the export in {model} is not the model that was scored: by the code of its card {len(differing)} of "
            f"{len(pairs)} hypotheses differ, {counts.errors} of {counts.reference_length} words; the first is "
            f"'{first.id}': '{first.evaluation}' in the evaluation, '{first.export}' from the export"
        )
    return done
