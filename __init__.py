"""SANA-Video for ComfyUI. Importing this root imports nothing else: ComfyUI, pytest and the command line all
come through here, and none of them should pay for torch before it is needed."""

WEB_DIRECTORY = "web"  # help pages, and what ComfyUI's page loads of ours


async def comfy_entrypoint():
    """What ComfyUI calls for our nodes."""
    import logging

    try:
        from .nodes import SanaVideoExtension
    except Exception:
        logging.getLogger("sana_video").exception(
            "SANA-Video's nodes could not be loaded."
        )  # ComfyUI shows no traceback
        raise
    return SanaVideoExtension()
