"""Finds the system prompt that SANA-Video was trained with.

It belongs to the model's authors, so this repository doesn't contain it. It is read from files that a person
already has, and only a text with the right hash is taken. Source: NVlabs/Sana, `text_encoder.chi_prompt` of
the video configs (their name: complex human instruction, "CHI"); diffusers keeps the same text, except for
one pair of quotes, as a default argument of `SanaPipeline`.
"""

import ast
import hashlib
import importlib.util
import itertools
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

ORIGINAL_SHA256 = "62b9ab89eebb0ac5ee4d264bf96bf19d2b81f504bc3852500efeaf5a34d638b1"

# a config is a few kilobytes; larger yaml files are data, and slow to parse
_LARGEST_CONFIG = 1 << 20

logger = logging.getLogger("sana_video")


def find_system_prompt(near: Iterable[Path] = (), extra: Iterable[str] = ()) -> str | None:
    """The original's system prompt, from the first place that has it, or None.

    `extra` are a host's candidates (a checkpoint's metadata, a constant), `near` are folders whose yaml files
    are read. An installed diffusers comes last.
    """
    candidates = itertools.chain(extra, _from_yaml_files(near), _from_diffusers())
    return next((text for text in candidates if _is_original(text)), None)


def _is_original(text: object) -> bool:
    if not isinstance(text, str):
        return False
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() == ORIGINAL_SHA256


def _from_yaml_files(folders: Iterable[Path]) -> Iterator[str]:
    for folder in folders:
        for path in sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in (".yaml", ".yml")):
            try:
                text = _read_chi_prompt(path)
            except (OSError, ValueError, yaml.YAMLError) as error:
                logger.debug("No system prompt was read from %s: %s", path, error)
                continue
            if text is not None:
                yield text


def _read_chi_prompt(path: Path) -> str | None:
    """`text_encoder.chi_prompt` of one config: a list of lines that the original joins by newlines."""
    if path.stat().st_size > _LARGEST_CONFIG:
        return None
    source = path.read_text(encoding="utf-8")
    # most yaml files near a model are something else, and needn't be parsed
    if "chi_prompt" not in source:
        return None
    document = yaml.safe_load(source)
    section = document.get("text_encoder") if isinstance(document, dict) else None
    lines = section.get("chi_prompt") if isinstance(section, dict) else None
    if isinstance(lines, list) and all(isinstance(line, str) for line in lines):
        return "\n".join(lines)
    return None


def _from_diffusers() -> Iterator[str]:
    """The default of `SanaPipeline.__call__`, read from its source: importing diffusers takes seconds."""
    path = _diffusers_source()
    if path is None:
        return
    try:
        lines = _default_argument(
            ast.parse(path.read_text(encoding="utf-8")),
            "SanaPipeline",
            "__call__",
            "complex_human_instruction",
        )
        text = "\n".join(lines) if isinstance(lines, list) else ""
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        logger.debug("No system prompt was read from %s: %s", path, error)
        return
    # diffusers quotes this phrase differently from the video models' configs
    yield text.replace("'Enhanced prompt'", '"Enhanced prompt"')


def _diffusers_source() -> Path | None:
    try:
        spec = importlib.util.find_spec("diffusers")
    except ValueError:  # a stand-in module without a spec
        return None
    folders = spec.submodule_search_locations if spec is not None else None
    paths = (Path(folder) / "pipelines" / "sana" / "pipeline_sana.py" for folder in folders or ())
    return next((path for path in paths if path.is_file()), None)


def _default_argument(tree: ast.Module, class_name: str, method: str, argument: str) -> object:
    """The literal default of one argument of one method, or None if there isn't one."""
    functions = (
        function
        for owner in tree.body
        if isinstance(owner, ast.ClassDef) and owner.name == class_name
        for function in owner.body
        if isinstance(function, ast.FunctionDef) and function.name == method
    )
    for function in functions:
        positional = function.args.posonlyargs + function.args.args
        # Defaults belong to the last arguments, so both lists are read from their ends.
        for name, default in zip(reversed(positional), reversed(function.args.defaults), strict=False):
            if name.arg == argument:
                return ast.literal_eval(default)
    return None
