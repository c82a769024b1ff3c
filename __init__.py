"""SANA-Video for ComfyUI. Importing this root imports nothing else: ComfyUI, pytest and the command line all
come through here, and none of them should pay for torch before it is needed."""
