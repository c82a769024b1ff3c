"""The demo's models, and code that writes others like them."""
