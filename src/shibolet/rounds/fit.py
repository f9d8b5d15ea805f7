"""Whether the settings of a recipe suit the families of its models, asked before a round begins.

Configurations alone are read, and tokenizers where the recipe has an n-gram. A model that is not on this machine is
what its name tells; one that cannot be opened is told where it is opened.
"""

from collections.abc import Iterator, Sequence

from shibolet.errors import DataError, ModelError, RecipeError, ShiboletError
from shibolet.recipe import Recipe
from shibolet.speech.audio import SAMPLE_RATE_HZ

JUDGES_ITSELF = (
    "train.distil.texts: models.teacher is the audit's recogniser, which would judge its own texts; take another "
    "recogniser, or leave the texts out"
)


def require_fit(recipe: Recipe) -> None:
    """RecipeError for audio, styles or an n-gram that a model does not take, ModelError for a base that cannot train.

    DataError for an n-gram that is not there.
    """
    for error in misfits(recipe):
        raise error


def untold_style(recipe: Recipe) -> str | None:
    """A sentence where training always says how to write, and the result is scored in a prompt that it never saw."""
    styles = recipe.styles
    if recipe.train is None or recipe.evaluate.styles.candidate or recipe.evaluate.servers.candidate:
        return None
    if not all(source.name in styles for source in recipe.data.train):
        return None
    return (
        f"every source of data.train has a style ({', '.join(sorted({*styles.values()}))}), and {recipe.title} is "
        "scored without one, as it was never trained; evaluate.styles.candidate says which"
    )


def hearers_alike(recipe: Recipe) -> str | None:
    """A sentence where writer and listener of `label` are of one family, whose models err alike more often."""
    from shibolet.model.folders import is_here
    from shibolet.model.outline import outline_named

    if not recipe.has_hearers:
        return None
    try:
        names = writer_and_listener(recipe)
        families = [outline_named(name) if is_here(name) else None for name in names]
    except (RecipeError, ModelError):  # a misfit, or no model of a family
        return None
    if None in families or families[0] is not families[1]:
        return None
    return (
        f"writer '{names[0]}' and listener '{names[1]}' are both of the family {families[0].title}, and err alike more "
        "often than models of two families; label.listener takes any recogniser"
    )


def misfits(recipe: Recipe) -> Iterator[ShiboletError]:
    """Everything that `require_fit` refuses."""
    yield from _misfits_of_labels(recipe)
    if recipe.models is None:
        return
    servers = recipe.evaluate.servers  # which cut long audio as they like
    piece = {"evaluate.max_piece_s": recipe.evaluate.max_piece_s}
    of_base = {"prepare.max_duration_s": recipe.prepare.max_duration_s} | ({} if servers.candidate else piece)
    styles = recipe.evaluate.styles
    of_sources = [f"data.train: style of '{source}'" for source in recipe.styles]
    of_sources += [f"data.replay: style of '{source.name}'" for source in recipe.data.replayed if source.style]
    style = [*of_sources, *(["evaluate.styles.candidate"] if styles.candidate else [])]
    times = [f"data.train: timestamps of '{source.name}'" for source in recipe.data.train if source.timestamps]
    times += ["train.timestamps_frac"] if recipe.train and recipe.train.timestamps_frac else []
    yield from _misfits_of("base", recipe.models.base, of_base, style, times if recipe.train else [])
    style = ["evaluate.styles.baseline"] if styles.baseline else []
    yield from _misfits_of("baseline", recipe.models.baseline, {} if servers.baseline else piece, style)
    yield from _misfits_of_ngram(recipe)
    yield from _misfits_of_teacher(recipe)
    yield from _misfits_of_objectives(recipe)
    yield from _misfits_of_context(recipe)


def writer_and_listener(recipe: Recipe) -> tuple[str, str]:
    """The models of `label`; RecipeError where nobody writes, or nobody hears who wrote."""
    from shibolet.listen.open import HYPOTHESES

    writer = recipe.label.writer or (recipe.models and recipe.models.base)
    listener = recipe.label.listener or recipe.audit.recogniser
    if not writer:
        raise RecipeError("label: no model writes the texts; name one in label.writer, or the recipe's models.base")
    if listener.endswith(HYPOTHESES):
        raise RecipeError(
            f"label: '{listener}' is a file, which has no hypotheses for new pieces; name a model in label.listener"
        )
    if _is_same(writer, listener):
        raise RecipeError(f"label: '{writer}' is writer and listener; one model always agrees with itself")
    return writer, listener


def _misfits_of_labels(recipe: Recipe) -> Iterator[ShiboletError]:
    """Hearers that would be refused once the audit is paid for: a writer has to be of a family."""
    from shibolet.model.folders import is_here
    from shibolet.model.outline import outline_named

    if not recipe.has_hearers:
        return
    try:
        writer, _ = writer_and_listener(recipe)
        if is_here(writer):
            outline_named(writer)
    except (RecipeError, ModelError) as error:
        yield error


def _is_same(one: str, other: str) -> bool:
    """By name or by folder: models in two folders may be the same too, which is found when they are opened."""
    from shibolet.model.folders import is_local, resolve

    try:
        return one == other or (is_local(one) and is_local(other) and resolve(one) == resolve(other))
    except ModelError:
        return False


def _misfits_of_context(recipe: Recipe) -> Iterator[ShiboletError]:
    """Names and terms that are not there, or that a model has no room for: found when the result is evaluated."""
    from shibolet.model.outline import offline_config, outline_of
    from shibolet.model.protocols import Prompt

    if recipe.evaluate.context is None:
        return
    for who, name in (("candidate", recipe.models.base), ("baseline", recipe.models.baseline)):
        try:
            told = recipe.evaluate.told(who)
            family = outline_of(offline_config(name)[0]) if name else None
            if tokenizer := family and family.tokenizer(name):
                _ = family.targets(tokenizer, Prompt(recipe.language, told)).frame
        except ModelError:
            continue
        except DataError as error:
            yield error
            return
        except RecipeError as error:
            yield RecipeError(f"evaluate.context: models.{who.replace('candidate', 'base')} '{name}': {error}")


def _misfits_of_objectives(recipe: Recipe) -> Iterator[ShiboletError]:
    """Timestamps that nobody would learn: each utterance has one text where a phase learns from more than references.

    `TrainConfig` refuses what it says itself.
    """
    if (train := recipe.train) is None or train.learns_references_alone or train.timestamps_frac == 0:
        return
    for source in recipe.data.train:
        if source.timestamps:
            yield RecipeError(
                f"data.train: timestamps of '{source.name}' are to be learned in some epochs, and the objectives of "
                "train know one text of each utterance; leave them out (timestamps: false, or "
                "train.timestamps_frac: 0), or train with them in a round of its own"
            )


def _misfits_of_teacher(recipe: Recipe) -> Iterator[ShiboletError]:
    """A teacher whose tokens are not the student's, which would be found once the data are heard and prepared."""
    from shibolet.model.outline import offline_config, outline_of

    base, teacher = recipe.models.base, recipe.models.teacher
    if base is None or teacher is None:
        return
    if recipe.train.distil and recipe.train.distil.texts and _is_same(teacher, recipe.audit.recogniser):
        yield RecipeError(JUDGES_ITSELF)
    if _is_same(base, teacher):
        yield RecipeError(f"models.teacher and models.base are both '{base}', which learns nothing from itself")
    try:
        families = [outline_of(offline_config(name)[0]) for name in (base, teacher)]
        tokenizers = [family.tokenizer(name) for family, name in zip(families, (base, teacher), strict=True)]
    except ModelError:
        return
    is_same = families[0] is families[1] and (
        None in tokenizers or tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    )
    if not is_same:
        yield RecipeError(
            f"models.teacher '{teacher}' and models.base '{base}' have different vocabularies: a student learns from "
            "the probabilities of the same tokens; take a teacher of the same family with the same tokenizer"
        )


def _misfits_of_ngram(recipe: Recipe) -> Iterator[ShiboletError]:
    """An n-gram whose tokens a model lacks, which would be found when that model is opened: after the training."""
    from shibolet.model.ngram.arpa import strange_token
    from shibolet.model.outline import offline_config, outline_of

    if (ngram := recipe.evaluate.ngram) is None:
        return
    for role, name in (("base", recipe.models.base), ("baseline", recipe.models.baseline)):
        try:
            recipe.evaluate.require_ngram()
            family = outline_of(offline_config(name)[0]) if name else None
            tokenizer = family and family.tokenizer(name)
            token = tokenizer and strange_token(ngram.file, tokenizer.get_vocab())
        except ModelError:
            continue
        except DataError as error:
            yield error
            return
        if token:
            yield RecipeError(
                f"evaluate.ngram: {ngram.file} has the token '{token}', which the tokenizer of models.{role} '{name}' "
                "lacks; an n-gram belongs to one tokenizer, and both models are decoded with it: make one for this "
                "model with 'shibolet ngram', compare models of one tokenizer, or leave it out"
            )


def _misfits_of(
    role: str, name: str | None, lengths_s: dict[str, float], styles: Sequence[str], times: Sequence[str] = ()
) -> Iterator[ShiboletError]:
    from shibolet.model.outline import offline_config, outline_of

    if name is None:
        return
    try:
        config, _ = offline_config(name)
    except ModelError:
        return
    family = outline_of(config)
    if role == "base" and (why := family.untrainable(config)):
        yield ModelError(f"models.base '{name}' cannot be trained: {why}")
    if styles and not family.takes_style:
        yield RecipeError(
            f"{styles[0]}: models.{role} '{name}' is a {family.title}, which does not take a style; leave it "
            "out, or give all sources one writing (punctuation: none, letter_case: lower)"
        )
    if times and not family.writes_timestamps:
        yield RecipeError(
            f"{times[0]}: models.{role} '{name}' is a {family.title}, which writes no timestamps (its forced aligner "
            "finds the times of words): leave them out (timestamps: false, and no train.timestamps_frac)"
        )
    most_s = None if family.max_samples is None else family.max_samples / SAMPLE_RATE_HZ
    for setting, length_s in lengths_s.items():
        if most_s is not None and length_s > most_s:
            yield RecipeError(
                f"{setting} is {length_s:g}, and models.{role} '{name}' is a {family.title}, which takes {most_s:g} s "
                f"at most; set it to {most_s:g} or less"
            )
