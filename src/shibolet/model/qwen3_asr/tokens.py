"""The tokenizer of a folder by the library `tokenizers` alone: what a prompt asks of it, where no model is loaded."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from shibolet.model.folders import opening


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

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)
