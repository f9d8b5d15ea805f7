"""Opening listeners by name: what a checkpoint is stands in its configuration."""

from shibolet.errors import ModelError
from shibolet.listen.protocols import Aligner, Recogniser
from shibolet.model.layouts import is_legacy
from shibolet.model.load import dtype_on, load_aligner, load_recogniser, read_config, weight_files


def open_aligner(name: str, *, device: str = "cpu") -> Aligner:
    """A Qwen3 forced aligner in either layout."""
    from shibolet.listen.qwen_aligner import QwenAligner

    return QwenAligner(load_aligner(name, dtype=dtype_on(device), device=device))


def open_recogniser(name: str, language: str, *, device: str = "cpu") -> Recogniser:
    """A Qwen3-ASR in either layout, or any CTC checkpoint of transformers."""
    path, config = read_config(name)
    if is_legacy(config) or config.get("model_type") == "qwen3_asr":
        from shibolet.listen.qwen_recogniser import QwenRecogniser

        return QwenRecogniser(load_recogniser(name, dtype=dtype_on(device), device=device), language)
    if any(kind.endswith("ForCTC") for kind in config.get("architectures") or []):
        from shibolet.listen.ctc import CtcRecogniser

        weight_files(name, path)
        return CtcRecogniser(path, device=device)
    raise ModelError(
        f"recogniser '{name}' is a {config.get('architectures')}; a Qwen3-ASR or a ...ForCTC checkpoint can listen"
    )
