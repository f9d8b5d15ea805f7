"""A transcription server for a page, a phone or a script: OpenAI's endpoint over the decoder of `transcribe`."""
