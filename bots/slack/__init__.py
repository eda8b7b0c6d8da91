"""Slack: what is said there, and how answers are shown there."""
