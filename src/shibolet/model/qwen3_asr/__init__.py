"""The only room that knows Qwen3-ASR: layouts, parts, prompt, features, packed attention, decoding, adapters."""
