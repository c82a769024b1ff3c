"""ComfyUI's page in a browser, served by the engine."""
