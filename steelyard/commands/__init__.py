"""The commands, grouped by what they work on: logs, training, serving."""
