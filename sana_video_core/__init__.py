"""SANA-Video without ComfyUI: model, streams, text, VAE and files. What a host supplies is passed in."""
