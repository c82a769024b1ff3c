"""What a node shows of its results, imported as `ui`. SavedResult is a dict; previews have as_dict()."""

from pathlib import Path
from uuid import uuid4

import folder_paths
from PIL import Image


class SavedResult(dict):
    def __init__(self, filename, subfolder, type):
        super().__init__(filename=filename, subfolder=subfolder, type=type.value)


class PreviewVideo:
    def __init__(self, values, **_):
        self.shown = {"images": values, "animated": (True,)}

    def as_dict(self):
        return self.shown


class PreviewText(PreviewVideo):
    def __init__(self, value, **_):
        self.shown = {"text": (value,)}


class PreviewImage(PreviewVideo):
    def __init__(self, image, animated=False, cls=None, **_):
        """`image` [n, H, W, 3] in 0..1 becomes PNG files in the temp folder."""
        names = [f"preview_{uuid4().hex}.png" for _ in image]
        for name, pixels in zip(names, image.clamp(0, 1).mul(255).byte().cpu().numpy(), strict=True):
            Path(folder_paths.get_temp_directory()).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(f"{folder_paths.get_temp_directory()}/{name}")
        files = [{"filename": name, "subfolder": "", "type": "temp"} for name in names]
        self.shown = {"images": files, "animated": (animated,)}
