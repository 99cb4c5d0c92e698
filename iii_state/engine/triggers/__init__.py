"""Trigger types and triggers of an engine."""
