"""In what order things are done: the flows and the command line."""
