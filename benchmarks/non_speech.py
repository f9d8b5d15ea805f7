"""What models write where nobody speaks, and how often they repeat the names in their prompt there.

    python benchmarks/non_speech.py MODEL [MODEL ...] --language English --terms names.txt [--foreign MANIFEST]

Each model hears the clips of `evaluate.non_speech` (silence, noise, music and breathing made from code), and speech in
another language where a manifest of it is named, without a context and with the terms. Prints a line of JSON a model:
words a minute and echoes of each kind.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory


def foreign(manifest: Path, num: int) -> list:
    """The first utterances of a manifest as clips of speech in another language."""
    from shibolet.records.files import cache_dir
    from shibolet.speech.read import read_source
    from shibolet.speech.sources import DataSource

    utterances, _ = read_source(DataSource(name="foreign", manifest=manifest), cache_dir())
    return [replace(one, source="foreign speech") for one in utterances[:num]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--language", required=True)
    parser.add_argument("--terms", type=Path, required=True, help="a term a line")
    parser.add_argument("--foreign", type=Path, help="a manifest of speech in another language")
    parser.add_argument(
        "--clips", type=int, default=4, help="of each kind that is made, and at most four times of others"
    )
    args = parser.parse_args()

    from shibolet.evaluate.config import EvaluateConfig, NonSpeechConfig
    from shibolet.evaluate.non_speech import hear_non_speech, made_clips
    from shibolet.listen.open import listener_identity, open_transcriber
    from shibolet.records.candidate import named
    from shibolet.speech.text.terms import read_terms

    config = EvaluateConfig(non_speech=NonSpeechConfig(clips_per_kind=args.clips))
    others = foreign(args.foreign, 4 * args.clips) if args.foreign else []
    with TemporaryDirectory() as scratch:
        clips = [*made_clips(config.non_speech, Path(scratch)), *others]
        for model in args.models:
            made = hear_non_speech(
                lambda told, model=model: open_transcriber(model, args.language, **config.engine_settings("", told)),
                clips,
                is_speech=["foreign speech"] if others else [],
                context=read_terms(args.terms),
                language=args.language,
                config=config,
                named=named(Path(model).name.replace(":", " ")),
                identity=listener_identity(model),
            )
            kinds = {
                name: {"words_per_minute": kind.words_per_minute, "with_words": kind.with_words,
                       "echoes": kind.echoes, "clips": kind.clips}
                for name, kind in made.kinds.items()
            }  # fmt: skip
            print(json.dumps({"model": made.title, "kinds": kinds, "sentence": made.sentence}), flush=True)


if __name__ == "__main__":
    main()
