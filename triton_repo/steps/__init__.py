"""The thin Triton adapters of the three serving steps."""
