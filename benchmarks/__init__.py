"""One measured question a file; `harness.py` holds what they share."""
