"""Answers questions about shoes; knows no platform and no trainer."""
