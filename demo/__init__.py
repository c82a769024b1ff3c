"""The demo's models, and what writes others of their kind."""
