"""The engines that share a Redis: heartbeats, takeovers, what each hosts, and what is put right where others have interfered."""
