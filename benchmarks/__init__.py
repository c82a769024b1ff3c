"""Measures speed, memory and quality. Not part of the installed pack."""
