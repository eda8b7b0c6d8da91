"""Telegram: its updates become messages and verdicts, and answers become its messages."""
