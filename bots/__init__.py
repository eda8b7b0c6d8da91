"""Translate between people and the engine: the web, an HTTP API, the terminal, chat platforms."""
