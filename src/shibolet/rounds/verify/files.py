"""Whether a model opens and its files go together; whether texts survive its tokenizer."""

from collections.abc import Sequence

import torch

from shibolet.model.family import LoadedModel, load_recogniser
from shibolet.model.folders import stored_types
from shibolet.model.protocols import Decoding, Prompt
from shibolet.rounds.verify.subject import Clip, Outcome, outcome


def check_files(model: str, device: str) -> tuple[Outcome, LoadedModel]:
    """The model in float32, and what its files say that models of the family do not."""
    loaded = load_recogniser(model, dtype=torch.float32, device=device)
    family, path = loaded.family, loaded.path
    config, layout = family.config_in(path)
    found = family.oddities(path)
    num = sum(weight.numel() for weight in loaded.model.parameters())
    encoder, decoder = (family.num_layers(loaded.model).get(tower, 0) for tower in ("encoder", "decoder"))
    head = "tied to the embeddings" if family.is_tied(loaded.model) else "of its own"
    stored = ", ".join(f"{count} in {dtype}" for dtype, count in sorted(stored_types(model, path).items()))
    good = (
        f"{family.title} in the {layout} layout: {num:,} weights ({stored}), {encoder} encoder and "
        f"{decoder} decoder layers, head {head}; none missing, none left over"
    )
    numbers = {"weights": num, "encoder_layers": encoder, "decoder_layers": decoder,
               "vocabulary": family.head(loaded.model).out_features,
               "max_positions": family.max_tokens(config)}  # fmt: skip
    faults = [one.sentence for one in found if one.is_fault]
    return outcome(faults, [one.sentence for one in found if not one.is_fault], good, numbers), loaded


def check_tokens(loaded: LoadedModel, language: str, clips: Sequence[Clip]) -> Outcome:
    """Texts to tokens and back."""
    prompt = Prompt(language)
    targets = loaded.family.targets(loaded.tokenizer, prompt)
    decoder = loaded.family.decoder(loaded, Decoding(prompt=prompt, clips_at_once=1))
    texts = [clip.text for clip in clips]
    ids = targets.encode(texts)
    changed = [number for number, (text, own) in enumerate(zip(texts, ids)) if decoder.text(own) != text.strip()]
    rows = loaded.family.head(loaded.model).out_features
    beyond = sum(token >= rows for own in ids for token in own)
    num_tokens, num_words = sum(map(len, ids)), sum(len(text.split()) for text in texts)
    faults = []
    if changed:
        faults.append(
            f"{len(changed)} of {len(texts)} texts come back changed from the tokenizer (the first is utterance "
            f"{changed[0] + 1}): it has no tokens for some of their letters, or is damaged"
        )
    if beyond:
        faults.append(f"{beyond} tokens of the texts have ids beyond the {rows} rows of the embeddings")
    numbers = {"texts": len(texts), "changed": len(changed), "tokens_per_word": round(num_tokens / num_words, 2),
               "tokens_before_a_text": targets.frame.num_prefix}  # fmt: skip
    good = f"{len(texts)} texts come back as they were; {num_tokens / num_words:.1f} tokens a word"
    return outcome(faults, [], good, numbers)
