"""torch.compile for networks on a GPU: one kernel where eager calls need several.

The result is kept in inductor's cache on disk, so that a second process on the same machine does not compile again.
"""

from torch import nn


def compile_in_place(module: nn.Module, *, wanted: bool) -> None:
    """Have a network's forward pass compiled with its next call, if that is wanted and its weights are on a GPU.

    Each shape is compiled for itself. Names of weights stay as they are, and copies of the module are not compiled.
    """
    if wanted and module._compiled_call_impl is None and next(module.parameters()).is_cuda:
        module.compile(dynamic=False)
