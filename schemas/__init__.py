"""Plain data: what a row, a config, an artifact and a report are."""
