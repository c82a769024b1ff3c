"""Functions around functions, and dictionaries of them."""


class WrappersMP:
    OUTER_SAMPLE, SAMPLER_SAMPLE = "outer_sample", "sampler_sample"
    APPLY_MODEL, DIFFUSION_MODEL = "apply_model", "diffusion_model"


class WrapperExecutor:
    """Calls the first wrapper with an executor for the rest; after the last comes the function itself."""

    def __init__(self, original, class_obj, wrappers):
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    @classmethod
    def new_class_executor(cls, original, class_obj, wrappers):
        return cls(original, class_obj, wrappers)

    def execute(self, *args, **kwargs):
        if not self.wrappers:
            return self.original(*args, **kwargs)
        rest = WrapperExecutor(self.original, self.class_obj, self.wrappers[1:])
        return self.wrappers[0](rest, *args, **kwargs)

    __call__ = execute


def get_all_wrappers(wrapper_type, transformer_options):
    keyed = transformer_options.get("wrappers", {}).get(wrapper_type, {})
    return [wrapper for wrappers in keyed.values() for wrapper in wrappers]


def merge_nested_dicts(dict1, dict2):
    """A copy of `dict1` updated with `dict2`: dictionaries merge, lists join, anything else is replaced."""
    merged = {}
    for key in dict1 | dict2:
        values = [source[key] for source in (dict1, dict2) if key in source]
        if isinstance(values[-1], dict):
            merged[key] = merge_nested_dicts(*(values if len(values) == 2 else (values[0], {})))
        else:
            merged[key] = sum(values, []) if isinstance(values[-1], list) else values[-1]  # noqa: RUF017
    return merged
