"""Tokens of texts, of any family: markup in a text stays text, and a plan reads a tokenizer without transformers."""

import re
from collections.abc import Sequence
from itertools import chain, islice, pairwise
from pathlib import Path
from threading import Lock
from typing import Any

from tokenizers import Tokenizer

from shibolet.model.folders import from_folder, opening

_SETTING = Lock()  # a tokenizer that another thread encodes with cannot be changed: whoever comes later need not


class PlainTokenizer:
    """A `tokenizer.json` under the names of transformers' tokenizers, with the same ids."""

    unk_token_id = None

    def __init__(self, folder: Path) -> None:
        with opening(folder):
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.added_tokens_decoder = self._tokenizer.get_added_tokens_decoder()

    def __call__(
        self, text: str | Sequence[str], *, add_special_tokens: bool, split_special_tokens: bool = False
    ) -> dict[str, list]:
        """The ids of one text, or of each; split, a special token in a text is none."""
        self._tokenizer.encode_special_tokens = split_special_tokens
        texts = [text] if isinstance(text, str) else list(text)
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        ids = [one.ids for one in found]
        return {"input_ids": ids[0] if isinstance(text, str) else ids}

    def get_vocab(self) -> dict[str, int]:
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)


def tokenizer_in(folder: Path) -> Any | None:
    """The tokenizer of a folder, as `encode_plain` takes it; None where it has none."""
    if (folder / "tokenizer.json").is_file():
        return PlainTokenizer(folder)
    if not all((folder / file).is_file() for file in ("vocab.json", "merges.txt")):
        return None
    from transformers import AutoTokenizer  # it alone knows how these two are put together

    return from_folder(AutoTokenizer, folder)


def encode_plain(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text, its markup split into letters.

    The library splits the tokens that are marked special. The others (Qwen3-ASR's `<asr_text>`, the times of Whisper
    large-v3) are cut behind their first letter.
    """
    others = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    starts = re.compile("|".join(f"{re.escape(name[0])}(?={re.escape(name[1:])})" for name in others) or r"(?!)")
    cuts = [[0, *(found.end() for found in starts.finditer(text)), len(text)] for text in texts]
    pieces = [text[a:b] for text, at in zip(texts, cuts, strict=True) for a, b in pairwise(at)]
    ids = iter(_ids_of(tokenizer, pieces))
    return [list(chain.from_iterable(islice(ids, len(at) - 1))) for at in cuts]


def _ids_of(tokenizer: Any, pieces: list[str]) -> list[list[int]]:
    """As the library gives them, which makes masks and offsets too and holds up other threads meanwhile."""
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is None:
        return tokenizer(pieces, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    with _SETTING:
        if not backend.encode_special_tokens:
            backend.encode_special_tokens = True
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.padding is not None:
            backend.no_padding()
    return [one.ids for one in backend.encode_batch_fast(pieces, add_special_tokens=False)]
