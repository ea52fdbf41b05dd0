"""Features to one prediction per objective, and predictions to one score."""
