"""The model, its stream, text, VAE and files. Runs without ComfyUI: what a host supplies is passed in."""
