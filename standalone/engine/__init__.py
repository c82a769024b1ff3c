"""Runs a workflow: its file, its graph, its nodes."""
