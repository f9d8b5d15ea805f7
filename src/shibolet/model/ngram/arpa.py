"""The n-gram as an ARPA file, which KenLM, SRILM and others read and write: tokens stand as the tokenizer's pieces."""

import math
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from shibolet.errors import DataError, ModelError
from shibolet.model.ngram.table import Ngram, NgramOrder
from shibolet.records.files import open_regular, writing

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
MAX_ORDER = 6
LN10 = math.log(10)


def write_arpa(ngram: Ngram, pieces: Mapping[str, int], path: Path) -> None:
    """Write an n-gram; `pieces` are a tokenizer's, with their ids. DataError where ARPA has another use for a piece."""
    names: dict[int, str] = {id: piece for piece, id in pieces.items()}
    names |= {ngram.begin_id: BEGIN, ngram.end_id: END}
    for piece in (BEGIN, END, UNKNOWN):
        if (id := pieces.get(piece)) not in (None, ngram.end_id) and id in ngram.orders[0].token:
            raise DataError(f"the text has the token '{piece}', which an ARPA file keeps for itself; take it out")
    with writing(path) as file:
        sizes = [len(order.token) for order in ngram.orders]
        sizes[0] += 1
        head = "".join(f"ngram {k}={size}\n" for k, size in enumerate(sizes, 1))
        file.write(f"\\data\\\n{head}".encode())
        above = [""]
        for k, order in enumerate(ngram.orders, 1):
            file.write(f"\n\\{k}-grams:\n".encode())
            if k == 1:
                file.write(f"{ngram.unknown_logp / LN10:.7g}\t{UNKNOWN}\t0\n".encode())
            texts = [f"{above[at]} {names[token]}".lstrip() for at, token in zip(order.prefix, order.token.tolist())]
            is_last = k == len(ngram.orders)
            for text, logp, backoff in zip(texts, order.logp / LN10, order.backoff / LN10):
                file.write(f"{logp:.7g}\t{text}{'' if is_last else f'{chr(9)}{backoff:.7g}'}\n".encode())
            above = texts
        file.write(b"\n\\end\\\n")


def read_arpa(path: Path, pieces: Mapping[str, int], vocab_size: int, end_id: int) -> Ngram:
    """The n-gram of a file; `vocab_size` is of the model, which may have more ids than its tokenizer pieces.

    DataError for what is no whole ARPA file; ModelError where its tokens are those of another tokenizer.
    """
    ids = {**pieces, BEGIN: vocab_size, END: end_id}
    orders: list[NgramOrder] = []
    unknown: float | None = None
    lines = _lines(path)
    sizes = _sizes(path, lines)
    for k, size in enumerate(sizes, 1):
        tokens, logps = np.empty((size, k), np.int64), np.empty((size, 2))
        for i in range(size):
            number, line = next(lines, (0, ""))
            fields = line.split()
            if len(fields) not in (k + 1, k + 2):
                raise DataError(f"{path}: line {number or 'after the last'} should be one of {size:,} {k}-grams")
            said = fields[1 : k + 1]
            try:
                # Other tools may have n-grams of <unk>: they belong to no token, and nothing is asked of them.
                tokens[i] = [-1 if piece == UNKNOWN else ids[piece] for piece in said]
                logps[i] = float(fields[0]), float(fields[k + 1]) if len(fields) == k + 2 else 0.0
                unknown = logps[i, 0] * LN10 if said == [UNKNOWN] else unknown
            except KeyError as error:
                raise ModelError(
                    f"{path}, line {number}: {error} is not a token of this model; an n-gram belongs to the tokenizer "
                    "that it was made with: make one for this model with 'shibolet ngram'"
                ) from None
            except ValueError:
                raise DataError(f"{path}, line {number}: a log-probability is not a number") from None
        orders.append(_sorted(path, orders, tokens, logps * LN10, vocab_size, end_id))
        _expect(path, lines, f"\\{k + 1}-grams:" if k < len(sizes) else "\\end\\")
    if unknown is None:
        raise DataError(f"{path} has no {UNKNOWN}, so it has no probability for tokens that its text lacked")
    return Ngram.of(vocab_size, end_id, orders, unknown)


def strange_token(path: Path, pieces: Mapping[str, int]) -> str | None:
    """A token of a file that a tokenizer with these pieces lacks; None where `read_arpa` knows all of them.

    DataError for what is no ARPA file.
    """
    lines, known = _lines(path), {*pieces, BEGIN, END, UNKNOWN}
    said = (line.split()[1:2] for _, line in islice(lines, _sizes(path, lines)[0]))
    return next((token for fields in said for token in fields if token not in known), None)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without the blank ones."""
    try:
        with open_regular(path) as file:
            for number, line in enumerate(file, 1):
                if line := line.decode().strip(" \t\r\n"):
                    yield number, line
    except OSError as error:
        raise DataError(f"the n-gram {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8, so it is not an ARPA file that 'shibolet ngram' has made") from error


def _sizes(path: Path, lines: Iterator[tuple[int, str]]) -> list[int]:
    """How many n-grams each order has; the heading of the first order has been read then."""
    _expect(path, lines, "\\data\\")
    sizes: list[int] = []
    for _, line in lines:
        if line == "\\1-grams:":
            break
        name, _, size = line.partition("=")
        if name.split() != ["ngram", str(len(sizes) + 1)] or not size.strip().isdecimal():
            raise DataError(f"{path}: '{line[:80]}' should say how many n-grams an order has, as 'ngram 2=1000'")
        sizes.append(int(size))
    if not 1 <= len(sizes) <= MAX_ORDER or not all(sizes) or sum(sizes) > path.stat().st_size:
        raise DataError(f"{path} is not an ARPA file of 1 to {MAX_ORDER} orders, each with n-grams")
    return sizes


def _expect(path: Path, lines: Iterator[tuple[int, str]], wanted: str) -> None:
    number, line = next(lines, (0, "the end of the file"))
    if line != wanted:
        raise DataError(
            f"{path}: '{wanted}' should stand where '{line[:80]}' is{f' (line {number})' if number else ''}"
        )


def _sorted(
    path: Path, below: list[NgramOrder], tokens: np.ndarray, logps: np.ndarray, vocab_size: int, end_id: int
) -> NgramOrder:
    """An order of n-grams `[M, k]`, put in order; DataError where one goes on from an n-gram that is not there."""
    keep = (tokens >= 0).all(axis=1)
    if not np.isfinite(logps).all():
        raise DataError(f"{path}: a log-probability of order {tokens.shape[1]} is not finite")
    tokens, logps = tokens[keep], logps[keep]
    prefix = np.zeros(len(tokens), np.int64)
    if below:
        known = Ngram.of(vocab_size, end_id, below, 0.0)
        for k in range(tokens.shape[1] - 1):
            prefix = known.find(k, prefix, tokens[:, k])
        if (prefix < 0).any():
            raise DataError(f"{path}: an n-gram of order {tokens.shape[1]} goes on from one that order lacks")
    keys = prefix * (vocab_size + 1) + tokens[:, -1]
    order = np.argsort(keys, kind="stable")
    if any(a == b for a, b in pairwise(keys[order].tolist())):
        raise DataError(f"{path}: an n-gram of order {tokens.shape[1]} occurs twice")
    return NgramOrder(prefix[order], tokens[order, -1], logps[order, 0], logps[order, 1])
