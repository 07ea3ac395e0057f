"""What the bits of a result depend on beside the training itself: the arithmetic of a process.

The order of sums is fixed by the tree; how one sum, product or convolution is computed is up to the libraries and the
machine. All processes of a training have to agree on it, and so do a checkpoint and whoever goes on from it.
"""

from __future__ import annotations

import os

import msgspec
import torch

from ganglion.core.errors import ConfigurationError


class Arithmetic(msgspec.Struct, frozen=True, kw_only=True):
    """The arithmetic of a process.

    Attributes:
        torch: version and build of PyTorch.
        threads: intra-op threads.
        instructions: the instruction set that PyTorch's own kernels use.
        onednn: limit of oneDNN's instruction set (`ONEDNN_MAX_CPU_ISA`); empty for none.
        mkl: mode of MKL's reproducibility (`MKL_CBWR`); empty for none.
        machine: the instruction sets of the processor that libraries choose by, as far as PyTorch tells.
        optimizer: the implementation of the optimizer's step.
    """

    torch: str
    threads: int
    instructions: str
    onednn: str
    mkl: str
    machine: str
    optimizer: str

    def check(self, other: Arithmetic, who: str) -> None:
        """Refuse to go on with another arithmetic.

        Args:
            other: what it is compared with.
            who: whose it is, for the message.

        Raises:
            ConfigurationError: they differ; the message says in what.
        """
        names = [name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)]
        if names:
            what = "; ".join(f"{name}: {getattr(self, name)!r} here, {getattr(other, name)!r} there" for name in names)
            raise ConfigurationError(
                f"{who} computes with another arithmetic, so results would not be the same to the last bit ({what}). "
                "Use the same version of PyTorch everywhere and pin `instructions` to what all machines have, or train "
                "with exact=False."
            )


def arithmetic() -> Arithmetic:
    """The arithmetic of this process."""
    return Arithmetic(
        torch=f"{torch.__version__} {torch.version.git_version}",
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        onednn=os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        mkl=os.environ.get("MKL_CBWR", ""),
        machine="amx" if torch.cpu._is_amx_tile_supported() else "",
        optimizer="fused",
    )
