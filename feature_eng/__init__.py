"""Logs to features."""
