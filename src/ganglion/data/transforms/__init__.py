"""Transforms: what can be done to records, whole batches at a time. Names are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganglion.core.registry import lazy_names

if TYPE_CHECKING:
    from ganglion.data.transforms.bucketise import Bucketise
    from ganglion.data.transforms.cast import Cast
    from ganglion.data.transforms.crop import Crop
    from ganglion.data.transforms.cross import Cross
    from ganglion.data.transforms.decode import Decode
    from ganglion.data.transforms.fields import Drop, Rename, Select
    from ganglion.data.transforms.filter import Filter
    from ganglion.data.transforms.flip import Flip
    from ganglion.data.transforms.grayscale import Grayscale
    from ganglion.data.transforms.look_up import LookUp
    from ganglion.data.transforms.map import Map
    from ganglion.data.transforms.noise import Noise
    from ganglion.data.transforms.normalise import Normalise, Scale
    from ganglion.data.transforms.pack import Pack
    from ganglion.data.transforms.resize import Resize
    from ganglion.data.transforms.rotate import Rotate
    from ganglion.data.transforms.sequences import BucketByLength, Pad, Truncate

_MODULES = {
    "BucketByLength": "sequences",
    "Bucketise": "bucketise",
    "Cast": "cast",
    "Crop": "crop",
    "Cross": "cross",
    "Decode": "decode",
    "Drop": "fields",
    "Filter": "filter",
    "Flip": "flip",
    "Grayscale": "grayscale",
    "LookUp": "look_up",
    "Map": "map",
    "Noise": "noise",
    "Normalise": "normalise",
    "Pack": "pack",
    "Pad": "sequences",
    "Rename": "fields",
    "Resize": "resize",
    "Rotate": "rotate",
    "Scale": "normalise",
    "Select": "fields",
    "Truncate": "sequences",
}

__all__ = [
    "BucketByLength",
    "Bucketise",
    "Cast",
    "Crop",
    "Cross",
    "Decode",
    "Drop",
    "Filter",
    "Flip",
    "Grayscale",
    "LookUp",
    "Map",
    "Noise",
    "Normalise",
    "Pack",
    "Pad",
    "Rename",
    "Resize",
    "Rotate",
    "Scale",
    "Select",
    "Truncate",
]

__getattr__ = lazy_names(__name__, _MODULES)
