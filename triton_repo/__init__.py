"""Plan, ranker and blend to a Triton model repository, its server and its client."""
