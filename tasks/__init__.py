"""What is done: one step a module; `ls tasks` is the pipeline."""
