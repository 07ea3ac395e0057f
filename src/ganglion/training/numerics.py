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
        machine: the accelerator with its libraries; without one, the instruction sets of the processor that libraries
            choose by, as far as PyTorch tells.
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


def arithmetic(device: torch.device | None = None) -> Arithmetic:
    """The arithmetic of this process, with the model on a device; by default on the CPU."""
    return Arithmetic(
        torch=f"{torch.__version__} {torch.version.git_version}",
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        onednn=os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        mkl=os.environ.get("MKL_CBWR", ""),
        machine=_accelerator(device) or ("amx" if torch.cpu._is_amx_tile_supported() else ""),
        optimizer="fused",
    )


def settle(device: torch.device) -> None:
    """Have an accelerator compute the same again from the same; on a CPU that is so with one thread.

    As https://docs.pytorch.org/docs/stable/notes/randomness.html describes it: kernels whose sums have one order, and
    no choice among kernels by how fast they turn out to be. Not yet run on an accelerator.
    """
    if device.type == "cpu":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def _accelerator(device: torch.device | None) -> str:
    if device is None or device.type != "cuda":
        return ""
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch does not annotate it
    return f"{torch.cuda.get_device_name(device)} cuda {torch.version.cuda} cudnn {cudnn}"
