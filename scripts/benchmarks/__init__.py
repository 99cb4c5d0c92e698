"""The benchmark: how fast the engine answers, beside the least that a Python host can do."""
