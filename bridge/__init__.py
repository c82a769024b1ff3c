"""Connects the core to ComfyUI's models, devices, progress and files. Imported when a node runs."""
