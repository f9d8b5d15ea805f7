"""What a Whisper's decoder is given before a text, and texts as what it is to write.

`<|startofprev|> context <|startoftranscript|><|he|><|transcribe|><|notimestamps|> text<|endoftext|>`. The context is
optional, and English-only models know no languages and no tasks. In training the text may stand between timestamps,
`<|0.00|> text<|2.40|>`, and `<|notimestamps|>` is then left out (Radford et al. 2022, "Robust speech recognition via
large-scale weak supervision", section 2.3 and figure 1; `openai/whisper`, tokenizer.py and decoding.py).
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shibolet.errors import ModelError, RecipeError
from shibolet.model.protocols import Prompt, TimedIds
from shibolet.model.tokens import encode_plain
from shibolet.speech.text import get_language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, END, PREVIOUS = "<|startoftranscript|>", "<|endoftext|>", "<|startofprev|>"
TASK, NO_TIMES = "<|transcribe|>", "<|notimestamps|>"
MAX_CONTEXT_TOKENS = 223  # of 448 positions; Whisper's own code cuts a longer context
_TIME_S, _NUM_TIMES = 0.02, 1501  # timestamps stand after <|notimestamps|>, from 0 to 30 s
_ENGLISH_END = 50_256  # GPT-2's vocabulary is that of English-only models; the other one has a token more


@dataclass(frozen=True, slots=True)
class TranscriptionFrame:
    """The token ids before a text and the one after it; a process that has it needs no tokenizer."""

    prompt: Sequence[int]
    end_id: int  # a label, and no input
    previous_id: int | None = None  # <|startofprev|>
    no_times_id: int | None = None  # <|notimestamps|>, the prompt's last

    num_prefix = 0  # labels before those of the text

    def num_tokens(self, num_audio_tokens: int, num_text: int) -> int:
        """Encoder states and decoder positions of a text of `num_text` tokens."""
        return num_audio_tokens + len(self.prompt) + num_text

    def num_targets(self, num_text: int) -> int:
        """Its labels: the text and its end."""
        return num_text + 1

    def given(self, previous: Sequence[int], timed: bool) -> "TranscriptionFrame":
        """The same after a previous text, cut at its start as Whisper's own code does, and for timestamps in the text.

        Neither the previous text nor the rest of the prompt has labels; timestamps are labels of the text.
        """
        if not timed and not len(previous):
            return self
        before = [self.previous_id, *previous[-MAX_CONTEXT_TOKENS:]] if len(previous) else []
        asked = self.prompt[:-1] if timed else self.prompt
        return replace(self, prompt=array("i", [*before, *asked]))  # a training holds one for each utterance

    def with_times(self, segments: Sequence[TimedIds], speed: float = 1.0, quiet_s: float = 0.0) -> list[int]:
        """`<|start|> tokens <|end|>` of each segment, times rounded to 20 ms."""
        first = self.no_times_id + 1
        time_id = lambda at_s: first + min(round((quiet_s + at_s / speed) / _TIME_S), _NUM_TIMES - 1)  # noqa: E731
        return [id for start_s, end_s, ids in segments for id in (time_id(start_s), *ids, time_id(end_s))]


class TranscriptionPrompt:
    """The prompt of transcribing in a language without times; `prompt` may be the language alone.

    RecipeError for what a Whisper cannot be told; ModelError for the tokenizer of another model.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt | str) -> None:
        prompt = Prompt(prompt) if isinstance(prompt, str) else prompt
        if prompt.style.strip():
            raise RecipeError("a Whisper does not take a style; leave it out, or give names as context")
        self._tokenizer = tokenizer
        asked = [START, NO_TIMES]
        language = get_language(prompt.language)
        if is_multilingual(tokenizer):
            asked[1:1] = [f"<|{language.code}|>", TASK]
        elif language.code != "en":
            raise RecipeError(
                f"this Whisper supports English only and not {language.name}; say English "
                "(language: English, --language English), or take a multilingual one, whose name has no '.en'"
            )
        context = self._context(prompt.context.strip())
        self.frame = TranscriptionFrame(
            prompt=context + [token_id(tokenizer, token) for token in asked],
            end_id=token_id(tokenizer, END),
            previous_id=token_id(tokenizer, PREVIOUS),
            no_times_id=token_id(tokenizer, NO_TIMES),
        )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each transcript, a space before it as Whisper writes; markup in it stays text."""
        said = [text.strip() for text in texts]
        return encode_plain(self._tokenizer, [f" {text}" if text else "" for text in said])

    def _context(self, context: str) -> list[int]:
        if not context:
            return []
        (ids,) = self.encode([context])
        if len(ids) > MAX_CONTEXT_TOKENS:
            raise RecipeError(
                f"the context has {len(ids)} tokens, and a Whisper takes {MAX_CONTEXT_TOKENS} at most; shorten it"
            )
        return [token_id(self._tokenizer, PREVIOUS), *ids]


def is_multilingual(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether its model can be told a language. The tokenizers of English-only models list some languages too."""
    return _found(tokenizer, TASK) is not None and token_id(tokenizer, END) != _ENGLISH_END


def token_id(tokenizer: "PreTrainedTokenizerBase", token: str) -> int:
    """Id of a token that the model cannot do without."""
    if (found := _found(tokenizer, token)) is None:
        raise ModelError(f"this model's tokenizer has no token '{token}'; is it a Whisper's?")
    return found


def _found(tokenizer: "PreTrainedTokenizerBase", token: str) -> int | None:
    """Its id; None where there is none. In transformers an unknown token is the end of a text."""
    found = tokenizer.convert_tokens_to_ids(token)
    return None if found == tokenizer.unk_token_id and token != END else found
