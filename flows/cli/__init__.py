"""The `psavlm` command, one small file per group of sub-commands."""
