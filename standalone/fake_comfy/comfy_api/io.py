"""Sockets, widgets and nodes of the V3 API, imported as `io`.

A type is one line: its name, and the parameters of its Input in the real order. Only what reaches
/object_info is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class FolderType(str, Enum):
    input, output, temp = "input", "output", "temp"


class ControlAfterGenerate(str, Enum):
    fixed, increment, decrement, randomize = "fixed", "increment", "decrement", "randomize"


class NumberDisplay(str, Enum):
    number, slider, gradient_slider = "number", "slider", "gradientslider"


class UploadType(str, Enum):
    image, audio, video, model = "image_upload", "audio_upload", "video_upload", "file_upload"


class Hidden(str, Enum):
    unique_id, prompt, extra_pnginfo = "UNIQUE_ID", "PROMPT", "EXTRA_PNGINFO"


HEAD, TAIL = "display_name optional tooltip lazy", "extra_dict raw_link advanced"
NUMBER, WIDGET = f"{HEAD} default min max step", f"socketless force_input {TAIL}"
CHOICE = f"options {HEAD} default control_after_generate upload image_folder remote socketless {TAIL}"
JSON_NAMES = {"raw_link": "rawLink", "force_input": "forceInput"}
JSON_NAMES |= {"display_mode": "display", "dynamic_prompts": "dynamicPrompts"}


class Input:
    io_type, names, always = "", f"{HEAD} {TAIL}", {}

    def __init__(self, id: str, *values: Any, **options: Any) -> None:
        arguments = dict(zip(self.names.split(), values, strict=False)) | options
        if unknown := set(arguments) - set(self.names.split()):
            raise TypeError(f"The {self.io_type} input “{id}” takes no {', '.join(sorted(unknown))}.")
        self.id, self.optional = id, bool(arguments.pop("optional", False))
        self.tooltip = arguments.pop("tooltip", None)
        self.arguments = self.always | arguments
        self.extra_dict = self.arguments.pop("extra_dict", None) or {}

    def as_dict(self) -> dict[str, Any]:
        entries = {"tooltip": self.tooltip}
        for name, value in self.arguments.items():
            if isinstance(value, type) and issubclass(value, Enum):
                value = [member.value for member in value]
            value = value.value if isinstance(value, Enum) else value
            is_upload = name == "upload" and value is not None
            entries[str(value) if is_upload else JSON_NAMES.get(name, name)] = True if is_upload else value
        return {name: value for name, value in (entries | self.extra_dict).items() if value is not None}


class Output:
    io_type = ""

    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False) -> None:
        self.id, self.display_name = id, display_name or id
        self.tooltip, self.is_output_list = tooltip, is_output_list


def Custom(io_type: str, names: str = Input.names, **always: Any) -> Any:  # noqa: N802  names are ComfyUI's
    members = {"io_type": io_type, "names": names, "always": always}
    sockets = {"Input": type("Input", (Input,), members), "Output": type("Output", (Output,), members)}
    return type(io_type, (), {"io_type": io_type, "Type": Any, **sockets})


class MultiType:
    class Input(Input):
        names = f"types {HEAD} {TAIL}"

        def __init__(self, id: str, *values: Any, **options: Any) -> None:
            super().__init__(id, *values, **options)
            self.io_type = ",".join(dict.fromkeys(kind.io_type for kind in self.arguments.pop("types")))


Int = Custom("INT", f"{NUMBER} control_after_generate display_mode {WIDGET}")
Float = Custom("FLOAT", f"{NUMBER} round display_mode gradient_stops {WIDGET}")
Boolean = Custom("BOOLEAN", f"{HEAD} default label_on label_off {WIDGET}")
String = Custom("STRING", f"{HEAD} multiline placeholder default dynamic_prompts {WIDGET}", multiline=False)
Combo, AnyType = Custom("COMBO", CHOICE, multiselect=False), Custom("*")
Model, Clip, Vae, Conditioning = Custom("MODEL"), Custom("CLIP"), Custom("VAE"), Custom("CONDITIONING")
Latent, Image, Mask, Video = Custom("LATENT"), Custom("IMAGE"), Custom("MASK"), Custom("VIDEO")
Sigmas, Noise, Audio = Custom("SIGMAS"), Custom("NOISE"), Custom("AUDIO")


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    hidden: list[Any] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    is_api_node: bool = False
    price_badge: Any = None
    not_idempotent: bool = False
    enable_expand: bool = False
    accept_all_inputs: bool = False
    essentials_category: str | None = None
    has_intermediate_output: bool = False


class NodeOutput:
    def __init__(
        self, *args: Any, ui: Any = None, expand: Any = None, block_execution: str | None = None
    ) -> None:
        self.args, self.result, self.ui = args, args or None, ui
        self.expand, self.block_execution = expand, block_execution

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class ComfyNode:
    """validate_inputs, fingerprint_inputs and check_lazy_status exist only on nodes that define them."""

    define_schema: Any
    execute: Any
    hidden: Any = None  # of the node that runs; see executor.py
    RELATIVE_PYTHON_MODULE: str | None = None  # set by whoever loads the pack

    @classmethod
    def GET_SCHEMA(cls) -> Schema:  # noqa: N802
        schema = cls.define_schema()
        for ids in (
            [entry.id for entry in sockets if entry.id] for sockets in (schema.inputs, schema.outputs)
        ):
            if len(set(ids)) != len(ids):
                raise ValueError(f"{schema.node_id} has an id twice: {ids}.")
        implied = (Hidden.prompt, Hidden.extra_pnginfo) if schema.is_output_node else ()
        schema.hidden = [*schema.hidden, *(entry for entry in implied if entry not in schema.hidden)]
        return schema

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:  # noqa: N802
        """What /object_info says of this node."""
        schema, inputs = cls.GET_SCHEMA(), {"required": {}}
        for entry in schema.inputs:
            kind = inputs.setdefault("optional" if entry.optional else "required", {})
            kind[entry.id] = [entry.io_type, entry.as_dict()]
        if schema.hidden:
            inputs["hidden"] = {entry.name: [entry.value] for entry in schema.hidden}
        same = (
            "display_name",
            "description",
            "category",
            "is_input_list",
            "price_badge",
            "essentials_category",
        )
        flags = ("deprecated", "experimental", "dev_only", "api_node", "output_node")
        return {
            **{name: getattr(schema, name) for name in (*same, "has_intermediate_output")},
            **{name: getattr(schema, f"is_{name}") for name in flags},
            "input": inputs,
            "input_order": {kind: list(entries) for kind, entries in inputs.items()},
            "output": [output.io_type for output in schema.outputs],
            "output_is_list": [output.is_output_list for output in schema.outputs],
            "output_name": [output.display_name or output.io_type for output in schema.outputs],
            "output_tooltips": [output.tooltip or None for output in schema.outputs],
            "output_matchtypes": None,
            "name": schema.node_id,
            "python_module": cls.RELATIVE_PYTHON_MODULE,
            "search_aliases": schema.search_aliases or None,
        }
