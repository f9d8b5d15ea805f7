"""Settings of the evaluate stage."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from shibolet.errors import DataError, RecipeError
from shibolet.listen.mbr import TEMPERATURE
from shibolet.records.config import Config
from shibolet.records.documents.non_speech import MADE
from shibolet.records.files import hash_file
from shibolet.speech.sources import DataSource, UnlabelledSource
from shibolet.speech.text.terms import as_context, read_terms


class EvaluationSet(DataSource):
    """A data set with what the baseline is said to score on it."""

    domain: str | None = Field(None, min_length=1)  # of the set, such as broadcast; a row's own goes first
    baseline_wer_pct: float | None = Field(None, ge=0)  # published figure, shown beside the measured one
    optional: bool = False  # left out, with a sentence, where it cannot be had

    @model_validator(mode="after")
    def _no_style(self) -> Self:
        if self.style is not None:
            raise RecipeError(
                f"evaluate.sets: '{self.name}' has a style; models are asked for one by evaluate.styles, on every set"
            )
        return self


class ServerConfig(Config):
    """A server that transcribes as OpenAI's does, such as vLLM's."""

    url: str  # its root, as http://localhost:8000
    model: str | None = None  # by the server's name for it; null: the only one that it has
    language_code: str | None = None  # such as he, where the server is to be told; null: the model guesses

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        from shibolet.listen.http_client import check_url

        return check_url(url)


class ServersConfig(Config):
    """Which of the two models that a round compares are on a server and not run here."""

    baseline: ServerConfig | None = None
    candidate: ServerConfig | None = None


class StylesConfig(Config):
    """How each of the two models that a round compares is asked to write; null: it is told nothing.

    A style of `data.train` is asked for in the same words. A model that was not trained with it may write worse for it.
    """

    baseline: str | None = Field(None, min_length=1)
    candidate: str | None = Field(None, min_length=1)


class NgramConfig(Config):
    """An n-gram language model whose log-probabilities the beams add to the model's own."""

    file: Path  # ARPA over the model's tokens; `shibolet ngram` makes it
    weight: float = Field(gt=0)  # of its log-probabilities, those of the model having 1


class ContextConfig(Config):
    """Names and terms that may be said in the sets, and which of the two models that a round compares is told them.

    WER is counted apart for words of the list and for all others, also of a model that is not told.
    """

    file: Path  # a term a line
    baseline: bool = True  # is told
    candidate: bool = True

    def terms(self) -> tuple[str, ...]:
        """The terms; DataError where the file has none."""
        return read_terms(self.file)


class NonSpeechSource(UnlabelledSource):
    """Recordings in which nobody speaks; they need no texts, and where there are some they are not read."""

    @model_validator(mode="after")
    def _is_none_of_the_made_kinds(self) -> Self:
        if self.name in MADE:
            raise RecipeError(f"evaluate.non_speech.sources: '{self.name}' is the name of clips made from code")
        return self


class NonSpeechConfig(Config):
    """Clips without speech in the recipe's language, in which each model is asked what it hears.

    Those that are made from code take a few seconds on two CPU cores with a tiny model.
    """

    clips_per_kind: int = Field(4, gt=0)  # of silence, noise, music and breathing, made from code
    clip_s: float = Field(5.0, ge=1, le=30)
    sources: tuple[NonSpeechSource, ...] = ()
    foreign_clips: int = Field(16, ge=0)  # of each set in another language, heard as if in the recipe's
    num_terms: int = Field(10, ge=0)  # told in a second pass where evaluate.context names none; 0: there is none then


class EvaluateConfig(Config):
    """Which sets, and how they are transcribed and scored."""

    sets: tuple[EvaluationSet, ...] = ()
    # Also hear them with the audit's models and list the references that these doubt; once for all rounds, each second
    # of the sets. No score and no verdict changes by it.
    audit_sets: bool = True
    batch_utterances: int | None = Field(None, gt=0)  # decoded at once, at most; null: as many as memory allows
    max_piece_s: float = Field(30.0, gt=0)  # longer recordings are transcribed in pieces cut at pauses
    max_new_tokens_per_s: float = Field(25.0, gt=0)  # bounds a model that does not come to an end
    beam_size: int = Field(1, gt=0)  # 1: greedy; `shibolet tune-decoding` compares. On dev, in training, always greedy
    length_penalty: float = 1.0  # of beams: over 0, the higher the longer the text
    ngram: NgramConfig | None = None  # beside the beams on sets in the recipe's language; see 'tune-decoding'
    # Texts drawn beside the greedy one; of all the one of minimum Bayes risk is taken. null: none, the greedy text
    mbr_samples: int | None = Field(None, ge=2)
    mbr_temperature: float = Field(TEMPERATURE, gt=0)  # of the draws; over 1 they differ more than the model believes
    repeat_bias: float = Field(0.0, ge=0)  # off the logit of a token that repeats a phrase a fourth time, or further
    # A text that ends as a loop is written again with this repeat bias, and stays where that loops too; 0: all stay
    loop_bias: float = Field(0.0, ge=0)
    expected_beam_points: tuple[float, float] | None = None  # WER points that the plan expects of beams, said beside
    servers: ServersConfig = ServersConfig()
    styles: StylesConfig = StylesConfig()
    context: ContextConfig | None = None  # null: models are told no names, and no word is counted apart
    non_speech: NonSpeechConfig | None = NonSpeechConfig()  # words where nobody speaks; null: nobody listens for them
    dev_utterances: int | None = Field(256, gt=0)  # of the dev split, always the same, scored in training; null: all
    buckets_s: tuple[tuple[str, float, float], ...] = (
        ("short", 0.5, 5.0), ("medium", 5.0, 15.0), ("long", 15.0, 30.0), ("long-form", 30.0, 7200.0),
    )  # fmt: skip

    @model_validator(mode="after")
    def _settings_do_something(self) -> Self:
        if self.servers != ServersConfig() and self.beam_size > 1:
            raise RecipeError("evaluate.beam_size: a server has its own beams; leave out either this or servers")
        for name in ("baseline", "candidate"):
            if getattr(self.styles, name) and getattr(self.servers, name):
                raise RecipeError(f"evaluate.styles.{name}: a server does not take a style; leave out one of the two")
        if self.servers != ServersConfig() and (self.mbr_samples or self.repeat_bias or self.loop_bias):
            raise RecipeError(
                "evaluate.mbr_samples, evaluate.repeat_bias and evaluate.loop_bias: a server has neither samples "
                "nor biases; leave out either these or servers"
            )
        if self.beam_size > 1 and (self.mbr_samples or self.repeat_bias):
            raise RecipeError(
                "evaluate.mbr_samples and evaluate.repeat_bias have no effect with beams; leave out evaluate.beam_size"
            )
        if self.mbr_samples is None and self.mbr_temperature != TEMPERATURE:
            raise RecipeError("evaluate.mbr_temperature has no effect without evaluate.mbr_samples")
        for name, low, high in self.buckets_s:
            if not 0 <= low < high:
                raise RecipeError(f"evaluate.buckets_s: '{name}' goes from {low:g} to {high:g} s")
        if (span := self.expected_beam_points) and span[0] > span[1]:
            raise RecipeError(
                f"evaluate.expected_beam_points: {span[0]:g} is above {span[1]:g}; the lower end comes first"
            )
        if self.length_penalty != 1.0 and self.beam_size == 1:
            raise RecipeError("evaluate.length_penalty has no effect if evaluate.beam_size is 1")
        if self.ngram and self.beam_size == 1:
            raise RecipeError("evaluate.ngram has no effect if evaluate.beam_size is 1: only beam search uses it")
        for name in ("baseline", "candidate") if self.context else ():
            if getattr(self.context, name) and getattr(self.servers, name):
                raise RecipeError(f"evaluate.context: a server does not take names; write `{name}: false` in it")
        return self

    def told(self, who: Literal["baseline", "candidate"]) -> str:
        """What the prompt of one of the two says of names and terms; DataError where their file has none."""
        return as_context(self.context.terms()) if self.context and getattr(self.context, who) else ""

    def engine_settings(self, style: str = "", context: str = "") -> dict[str, Any]:
        """What a `Transcriber` is made with, all of it: what is decoded is what `identity` says.

        `style` is what the prompt says of how to write, and `context` what it says beside.
        """
        return {
            "batch_utterances": self.batch_utterances,
            "max_new_tokens_per_s": self.max_new_tokens_per_s,
            "beam_size": self.beam_size,
            "length_penalty": self.length_penalty,
            "mbr_samples": self.mbr_samples,
            "mbr_temperature": self.mbr_temperature,
            "repeat_bias": self.repeat_bias,
            "loop_bias": self.loop_bias,
            "ngram": self.ngram and self.ngram.file,
            "ngram_weight": self.ngram.weight if self.ngram else 0.0,
            "style": style,
            "context": context,
        }

    @property
    def greedy(self) -> Self:
        """The same with greedy decoding, as dev is scored in a training."""
        changed = ("beam_size", "length_penalty", "ngram", "mbr_samples", "mbr_temperature", "repeat_bias", "loop_bias")
        return self.model_copy(update={name: type(self).model_fields[name].default for name in changed})

    def identity(self, exclude: Collection[str]) -> dict[str, Any]:
        """The settings but for some, as plain data to compare: of an n-gram what is in its file, and not where it is.

        DataError where there is no such file.
        """
        found = self.model_dump(mode="json", exclude={*exclude, "ngram", "context"})
        if self.context is not None and "context" not in exclude:
            found |= {"context": {**self.context.model_dump(exclude={"file"}), "terms": list(self.context.terms())}}
        if self.ngram is None:  # as it was before there were any: what was scored then stays
            return found
        self.require_ngram()
        return {**found, "ngram": {"file": hash_file(self.ngram.file), "weight": self.ngram.weight}}

    def require_ngram(self) -> None:
        """DataError where the n-gram is not there."""
        if self.ngram is not None and not self.ngram.file.is_file():
            raise DataError(f"evaluate.ngram: there is no file {self.ngram.file}; 'shibolet ngram RECIPE' makes one")
