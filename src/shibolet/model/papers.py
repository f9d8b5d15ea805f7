"""The paper of each model family, for pages that load no model."""

PAPERS = {"qwen3_asr": "Qwen3-ASR Technical Report, 2026, arXiv:2601.21337"}  # by model_type of config.json
