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
    """A test set: a data set, and what is published of the baseline on it."""

    # Domain of all rows that name none, such as broadcast; null: they have none
    domain: str | None = Field(None, min_length=1)
    # Published WER of the baseline in percent, shown beside the measured one; null: not known
    baseline_wer_pct: float | None = Field(None, ge=0)
    optional: bool = False  # leave the set out, with a message, where it cannot be had; otherwise that is an error

    @model_validator(mode="after")
    def _no_style(self) -> Self:
        if self.style is not None:
            raise RecipeError(
                f"evaluate.sets: '{self.name}' has a style; models are asked for one by evaluate.styles, on every set"
            )
        return self


class ServerConfig(Config):
    """A server with OpenAI's transcription API, such as vLLM's."""

    url: str  # root of the server, such as http://localhost:8000
    model: str | None = None  # the server's name of the model; null: the only one that it has
    language_code: str | None = None  # language that the server is told, such as he; null: the model detects it

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        from shibolet.listen.http_client import check_url

        return check_url(url)


class ServersConfig(Config):
    """Which of the two models that a round compares run on a server, and not here."""

    baseline: ServerConfig | None = None  # server of the baseline; null: it runs here
    candidate: ServerConfig | None = None  # server of the candidate; null: it runs here


class StylesConfig(Config):
    """How each of the two models that a round compares is asked to write, in the words of a style of `data.train`.

    A model that was not trained with a style may write worse when it is asked for it.
    """

    baseline: str | None = Field(None, min_length=1)  # style that the baseline is asked for; null: none
    # Style that the candidate is asked for, one of `data.train`; null: none
    candidate: str | None = Field(None, min_length=1)


class NgramConfig(Config):
    """An n-gram language model whose log-probabilities the beams add to the model's own."""

    file: Path  # ARPA file over the model's tokens; `shibolet ngram` makes it
    weight: float = Field(gt=0)  # weight of its log-probabilities; those of the model have weight 1


class ContextConfig(Config):
    """Names and terms that may be said in the sets, and which of the two models that a round compares are told them.

    WER is counted apart for words of the list and for all others, also of a model that is not told.
    """

    file: Path  # file with one term on each line
    baseline: bool = True  # whether the baseline is told the terms
    candidate: bool = True  # whether the candidate is told the terms

    def terms(self) -> tuple[str, ...]:
        """The terms; DataError where the file has none."""
        return read_terms(self.file)


class NonSpeechSource(UnlabelledSource):
    """Recordings in which nobody speaks; they need no texts, and texts in the data are not read."""

    @model_validator(mode="after")
    def _is_none_of_the_made_kinds(self) -> Self:
        if self.name in MADE:
            raise RecipeError(f"evaluate.non_speech.sources: '{self.name}' is the name of clips made from code")
        return self


class NonSpeechConfig(Config):
    """Clips without speech in the recipe's language, in which each model is asked what it hears.

    Those that are made from code take a few seconds on two CPU cores with a tiny model.
    """

    clips_per_kind: int = Field(4, gt=0)  # clips of each of silence, noise, music and breathing, which are made by code
    clip_s: float = Field(5.0, ge=1, le=30)  # seconds of each of these clips
    sources: tuple[NonSpeechSource, ...] = ()  # recordings in which nobody speaks, beside the clips that are made
    # Clips from each set in another language, heard as if they were in the recipe's
    foreign_clips: int = Field(16, ge=0)
    # Rare words told in a second pass if `evaluate.context` names no terms; 0: no second pass then
    num_terms: int = Field(10, ge=0)


class EvaluateConfig(Config):
    """The test sets, and how they are transcribed and scored."""

    sets: tuple[EvaluationSet, ...] = ()  # the test sets
    # Also hear the test sets with the audit's models and list the references that these doubt, once for all rounds. No
    # score and no verdict depends on it.
    audit_sets: bool = True
    # Utterances that are decoded together, at most; null: as many as memory allows
    batch_utterances: int | None = Field(None, gt=0)
    # Seconds; longer recordings are transcribed in pieces that are cut at pauses
    max_piece_s: float = Field(30.0, gt=0)
    max_new_tokens_per_s: float = Field(25.0, gt=0)  # tokens per second of audio, at most; it ends a text that loops
    # Beams; 1: greedy. `shibolet tune-decoding` compares. On dev, in training, decoding is always greedy
    beam_size: int = Field(1, gt=0)
    # Exponent of the length by which a beam's score is divided; higher values favour longer texts
    length_penalty: float = 1.0
    ngram: NgramConfig | None = None  # n-gram language model for beams on sets in the recipe's language; null: none
    # Texts drawn beside the greedy one; of all, the one of minimum Bayes risk is taken. null: the greedy text
    mbr_samples: int | None = Field(None, ge=2)
    # Temperature of the draws; over 1 they differ more than the model's own probabilities say
    mbr_temperature: float = Field(TEMPERATURE, gt=0)
    # Subtracted from the logit of a token that repeats a phrase for the fourth time or more; 0: off
    repeat_bias: float = Field(0.0, ge=0)
    # Repeat bias with which a text that ends as a loop is written again; the first text stays if that loops too. 0: off
    loop_bias: float = Field(0.0, ge=0)
    # Lowest and highest WER points that the author expects of beams; shown beside the measurement
    expected_beam_points: tuple[float, float] | None = None
    servers: ServersConfig = ServersConfig()  # models of the comparison that run on a server
    styles: StylesConfig = StylesConfig()  # styles that the models of the comparison are asked for
    # Names and terms that models are told; null: none, and no word is counted apart
    context: ContextConfig | None = None
    # Clips without speech, to count words where nobody speaks; null: off
    non_speech: NonSpeechConfig | None = NonSpeechConfig()
    # Utterances of dev, always the same, that are scored during training; null: all
    dev_utterances: int | None = Field(256, gt=0)
    # Groups by duration that are scored apart: name, and from and to in seconds
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
