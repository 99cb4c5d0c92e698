"""What operators see of a process: its metrics, and its log as JSON."""
