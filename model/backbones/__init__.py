"""The families of base models, one file each; `registry` finds the class of a configuration."""
