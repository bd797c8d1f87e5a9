"""Continuous batching: requests, the scheduler that writes their texts, and an engine that runs it
in a thread."""
