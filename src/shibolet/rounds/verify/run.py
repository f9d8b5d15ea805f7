"""All checks in their order, each timed and each kept from ending the others; and what they are put down in."""

import logging
import math
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from shibolet.errors import Preempted, RecipeError, ShiboletError
from shibolet.model.family import LoadedModel, family_named, load_recogniser
from shibolet.model.folders import best_device, is_local, resolve
from shibolet.model.protocols import Prompt, Reference
from shibolet.recipe import Recipe
from shibolet.records.documents.verified import Check, Machine, Texts, Verified, VerifyReport
from shibolet.records.provenance import this_start
from shibolet.rounds.shared import Progress, Track, untracked
from shibolet.rounds.verify.behaviour import check_behaviour
from shibolet.rounds.verify.comparing import Said, compare_hypotheses, compare_logits, limit_of
from shibolet.rounds.verify.files import check_files, check_tokens
from shibolet.rounds.verify.phases import trial_of
from shibolet.rounds.verify.saving import check_saving
from shibolet.rounds.verify.subject import FEWEST, Clip, Outcome, read_clips
from shibolet.rounds.verify.training import free, train
from shibolet.rounds.verify.weights import check_weights

LOG = logging.getLogger(__name__)
FEWEST_STEPS = 10
Made = TypeVar("Made")
Found = Outcome | tuple[Outcome, Made]  # and what the check gives beside


@dataclass
class Checks:
    """What has been looked at so far."""

    shorten: Callable[[str], str]  # takes the paths of this machine out of a sentence
    track: Track
    done: list[Check] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, found: Outcome) -> None:
        numbers = {key: value if math.isfinite(value) else None for key, value in found.numbers.items()}
        sentences = tuple(map(self.shorten, found.sentences))
        self.done.append(Check(name=name, state=found.state, sentences=sentences, numbers=numbers))
        self.timing |= found.timing

    def skip(self, why: str, *names: str) -> None:
        for name in names:
            self.add(name, Outcome("not done", (why,)))

    def do(self, name: str, look: Callable[[Progress], Found[Made]]) -> Made | None:
        """Carry out a check: its outcome is kept, and what it gives beside that comes back; None where it broke off."""
        started, made = time.perf_counter(), None
        try:
            with self.track(name) as progress:
                found = look(progress)
            if isinstance(found, tuple):
                found, made = found
        except Preempted:  # the training heard the signal first; nothing of it stays to go on from
            raise KeyboardInterrupt from None
        except ShiboletError as error:
            found = Outcome("failed", (str(error),))
        except torch.OutOfMemoryError:
            found = Outcome("failed", ("the GPU's memory does not hold this check; end what else is on the GPU",))
        except Exception as error:  # a report that ends at the first surprise would not say what comes after it
            LOG.debug("%s", traceback.format_exc())
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            found = Outcome("failed", (f"{type(error).__name__} in {where}: {error}; report it with this file",))
        self.timing[name] = round(time.perf_counter() - started, 2)
        self.add(name, found)
        return made


def verify(
    model: str, data: str, recipe: Recipe, *, language: str, steps: int, with_texts: bool, work_dir: Path,
    python: Path | None = None, track: Track = untracked,
) -> VerifyReport:  # fmt: skip
    """Every check of a model on utterances of a manifest or a Hub data set; `work_dir` is an empty folder.

    RecipeError and DataError where recipe or data will not do; what is wrong with the model is in the report.
    """
    if recipe.train is None:
        raise RecipeError(f"recipe '{recipe.name}' has no section 'train': verify trains by its phases")
    if steps < FEWEST_STEPS or steps % 2:
        raise RecipeError(f"--steps {steps}: an even number of at least {FEWEST_STEPS} is needed")
    device = best_device()
    with track("read"):
        clips = read_clips(data, language)
    some = clips[:FEWEST]
    path = resolve(model)
    checks = Checks(_shortener(path, work_dir), track)
    said: list[Said] = []
    layout = family = identity = None
    loaded = checks.do("files", lambda _: check_files(model, device))
    if loaded is None:
        checks.skip("the model does not open", "weights", "tokenizer", "behaviour", "logits", "hypotheses", "training")
    else:
        layout, family, identity = loaded.family.config_in(path)[1], loaded.family.title, loaded.identity
        odd = checks.do("weights", lambda _: check_weights(loaded.model)) or []
        checks.do("tokenizer", lambda _: check_tokens(loaded, language, clips))
        loss = checks.do("behaviour", lambda _: check_behaviour(loaded, language, some, odd))
        said = _compare(checks, model, loaded, language, some, device)
        _ask(checks, model, loaded, language, some, device, python)
        del loaded
        free()
        _train(checks, model, recipe, clips, language, steps, math.inf if loss is None else loss, work_dir, device)
    texts = [
        Texts(reference=clip.text, ours=one.ours, theirs=one.theirs) for clip, one in zip(some, said) if with_texts
    ]
    return VerifyReport(
        model=Verified(name=_name(model), identity=identity, family=family, layout=layout),
        machine=_machine(device),
        language=language,
        recipe=recipe.name,
        utterances=len(clips),
        audio_s=round(sum(clip.seconds for clip in clips), 1),
        steps=steps,
        checks=checks.done,
        texts=texts,
        timing=checks.timing,
    )


def _compare(
    checks: Checks, model: str, loaded: LoadedModel, language: str, clips: list[Clip], device: str
) -> list[Said]:
    """Logits and hypotheses against the library's: in float32, and on a GPU in the precision that trains too."""
    family, prompt, said = loaded.family, Prompt(language), []
    open_reference = partial(family.reference, model, prompt, device=device)

    def exact_logits(progress: Progress) -> Found[Reference]:
        if (exact := open_reference(dtype=torch.float32)) is None:
            return Outcome("not done", (f"no other library computes a {family.title}",))
        family.fuse(loaded.model)  # as it trains
        return compare_logits(loaded, exact, language, clips), exact

    if (exact := checks.do("logits", exact_logits)) is None:
        checks.skip("there are no logits of another library", "hypotheses")
        return []
    said = checks.do("hypotheses", lambda _: compare_hypotheses(loaded, exact, language, clips)) or []
    if device == "cpu":
        return said

    def rounded_logits(progress: Progress) -> Found[tuple[LoadedModel, Reference]]:
        ours = load_recogniser(model, dtype=torch.bfloat16, device=device)
        rounded = open_reference(dtype=torch.bfloat16)
        return compare_logits(ours, exact, language, clips, rounded), (ours, rounded)

    if (pair := checks.do("logits in bfloat16", rounded_logits)) is None:
        checks.skip("there are no logits to compare", "hypotheses in bfloat16")
        return said
    return checks.do("hypotheses in bfloat16", lambda _: compare_hypotheses(*pair, language, clips)) or said


def _ask(
    checks: Checks, model: str, loaded: LoadedModel, language: str, clips: list[Clip], device: str, python: Path | None
) -> None:
    """Logits and hypotheses against those of the family's own package, which needs an environment apart."""
    if python is None:
        checks.skip("no Python with the package was named (--python)", "official package")
        return

    def logits(progress: Progress) -> Found[Reference]:
        samples, texts = [clip.samples for clip in clips], [clip.text for clip in clips]
        limits = list(map(limit_of, clips))
        found = loaded.family.official(model, Prompt(language), python, samples, texts, limits, device=device)
        if found is None:
            return Outcome("not done", (f"{loaded.family.title} has no package of its own",))
        return compare_logits(loaded, found, language, clips), found

    if (official := checks.do("official package", logits)) is not None:
        checks.do("its hypotheses", lambda _: compare_hypotheses(loaded, official, language, clips))


def _train(
    checks: Checks, model: str, recipe: Recipe, clips: list[Clip], language: str, steps: int, loss: float,
    work_dir: Path, device: str,
) -> None:  # fmt: skip
    """Training, what it showed beside, and saving what it made."""

    def look(progress: Progress) -> Found[dict[str, Outcome]]:
        family = family_named(model)
        sizes = family.config_in(resolve(model))[0], family.standard_config()[0]
        here, usual = (family.num_layers(family.blueprint(one)) for one in sizes)
        on_gpu = device != "cpu"
        config = trial_of(recipe.train, here, usual, num_utterances=len(clips), steps=steps, on_gpu=on_gpu)
        found = train(model, config, clips, language, recipe.seed, work_dir, progress, loss)
        return found.pop("training"), found

    if (more := checks.do("training", look)) is None:
        checks.skip("the training did not end", "resume", "plan", "saving")
        return
    for name, found in more.items():
        checks.add(name, found)
    free()
    shutil.rmtree(work_dir / "train" / "checkpoints", ignore_errors=True)  # three of them are as large as five models
    final = work_dir / "train" / "final"
    checks.do("saving", lambda _: check_saving(final, language, clips[:FEWEST], device, work_dir))


def _name(model: str) -> str:
    """A model's name without the folders that it lies in."""
    return Path(model).resolve().name if is_local(model) and not model.startswith("builtin:") else model


def _shortener(model: Path, work_dir: Path) -> Callable[[str], str]:
    places = {str(work_dir): "WORK", str(model): model.name, str(model.absolute()): model.name, str(Path.home()): "~"}

    def shorten(text: str) -> str:
        for long, short in sorted(places.items(), key=lambda item: -len(item[0])):
            text = text.replace(long, short)
        return text

    return shorten


def _machine(device: str) -> Machine:
    start, gpu = this_start("verify", torch.get_num_threads()), None
    if device != "cpu":
        gpu = torch.cuda.get_device_properties(torch.device(device))
    driver = Path("/proc/driver/nvidia/version")
    return Machine(
        platform=start.platform,
        python=start.python,
        packages=start.packages,
        commit=start.git,
        device="cpu" if gpu is None else gpu.name,
        device_gib=None if gpu is None else round(gpu.total_memory / 2**30, 1),
        driver=driver.read_text().splitlines()[0].strip() if driver.is_file() else None,
        num_threads=torch.get_num_threads(),
    )
