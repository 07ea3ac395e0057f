"""Bytes addressed by their digest, and the model-package format.

`store` keeps blobs and folders under the SHA-256 of their content, `package` describes a trained model in a folder of
its own, `garbage` finds what nothing refers to any more.
"""

from ganglion.artifacts.garbage import Garbage, find_garbage, remove_garbage
from ganglion.artifacts.package import (
    ImageInput,
    PackageFile,
    PackageManifest,
    Signature,
    TensorSpec,
    read_package,
    write_package,
)
from ganglion.artifacts.store import Artifact, FolderStore, StoredFile

__all__ = [
    "Artifact",
    "FolderStore",
    "Garbage",
    "ImageInput",
    "PackageFile",
    "PackageManifest",
    "Signature",
    "StoredFile",
    "TensorSpec",
    "find_garbage",
    "read_package",
    "remove_garbage",
    "write_package",
]
