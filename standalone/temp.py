"""What stands for ComfyUI's temp folder: one of this process alone, which is gone when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..sana_video_core.files.atomic import make_folder, written
from ..sana_video_core.files.hidden import hidden_folder


@contextmanager
def own_temp() -> Iterator[None]:
    """In the block, ComfyUI's temp folder is a folder of ours in it.

    Others may live: a ComfyUI on the same base folder, or another command. What killed commands left is
    removed. Raises FileError.
    """
    import folder_paths

    shared = Path(folder_paths.get_temp_directory())
    with ExitStack() as stack:
        make_folder(shared)
        stack.callback(_remove_if_empty, shared)
        with written(shared):
            own = stack.enter_context(hidden_folder(shared / "sana_video"))
        stack.callback(folder_paths.set_temp_directory, str(shared))
        folder_paths.set_temp_directory(str(own))
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
