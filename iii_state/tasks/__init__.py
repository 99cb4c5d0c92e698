"""Tasks, timers and results of calls: owned, bounded, closable."""
