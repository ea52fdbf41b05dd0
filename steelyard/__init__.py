"""The command line, and the pipeline that joins features, ranker and serving."""
