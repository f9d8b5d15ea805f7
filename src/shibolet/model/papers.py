"""The paper of each model family, for pages that load no model."""

PAPERS = {  # by model_type of config.json
    "qwen3_asr": "Qwen3-ASR Technical Report, 2026, arXiv:2601.21337",
    "whisper": "Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022, arXiv:2212.04356",
}
