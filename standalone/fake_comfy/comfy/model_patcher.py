"""The MODEL on a socket: it moves a module, and gives it the weights and objects of one clone at a time."""

from operator import attrgetter
from typing import Any
from uuid import uuid4

from torch import nn

from .lora import calculate_weight
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
        self.backup = {}  # what a loaded clone replaced in the module; all clones share it
        self.patches_uuid, self.parent = uuid4(), None
        self.cached_patcher_init: Any = None  # how to load the model again

    def clone(self):
        """Another patcher of the same module; neither sees what is added to the other."""
        new = type(self)(self.model, self.load_device, self.offload_device, self.size)
        for name in ("model_options", "wrappers", "patches", "object_patches", "attachments"):
            setattr(new, name, merge_nested_dicts(getattr(self, name), {}))
        new.backup, new.patches_uuid, new.cached_patcher_init, new.parent = (
            self.backup,
            self.patches_uuid,
            self.cached_patcher_init,
            self,
        )
        return new

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0):
        """`patches`: a weight's key, alone or with (0, first row, count) -> what calculate_weight takes."""
        for target, patch in patches.items():
            key, rows = (target, None) if isinstance(target, str) else target
            listed = self.patches.setdefault(key, [])
            listed.append((strength_patch, patch, strength_model, rows, None))
        self.patches_uuid = uuid4()

    def patch_model(self, device_to):
        """Move the module, with this clone's weights and objects in place of another's."""
        if getattr(self.model, "current_weight_patches_uuid", None) != self.patches_uuid:
            self.unpatch_model(self.offload_device)
            for key, patches in self.patches.items():
                weight = calculate_weight(patches, self.get_model_object(key), key)
                self._replace(key, nn.Parameter(weight, requires_grad=False))
            for key, value in self.object_patches.items():
                self._replace(key, value)
            self.model.current_weight_patches_uuid = self.patches_uuid
        self.model.to(device_to)

    def unpatch_model(self, device_to):
        """Move the module, with its own weights and objects."""
        self.model.to(device_to)
        while self.backup:
            self._set(*self.backup.popitem())
        self.model.current_weight_patches_uuid = None

    def _replace(self, key, value):
        self.backup.setdefault(key, attrgetter(key)(self.model))
        self._set(key, value)

    def _set(self, key, value):
        owner, _, leaf = key.rpartition(".")
        setattr(attrgetter(owner)(self.model) if owner else self.model, leaf, value)

    def is_dynamic(self):
        return False

    def model_size(self):
        return sum(tensor.nbytes for tensor in self.model.state_dict().values())

    def loaded_size(self):
        return sum(t.nbytes for t in self.model.state_dict().values() if t.device == self.load_device)

    def memory_required(self, input_shape):
        return self.model.memory_required(input_shape=input_shape)

    def add_wrapper_with_key(self, wrapper_type, key, wrapper):
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def add_object_patch(self, name, obj):
        self.object_patches[name], self.patches_uuid = obj, uuid4()

    def get_model_object(self, name):
        """What this clone has there, whichever clone is loaded."""
        for patches in (self.object_patches, self.backup):
            if name in patches:
                return patches[name]
        return attrgetter(name)(self.model)

    def set_attachments(self, key, attachment):
        self.attachments[key] = attachment

    def get_attachment(self, key):
        return self.attachments.get(key)


CoreModelPatcher = ModelPatcher
