"""Logs to features."""

import warnings

# Merlin says at import, on every machine without TensorFlow, that it found none
warnings.filterwarnings("ignore", message=".*Tensorflow dtype mappings.*")
