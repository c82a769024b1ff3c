"""ComfyUI's page in a browser, over the engine."""
