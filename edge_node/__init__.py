"""The edge: receives intermediate data, runs the tail, replies; cuts and keeps models."""
