"""Progress, and statistics of weights."""

from collections import Counter

_hook = None


def set_progress_bar_global_hook(function):
    """`function(value, total, preview, node_id=None)` is called at every step from now on."""
    global _hook
    _hook = function


class ProgressBar:
    def __init__(self, total, node_id=None):
        self.total, self.current, self.node_id = total, 0, node_id

    def update_absolute(self, value, total=None, preview=None):
        self.total = total or self.total
        self.current = min(value, self.total)
        if _hook:
            _hook(self.current, self.total, preview, node_id=self.node_id)


def calculate_parameters(sd):
    return sum(tensor.nelement() for tensor in sd.values())


def weight_dtype(sd):
    """The dtype that most numbers have."""
    counts = Counter()
    for tensor in sd.values():
        counts[tensor.dtype] += tensor.nelement()
    return counts.most_common(1)[0][0] if counts else None
