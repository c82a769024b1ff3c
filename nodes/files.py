"""Files that a node can pick: their names for the list, their paths, and errors if one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import folder_paths

from ..sana_video_core.errors import FileError, InputError, SanaVideoError
from ..sana_video_core.files.places import is_file, is_folder, visible_files
from ..sana_video_core.files.weight_names import SUFFIXES, refuse_part

DEMO = "demo (built in)"
STATES = "sana_states"  # under ComfyUI's output folder
CONFIG_START = 4096  # characters
# kinds that may be folders -> a file that such a folder has, down to a part of an author's pipeline
IN_FOLDERS = {
    "diffusion_models": tuple(f"{'*/' * depth}diffusion_pytorch_model*" for depth in (1, 2, 3)),
    "text_encoders": ("*/config.json", "*/text_encoder/config.json", "*/*/text_encoder/config.json"),
}


class Kind(NamedTuple):
    """One kind of model file: the folder under models/, what it is called, and where it is published."""

    folder: str
    what: str
    published: dict[str, str]  # by a part of a file's name, the first that is in it counts
    demo: str  # its name in a DemoSet
    also: tuple[str, ...] = ()  # more folders that may hold it

    @property
    def folders(self) -> tuple[str, ...]:
        return (self.folder, *self.also)

    @property
    def places(self) -> str:
        """Its folders, as a sentence names them."""
        return " or ".join(f"models/{folder}" for folder in self.folders)


TRANSFORMER = Kind(
    "diffusion_models",
    "a SANA-Video transformer",
    {
        "2.0": "version 2.0 is Efficient-Large-Model/SANA-Video_2.0_5B_720p on Hugging Face (50 steps), or "
        "SANA-Video_2.0_5B_720p_4step; in each the .pth file under checkpoints/",
        "": "LongSANA is Efficient-Large-Model/SANA-Video_2B_480p_LongLive on Hugging Face, the 50-step "
        "models are SANA-Video_2B_480p and SANA-Video_2B_720p there; in each the .pth under checkpoints/",
    },
    "transformer",
)
TEXT_ENCODER = Kind(
    "text_encoders",
    "the text encoder Gemma-2-2B-it",
    {
        "": "it is Comfy-Org/PixelDiT on Hugging Face, file "
        "text_encoders/gemma_2_2b_it_elm_bf16.safetensors, or the whole folder of google/gemma-2-2b-it"
    },
    "text_encoder",
)
VAE = Kind(
    "vae",
    "the model's VAE",
    {
        "ltx23": "LTX-2.3's for SANA-Video 2.0 is Kijai/LTX2.3_comfy on Hugging Face, file "
        "vae/LTX23_video_vae_bf16.safetensors",
        "ltx": "LTX-2's for 720p is Kijai/LTXV2_comfy on Hugging Face, file "
        "VAE/LTX2_video_vae_bf16.safetensors",
        "": "Wan 2.1's for 480p is Comfy-Org/Wan_2.1_ComfyUI_repackaged on Hugging Face, file "
        "split_files/vae/wan_2.1_vae.safetensors",
    },
    "vae",
    also=("vae_approx",),  # where ComfyUI has tiny decoders
)
LORA = Kind("loras", "a LoRA for SANA-Video", {"": "a file of your own"}, "")


def choices(kind: Kind) -> list[str]:
    """Names for a list: files that can be read, folders in Hugging Face layout, and the demo last."""
    files = [name for folder in kind.folders for name in folder_paths.get_filename_list(folder)]
    names = [name for name in dict.fromkeys(files) if name.lower().endswith(SUFFIXES)]
    names += [name for name in _model_folders(kind) if name not in names]
    return [*names, DEMO] if kind.demo else names


def _bases(kind: Kind) -> list[Path]:
    """Folders in which models of a kind lie; whole pipelines may also be where ComfyUI keeps diffusers'."""
    also = ("diffusers",) if kind.folder in IN_FOLDERS else ()
    return [Path(base) for folder in (kind.folder, *also) for base in folder_paths.get_folder_paths(folder)]


def _model_folders(kind: Kind) -> Iterator[str]:
    """Names of folders in Hugging Face layout that hold a model of this kind."""
    for base in _bases(kind):
        found: set[Path] = set()
        with suppress(OSError):  # a folder that we may not look into must not hide every node
            for pattern in IN_FOLDERS.get(kind.folder, ()):
                found |= {path.parent for path in base.glob(pattern)}
        for folder in sorted(found):
            if kind is TEXT_ENCODER or _may_be_ours(folder / "config.json"):
                yield folder.relative_to(base).as_posix()


def _may_be_ours(config: Path) -> bool:
    """Whether a config.json is of a SANA-Video transformer, or isn't there. Lists are asked for often."""
    try:
        with config.open(encoding="utf-8", errors="replace") as file:
            return '"SanaVideo' in file.read(CONFIG_START)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def path_of(kind: Kind, name: str) -> Path:
    """The path of a chosen file or folder. If there is none, FileError says where to get it."""
    if kind.demo and name == DEMO:
        from ..demo.model_set import demo_set

        return getattr(demo_set(), kind.demo)
    name = str(name)
    for spelled in dict.fromkeys((name, name.replace("\\", "/"))):  # a workflow from Windows
        if not spelled or ".." in Path(spelled).parts or Path(spelled).is_absolute():
            raise FileError(f"“{name}” isn't the name of a file in {kind.places}. Choose one from the list.")
        files = (folder_paths.get_full_path(folder, spelled) for folder in kind.folders)
        path = next(filter(None, files), None) or _folder_of(kind, spelled)
        if path is not None:
            refuse_part(Path(path))
            return Path(path)
    raise FileError(_missing(kind, name))


def _folder_of(kind: Kind, name: str) -> Path | None:
    """A folder in Hugging Face layout; for a transformer also a whole diffusers pipeline."""
    for folder in (base / name for base in _bases(kind) if kind.folder in IN_FOLDERS):
        if not is_folder(folder):
            continue
        whole = kind is TRANSFORMER and is_folder(folder / "transformer")
        marks = (pattern.rpartition("/")[2] for pattern in IN_FOLDERS[kind.folder])
        if whole or any(next(folder.glob(mark), None) for mark in marks):
            return folder
    return None


def _missing(kind: Kind, name: str) -> str:
    published = next(words for part, words in kind.published.items() if part in name.lower())
    return (
        f"“{name}” ({kind.what}) is not in ComfyUI's folder {kind.places}. "
        f"Put it there ({published}), "
        + (
            "press R to refresh the lists, or choose “demo (built in)”."
            if kind.demo
            else "and press R to refresh the lists."
        )
    )


def sentence(ask: Callable[..., object], *arguments: Any) -> bool | str:
    """For `validate_inputs`: True, or the message of what `ask` raised."""
    try:
        ask(*arguments)
    except SanaVideoError as error:
        return str(error)
    return True


def check(kind: Kind, name: str | None) -> bool | str:
    """For `validate_inputs`: True if the file is there, else what to do."""
    known = name is None or (kind.demo and name == DEMO)  # None: linked, so not known yet
    return True if known else sentence(path_of, kind, name)


def saved_states() -> list[str]:
    """States in output/sana_states and input, under ComfyUI's annotated names, newest first."""
    names: list[tuple[float, str]] = []
    places = (
        (folder_paths.get_output_directory(), STATES, "output"),
        (folder_paths.get_input_directory(), "", "input"),
    )
    for root, folder, kind in places:
        for path in visible_files(Path(root, folder)):
            if path.suffix == ".safetensors":
                with suppress(OSError):  # deleted meanwhile, or a broken link
                    names.append((path.stat().st_mtime, f"{path.relative_to(root).as_posix()} [{kind}]"))
    return [name for _, name in sorted(names, reverse=True)]


def saved_state(name: str) -> Path:
    """The path of a name from `saved_states`. Raises FileError if it is gone or outside of these folders."""
    name = str(name)
    for spelled in dict.fromkeys((name, name.replace("\\", "/"))):  # a workflow from Windows
        try:
            path = Path(folder_paths.get_annotated_filepath(spelled))
        except ValueError as error:
            raise FileError(
                f"“{name}” is outside of ComfyUI's output and input folders. Choose a state from the list."
            ) from error
        if is_file(path):
            return path
    raise FileError(
        f"There is no saved state “{name}”. "
        f"Save State writes them to output/{STATES}; press R to refresh the list."
    )


@contextmanager
def new_file(prefix: str, suffix: str) -> Iterator[Path]:
    """A new, numbered name in ComfyUI's output folder, held against other processes in the block.

    Raises InputError if the prefix leads out of it, FileError if no file can be there.
    """
    from ..sana_video_core.files.claims import first_free

    root = Path(folder_paths.get_output_directory()).resolve()
    try:
        place = (root / prefix).resolve()
        if not prefix.strip() or place == root or not place.is_relative_to(root):
            raise InputError(
                f"“{prefix}” does not name a file in ComfyUI's output folder. Try {STATES}/state."
            )
        folder, name, first, _, _ = folder_paths.get_save_image_path(prefix, str(root))
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a file where a folder should be, a circle of links
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"“{prefix}” cannot be written ({reason}). Try {STATES}/state.") from error
    with first_free(Path(folder, f"{name}_{number:05}_{suffix}") for number in count(first)) as path:
        yield path


def subfolder_of(path: Path) -> str:
    """Where a file in ComfyUI's output folder lies in it, as the page asks for it."""
    return path.parent.relative_to(Path(folder_paths.get_output_directory()).resolve()).as_posix()


def check_prefix(prefix: str, suffix: str = ".safetensors") -> None:
    """Raises InputError or FileError unless a new file of this prefix can be written: it is tried."""
    with new_file(prefix, suffix):
        pass


def state_prefix(prefix: str) -> str:
    """A prefix under `STATES`, where Load State looks. If it leads elsewhere, `new_file` refuses it."""
    parts = Path(prefix.strip()).parts
    elsewhere = not parts or ".." in parts or Path(prefix).is_absolute()
    return prefix if elsewhere or (parts[0] == STATES and len(parts) > 1) else f"{STATES}/{prefix.strip()}"


def temporary_file(suffix: str) -> Path:
    """A new name in ComfyUI's temp folder, which ComfyUI empties when it starts. Raises FileError."""
    from ..sana_video_core.files.atomic import make_folder

    folder = Path(folder_paths.get_temp_directory())
    make_folder(folder)
    return folder / f"sana_video_{uuid4().hex}{suffix}"
