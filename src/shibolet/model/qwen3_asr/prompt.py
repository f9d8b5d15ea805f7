"""The prompt of Qwen3-ASR and the labels of a target, as token ids with known lengths.

Built from text instead of the processor: it refuses languages outside its list, and its labels leave prompt tokens in
the loss (facts: huggingface/transformers before 5.15 and after). The aligner's prompt has no chat frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from shibolet.errors import ModelError
from shibolet.model.protocols import Prompt, TimedIds
from shibolet.model.tokens import encode_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUDIO_START, AUDIO_TOKEN, AUDIO_END = "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>"
ASR_TEXT, END_OF_TURN, TIMESTAMP = "<asr_text>", "<|im_end|>", "<timestamp>"
IGNORED = -100
MAX_PREVIOUS_TOKENS = 223  # as many as a Whisper takes; the model itself has room for more


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids and, of the same length, the label at each position or -100."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class TranscriptionFrame:
    """The token ids around the audio and the text of an utterance; a process that has it needs no tokenizer."""

    before: list[int]  # up to the audio
    after: list[int]  # from there to the target
    prefix: list[int]  # of the target: `language X<asr_text>`
    audio_id: int
    end_id: int  # closes the target
    num_head: int = 0  # tokens of `before` up to the words of the system
    line_ids: Sequence[int] = ()  # a line's end, between what is said of an utterance and of all

    @property
    def num_prefix(self) -> int:
        """Labels before those of the text."""
        return len(self.prefix)

    def request(self, num_audio_tokens: int) -> list[int]:
        """Token ids up to where the model writes the transcript, the language given."""
        return self.before + [self.audio_id] * num_audio_tokens + self.after + self.prefix

    def sequence(self, num_audio_tokens: int, text_ids: Sequence[int]) -> TokenSequence:
        """The whole sequence with labels on `language X<asr_text>TEXT<|im_end|>` and nowhere else.

        A label stands where its token stands; the loss shifts by one.
        """
        prompt = self.before + [self.audio_id] * num_audio_tokens + self.after
        target = [*self.prefix, *text_ids, self.end_id]
        return TokenSequence(prompt + target, [IGNORED] * len(prompt) + target)

    def num_tokens(self, num_audio_tokens: int, num_text: int) -> int:
        """Length of the sequence of a text of `num_text` tokens."""
        return len(self.before) + num_audio_tokens + len(self.after) + self.num_targets(num_text)

    def num_targets(self, num_text: int) -> int:
        """Its labels: prefix, text and end of turn."""
        return len(self.prefix) + num_text + 1

    def given(self, previous: Sequence[int], timed: bool) -> "TranscriptionFrame":
        """The same with the last tokens of a previous text as context, as `Prompt.context` has it."""
        if timed:
            raise ModelError("a Qwen3-ASR writes no timestamps")
        if not len(previous):
            return self
        head, rest = self.before[: self.num_head], self.before[self.num_head :]
        line = self.line_ids if rest[0] != self.end_id else ()
        return replace(self, before=[*head, *previous[-MAX_PREVIOUS_TOKENS:], *line, *rest])

    def with_times(self, segments: Sequence[TimedIds], speed: float = 1.0, quiet_s: float = 0.0) -> list[int]:
        raise ModelError("a Qwen3-ASR writes no timestamps")


class TranscriptionPrompt:
    """`system, user <audio>, assistant "language X<asr_text>"` around an utterance; context and style are the system's.

    `prompt` may be the language alone.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt | str) -> None:
        prompt = Prompt(prompt) if isinstance(prompt, str) else prompt
        self._tokenizer = tokenizer
        self.audio_id = token_id(tokenizer, AUDIO_TOKEN)
        self.end_id = token_id(tokenizer, END_OF_TURN)
        encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
        said = "\n".join(text.strip() for text in (prompt.context, prompt.style) if text.strip())
        (system,) = encode_plain(tokenizer, [said]) if said else ([],)
        user = f"{END_OF_TURN}\n<|im_start|>user\n{AUDIO_START}"
        head = encode("<|im_start|>system\n")
        self.frame = TranscriptionFrame(
            before=head + system + encode(user),
            after=encode(f"{AUDIO_END}{END_OF_TURN}\n<|im_start|>assistant\n"),
            prefix=encode(f"language {prompt.language}{ASR_TEXT}"),
            audio_id=self.audio_id,
            end_id=self.end_id,
            num_head=len(head),
            line_ids=encode("\n"),
        )

    def request(self, num_audio_tokens: int) -> list[int]:
        """`TranscriptionFrame.request`."""
        return self.frame.request(num_audio_tokens)

    def examples(self, nums_audio_tokens: Sequence[int], texts: Sequence[str]) -> list[TokenSequence]:
        """`TranscriptionFrame.sequence` of each text."""
        return [self.frame.sequence(n, ids) for n, ids in zip(nums_audio_tokens, self.encode(texts), strict=True)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each transcript; markup in it stays text and never becomes a special token."""
        return encode_plain(self._tokenizer, texts)


class AlignmentPrompt:
    """`<audio> word<timestamp><timestamp>...`: each word's first marker predicts its start, the second its end."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self.audio_id = token_id(tokenizer, AUDIO_TOKEN)
        self.timestamp_id = token_id(tokenizer, TIMESTAMP)
        self._start, self._end = token_id(tokenizer, AUDIO_START), token_id(tokenizer, AUDIO_END)

    def examples(
        self,
        nums_audio_tokens: Sequence[int],
        words: Sequence[list[str]],
        classes: Sequence[list[int] | None],
    ) -> list[TokenSequence]:
        """The sequence of each clip's words; its classes are two for each word, those of its start and of its end."""
        distinct, made = list(dict.fromkeys(chain.from_iterable(words))), []
        ids_of = dict(zip(distinct, encode_plain(self._tokenizer, distinct), strict=True))
        for num_audio_tokens, said, times in zip(nums_audio_tokens, words, classes, strict=True):
            if times is not None and len(times) != 2 * len(said):
                raise ValueError(f"{len(said)} words need {2 * len(said)} time classes, got {len(times)}")
            ids = [self._start] + [self.audio_id] * num_audio_tokens + [self._end]
            labels = [IGNORED] * len(ids)
            for position, word in enumerate(said):
                ids += ids_of[word] + [self.timestamp_id] * 2
                of_word = [IGNORED, IGNORED] if times is None else times[2 * position : 2 * position + 2]
                labels += [IGNORED] * len(ids_of[word]) + of_word
            made.append(TokenSequence(ids, labels))
        return made


def token_id(tokenizer: "PreTrainedTokenizerBase", token: str) -> int:
    """Id of a token that the model cannot do without."""
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or found == tokenizer.unk_token_id:
        raise ModelError(f"this model's tokenizer has no token '{token}'; is it a Qwen3-ASR (or its forced aligner)?")
    return found
