"""Muon and AdamW on float32 masters of low-precision modules, with a moving average of the weights.

Muon (torch.optim.Muon) trains the matrices inside the blocks, as its authors advise; AdamW all the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

BETAS = (0.9, 0.99)
LARGEST_GRADIENT = 1.0
AVERAGE = 0.999  # the largest decay; a young average forgets faster
FEWEST = 8  # channels of a matrix; the tables have at most six rows
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
HALF = torch.bfloat16  # of averages and moments in checkpoints; in memory they are float32


class Optimiser:
    """Trains `modules` for `steps` steps: a warm-up, then a cosine down to a fiftieth of `rate`.

    With torch.distributed, gradients are averaged over all processes. `state()` is everything that another
    one needs to `load`: twelve bytes a parameter, of which eight are exact.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        rate: float,
        steps: int,
        warmup: int = 100,
        muon: tuple[str, ...] = (),
    ) -> None:
        """`muon`: prefixes of the names of parameters whose matrices Muon trains."""
        self.rate, self.steps, self.warmup, self.done = rate, steps, warmup, 0
        self.parameters = {
            f"{name}.{key}": parameter
            for name, module in modules.items()
            for key, parameter in module.named_parameters()
        }
        self.masters = {key: parameter.detach().float().clone() for key, parameter in self.parameters.items()}
        self.average = {key: master.clone() for key, master in self.masters.items()}
        # views as matrices: Muon takes the kernels of a convolution as a matrix, too
        self.rows = {k: m.flatten(1) for k, m in self.masters.items() if k.startswith(muon) and _is_matrix(m)}
        others = [master for key, master in self.masters.items() if key not in self.rows]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, betas=BETAS, weight_decay=0.0, fused=others[0].is_cuda)
        ]
        if self.rows:  # with rates comparable to AdamW's
            rows = list(self.rows.values())
            self.optimisers.append(torch.optim.Muon(rows, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))

    def update(self) -> Tensor:
        """One step with the gradients of a backward pass. Returns their norm."""
        masters = list(self.masters.values())
        for master, parameter in zip(masters, self.parameters.values(), strict=True):
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            master.grad = gradient.float()
            parameter.grad = None
        _share([master.grad for master in masters if master.grad is not None])
        norm = nn.utils.clip_grad_norm_(masters, LARGEST_GRADIENT)
        for key, rows in self.rows.items():
            gradient = self.masters[key].grad
            rows.grad = None if gradient is None else gradient.flatten(1)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.rate * self._schedule()
            optimiser.step()
        self.done += 1
        keep = min(AVERAGE, self.done / (self.done + 9))
        torch._foreach_lerp_(list(self.average.values()), masters, 1 - keep)
        with torch.no_grad():
            torch._foreach_copy_(list(self.parameters.values()), masters)
        return norm

    def _schedule(self) -> float:
        rise = min(1.0, (self.done + 1) / self.warmup)
        return rise * (0.51 + 0.49 * math.cos(math.pi * min(1.0, self.done / self.steps)))

    def use_average(self) -> None:
        """Give the modules the averaged weights, at the end of the training."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.parameters.values()), list(self.average.values()))

    def averaged(self, name: str) -> dict[str, Tensor]:
        """The averaged weights of one module, float32 on the CPU."""
        return {
            key.removeprefix(f"{name}."): tensor.cpu()
            for key, tensor in self.average.items()
            if key.startswith(f"{name}.")
        }

    def state(self) -> dict[str, Tensor]:
        tensors = {"done": torch.tensor(self.done)}
        for key, master in self.masters.items():
            tensors[f"master/{key}"] = master
            tensors[f"average/{key}"] = self.average[key].to(HALF)
            kept, optimiser = self._optimised(key)
            for moment, tensor in optimiser.state.get(kept, {}).items():
                if moment in MOMENTS:
                    tensors[f"{moment}/{key}"] = tensor.to(HALF)
        return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from the `state()` of another one."""
        self.done = int(tensors["done"])
        for key, master in self.masters.items():
            master.copy_(tensors[f"master/{key}"])
            self.average[key].copy_(tensors[f"average/{key}"])
            kept, optimiser = self._optimised(key)
            moments = {m: tensors[f"{m}/{key}"].to(kept) for m in MOMENTS if f"{m}/{key}" in tensors}
            if moments:
                step = torch.tensor(float(self.done), device=master.device)
                optimiser.state[kept] = moments if key in self.rows else {"step": step, **moments}
        with torch.no_grad():
            torch._foreach_copy_(list(self.parameters.values()), list(self.masters.values()))

    def _optimised(self, key: str) -> tuple[Tensor, torch.optim.Optimizer]:
        """A master as its optimiser sees it, and that optimiser."""
        return self.rows.get(key, self.masters[key]), self.optimisers[-1 if key in self.rows else 0]


def _is_matrix(tensor: Tensor) -> bool:
    """Whether it maps channels to channels, unlike a table of a few vectors or a depthwise kernel."""
    return tensor.ndim >= 2 and min(tensor.shape[:2]) >= FEWEST


def _share(gradients: list[Tensor]) -> None:
    """Average the gradients over all processes, in place."""
    if not dist.is_initialized():
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
