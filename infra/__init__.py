"""Where the pipeline touches the world: storage and clusters."""
