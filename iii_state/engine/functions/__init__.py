"""The functions of an engine: who serves each of them, and how Python callables do."""
