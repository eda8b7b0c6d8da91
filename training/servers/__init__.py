"""OpenAI-compatible servers that can change LoRA adapters while they run."""
