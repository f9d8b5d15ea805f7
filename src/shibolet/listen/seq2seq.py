"""Any sequence-to-sequence speech recogniser of transformers (Whisper and its like) as a second opinion."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, GenerationMixin, StoppingCriteria
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from shibolet.errors import ModelError
from shibolet.listen.batches import forward_lock
from shibolet.listen.checkpoints import open_model
from shibolet.listen.encoder_decoder import EncoderDecoderRecogniser
from shibolet.listen.forced_text import check_tokenizer
from shibolet.listen.loops import is_loop
from shibolet.model.folders import from_folder, identity_of, opening
from shibolet.speech.audio import SAMPLE_RATE_HZ
from shibolet.speech.text import get_language

UNFIXED_S = 30.0  # what a model takes that says nothing about it
LOOP_STEPS = 16  # between two looks at what was written
CHECKED_TOKENIZERS = ("WhisperTokenizer", "WhisperTokenizerFast")  # bytes: a token comes back from its own text


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """Encoder states of N clips and T frames."""

    states: Tensor  # [N, T, D]
    mask: Tensor | None  # [N, frames or samples of the input]; None where silence is heard as it is (Whisper)
    durations_s: list[float]

    def rows(self, rows: list[int]) -> dict[str, object]:
        """These clips as the model takes them; a clip may come several times."""
        index = torch.tensor(rows, device=self.states.device)
        mask = {} if self.mask is None else {"attention_mask": self.mask[index]}
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=self.states[index]), **mask}


class Seq2SeqRecogniser(EncoderDecoderRecogniser[EncodedBatch]):
    """`Recogniser` over transformers' own decoder; it tells no times."""

    def __init__(self, path: Path, language: str, *, device: str = "cpu") -> None:
        processor = from_folder(AutoProcessor, path)
        with opening(path):  # where there is no tokenizer, it is a feature extractor alone
            self._extractor, self._tokenizer = processor.feature_extractor, processor.tokenizer
        fixed_s = getattr(self._extractor, "chunk_length", None)  # Whisper pads everything to it
        super().__init__(language, float(fixed_s or UNFIXED_S), device)
        self._model = open_model(AutoModelForSpeechSeq2Seq, path, device)
        self.identity, self._is_padded = identity_of(path), fixed_s is not None
        self._forward = forward_lock(self._model.device)
        self._prefix = self._prefix_ids(path)
        self._end = self._tokenizer.eos_token_id
        if type(self._tokenizer).__name__ in CHECKED_TOKENIZERS:
            check_tokenizer(str(path), range(self._end), self._decode, self._encode_texts)

    def _prefix_ids(self, path: Path) -> list[int]:
        """What the decoder is given before the text: start, and language and task where the model has them."""
        tokens, config = self._tokenizer, self._model.config
        known = lambda ids: [i for i in ids if i is not None and i != tokens.unk_token_id]  # noqa: E731
        if getattr(self._model.generation_config, "is_multilingual", False):
            code = get_language(self._language).code
            wanted = ["<|startoftranscript|>", f"<|{code}|>", "<|transcribe|>", "<|notimestamps|>"]
            ids = known(tokens.convert_tokens_to_ids(wanted))
            if len(ids) < len(wanted):
                raise ModelError(
                    f"model '{path}': its tokenizer lacks one of {' '.join(wanted)}; it cannot be asked so"
                )
            return ids
        return [config.decoder_start_token_id, *known([tokens.convert_tokens_to_ids("<|notimestamps|>")])]

    @torch.inference_mode()
    def _encode(self, clips: list[np.ndarray], window_s: float) -> EncodedBatch:
        shape = {"padding": "max_length", "max_length": int(window_s * SAMPLE_RATE_HZ)} if self._is_padded else {}
        inputs = self._extractor(
            clips, sampling_rate=SAMPLE_RATE_HZ, return_attention_mask=True, return_tensors="pt",
            **(shape or {"padding": True}),
        )  # fmt: skip
        device, dtype = self._model.device, self._model.dtype
        given = {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}
        encoder = self._model.get_encoder()
        if isinstance(encoder, WhisperEncoder):
            given.pop("attention_mask")  # it hears the padding as silence
            encoder = with_positions(encoder, given["input_features"].shape[-1] // 2)
        with self._forward:
            states = encoder(**given).last_hidden_state
        return EncodedBatch(states, given.get("attention_mask"), [len(clip) / SAMPLE_RATE_HZ for clip in clips])

    @torch.inference_mode()
    def _write(self, states: EncodedBatch, limits: list[int]) -> list[list[int]]:
        rows, start, device = list(range(len(limits))), len(self._prefix), states.states.device
        prefix = torch.tensor([self._prefix] * len(limits), device=device)
        # A mask of ones where there is none says that none is missing.
        given = {"attention_mask": torch.ones(states.states.shape[:2], dtype=torch.long, device=device)}
        given |= states.rows(rows)
        settings = copy.copy(self._model.generation_config)
        settings.update(do_sample=False, num_beams=1, max_length=start + max(limits))  # two limits: a warning a call

        def is_over(row: int, ids: list[int]) -> bool:
            due = len(ids) % LOOP_STEPS == 0 and self._end not in ids
            return len(ids) >= limits[row] or (due and is_loop(self._text(ids), states.durations_s[row]))

        with self._forward:
            # Whisper's own `generate` would decide about segments and languages, which are given here.
            ids = GenerationMixin.generate(
                self._model,
                **given,
                decoder_input_ids=prefix,
                generation_config=settings,
                stopping_criteria=[_RowsOver(start, is_over)],
            )
        written = ids[:, start:].tolist()
        return [own[: own.index(self._end)] if self._end in own else own for own in written]

    @torch.inference_mode()
    def _force(self, states: EncodedBatch, rows: list[int], texts: list[list[int]]) -> list[np.ndarray]:
        targets = [[*text, self._end] for text in texts]
        longest, start = max(map(len, targets)), len(self._prefix)
        ids = torch.tensor([self._prefix + own + [self._end] * (longest - len(own)) for own in targets])
        ids = ids.to(states.states.device)
        with self._forward:
            logits = self._model(**states.rows(rows), decoder_input_ids=ids[:, :-1], use_cache=False).logits
            logits = logits[:, start - 1 :].float().transpose(1, 2)
            loss = F.cross_entropy(logits, ids[:, start:], reduction="none").cpu().numpy()
        return [-row[: len(own)] for row, own in zip(loss, targets, strict=True)]

    def _tokens(self, text: str) -> list[int]:
        return self._encode_texts([text])[0]

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _text(self, ids: list[int]) -> str:
        return self._decode([ids])[0]

    def _decode(self, ids: list[list[int]]) -> list[str]:
        return self._tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _max_tokens(self) -> int:
        config = self._model.config
        positions = getattr(config, "max_target_positions", None) or getattr(config, "max_position_embeddings", 448)
        return positions - len(self._prefix) - 1


class _RowsOver(StoppingCriteria):
    """Ends each row by itself, where `generate` ends all of a batch together."""

    def __init__(self, start: int, is_over: Callable[[int, list[int]], bool]) -> None:
        self._start, self._is_over = start, is_over

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        over = [self._is_over(row, ids) for row, ids in enumerate(input_ids[:, self._start :].tolist())]
        return torch.tensor(over, device=input_ids.device)


def with_positions(encoder: WhisperEncoder, num: int) -> WhisperEncoder:
    """The encoder for windows of `num` positions: the same weights, and the first ones of its table of positions.

    Its `forward` takes no window but the whole of its table.
    """
    if num == encoder.config.max_source_positions:
        return encoder
    shorter = copy.copy(encoder)
    table = nn.Embedding.from_pretrained(encoder.embed_positions.weight[:num], freeze=True)
    shorter._modules = {**encoder._modules, "embed_positions": table}
    shorter.config = copy.copy(encoder.config)
    shorter.config.max_source_positions = shorter.max_source_positions = num
    return shorter
