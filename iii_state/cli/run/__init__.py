"""The commands that run a state module: `iii-state serve` and `iii-state attach`."""
