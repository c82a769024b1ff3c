"""Draws scenes, and trains the demo model on them. Not part of the installed pack."""
