"""ComfyUI's models, devices, progress and files in the core's terms.

Imported by a node when it runs, not before.
"""
