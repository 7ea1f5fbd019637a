"""Looking inside a trained network (section 6.1): figures and the report of a run."""
