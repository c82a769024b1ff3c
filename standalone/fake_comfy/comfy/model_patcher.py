"""The MODEL on a socket. This one only moves a module; it patches no weights."""

from operator import attrgetter
from typing import Any
from uuid import uuid4

from .patcher_extension import merge_nested_dicts


class ModelPatcher:
    def __init__(self, model, load_device, offload_device, size=0):
        self.model, self.load_device, self.offload_device, self.size = (
            model,
            load_device,
            offload_device,
            size,
        )
        self.model_options = {"transformer_options": {}}
        self.wrappers, self.patches, self.object_patches, self.attachments = {}, {}, {}, {}
        self.patches_uuid, self.parent = uuid4(), None
        self.cached_patcher_init: Any = None  # how to load the model again

    def clone(self):
        """Another patcher of the same module; neither sees what is added to the other."""
        new = type(self)(self.model, self.load_device, self.offload_device, self.size)
        for name in ("model_options", "wrappers", "patches", "object_patches", "attachments"):
            setattr(new, name, merge_nested_dicts(getattr(self, name), {}))
        new.patches_uuid, new.cached_patcher_init, new.parent = (
            self.patches_uuid,
            self.cached_patcher_init,
            self,
        )
        return new

    def is_dynamic(self):
        return False

    def memory_required(self, input_shape):
        return self.model.memory_required(input_shape=input_shape)

    def add_wrapper_with_key(self, wrapper_type, key, wrapper):
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def get_model_object(self, name):
        return self.object_patches[name] if name in self.object_patches else attrgetter(name)(self.model)

    def set_attachments(self, key, attachment):
        self.attachments[key] = attachment

    def get_attachment(self, key):
        return self.attachments.get(key)


CoreModelPatcher = ModelPatcher
