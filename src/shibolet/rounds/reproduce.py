"""Whether an exported model, read in a process of its own, repeats hypotheses of the evaluation word for word.

Whole batches are repeated as the evaluation had them: who shares a batch changes the last bits of a logit.
"""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from shibolet.errors import ModelError
from shibolet.evaluate.hear import batches_of
from shibolet.evaluate.stage import HYPOTHESES, evaluate_set
from shibolet.listen.executor import Here
from shibolet.records.candidate import named
from shibolet.records.documents.base import Part
from shibolet.records.documents.published import Reproduced
from shibolet.records.files import read_json, write_json
from shibolet.records.hypotheses import read_hypothesis_lines
from shibolet.records.manifest import read_manifest, write_manifest
from shibolet.records.utterance import Utterance
from shibolet.rounds.scorers import language_of
from shibolet.rounds.shared import Round

NUM_HYPOTHESES = 20  # at least, over all sets
EXPORT = named("export")


class Wanted(Part):
    """Utterances of one set to hear again."""

    set: str
    manifest: Path
    out_dir: Path
    language: str
    clips_at_once: int


class Request(Part):
    """What the fresh process is told."""

    recipe: Path
    model: Path
    sets: tuple[Wanted, ...]


def reproduce(current: Round, model: Path, label: str) -> Reproduced:
    """What was repeated of the evaluation of `label`; ModelError when a hypothesis differs."""
    expected, wanted = {}, []
    with TemporaryDirectory() as scratch:
        for source in current.sets:
            language = language_of(current, source)
            together = current.transcriber(str(model), label, language).clips_at_once
            said = _hypotheses(current.folder.evaluation(label, source.name))
            utterances = current.read(source).utterances
            chosen = whole_batches(utterances, together, math.ceil(NUM_HYPOTHESES / len(current.sets)))
            if missing := [utterance.id for utterance in chosen if utterance.id not in said]:
                raise ModelError(
                    f"set '{source.name}' has changed since it was scored: '{missing[0]}' has no hypothesis there; run "
                    "'shibolet compare' again"
                )
            expected[source.name] = {utterance.id: said[utterance.id] for utterance in chosen}
            place = Path(scratch) / source.name
            manifest = place.with_suffix(".jsonl")
            write_manifest(manifest, chosen)
            wanted.append(
                Wanted(set=source.name, manifest=manifest, out_dir=place, language=language, clips_at_once=together)
            )
        request = Request(recipe=current.folder.recipe.absolute(), model=model.absolute(), sets=wanted)
        path = Path(scratch) / "request.json"
        write_json(path, request.model_dump(mode="json"))
        _run(path)
        heard = {one.set: _hypotheses(one.out_dir) for one in wanted}
    pairs = [(name, id, text, heard[name][id]) for name, texts in expected.items() for id, text in texts.items()]
    if differing := [pair for pair in pairs if pair[2] != pair[3]]:
        name, id, before, after = differing[0]
        raise ModelError(
            f"the export in {model} is not the model that was scored: {len(differing)} of {len(pairs)} hypotheses "
            f"differ, the first is '{id}' of set '{name}': '{before}' in the evaluation, '{after}' from the export"
        )
    return Reproduced(hypotheses=len(pairs), ids={name: sorted(texts) for name, texts in expected.items()})


def _hypotheses(out_dir: Path) -> dict[str, str]:
    """By utterance id, as an evaluation wrote them."""
    return {line.id: line.hypothesis for line in read_hypothesis_lines(out_dir / HYPOTHESES)}


def whole_batches(utterances: Sequence[Utterance], batch_utterances: int, num_wanted: int) -> list[Utterance]:
    """At least `num_wanted` utterances (or all), in their order: whole batches of an evaluation, from short and long.

    Of whole batches alone an evaluation makes the same ones again.
    """
    batches = batches_of(utterances, batch_utterances)
    spread = sorted(range(len(batches)), key=lambda i: (_reversed_bits(i, len(batches)), i))
    chosen: list[int] = []
    for index in spread:
        if len(chosen) >= num_wanted:
            break
        chosen += batches[index]
    return [utterances[i] for i in sorted(chosen)]


def _reversed_bits(i: int, count: int) -> int:
    """Order in which 0, then the middle, then the quarters of a range are visited (van der Corput)."""
    width = max(1, (count - 1).bit_length())
    return int(f"{i:0{width}b}"[::-1], 2)


def _run(request: Path) -> None:
    """Transcribe in a process that has seen nothing of this one but the request."""
    done = subprocess.run(
        [sys.executable, "-m", "shibolet.rounds.reproduce", str(request)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ModelError(f"the export could not be read in a fresh process: {lines[-1] if lines else 'no message'}")


def _transcribe(request: Request) -> None:
    from shibolet.recipe import load_recipe
    from shibolet.records.runfolder import RunFolder

    recipe = load_recipe(request.recipe)
    for one in request.sets:
        config = recipe.evaluate.model_copy(update={"batch_utterances": one.clips_at_once})
        once = recipe.model_copy(update={"evaluate": config})
        current = Round(once, RunFolder(request.recipe.parent), tell=lambda sentence: None)
        current.executor = Here()  # a few batches
        evaluate_set(
            current.transcriber(str(request.model), EXPORT.label, one.language),
            read_manifest(one.manifest),
            set_name=one.set,
            language=one.language,
            config=config,
            out_dir=one.out_dir,
            named=EXPORT,
            identity=current.identity(str(request.model)),
        )


if __name__ == "__main__":
    _transcribe(Request.model_validate(read_json(Path(sys.argv[1]))))
