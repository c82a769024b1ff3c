"""Scenes that we draw ourselves, and the training of the demo model on them. Not part of the installed pack."""
