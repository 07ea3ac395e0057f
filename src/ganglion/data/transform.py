"""The seam for transforms: whole batches of columns in, whole batches out.

A transform is plain data, so that it can be written into a manifest, fingerprinted, and sent to the process that
applies it. It does the same when it is applied once while a dataset is prepared and, again and again, while it is
loaded.
"""

from __future__ import annotations

import msgspec

from ganglion.data.batch import Batch
from ganglion.data.draw import Draw
from ganglion.data.schema import Schema


class Transform(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """What is done to records; subclasses give `schema` and `apply`.

    The tag of a subclass is its import path, `module:Class`, by which it is found.
    """

    @property
    def stage(self) -> str:
        """What the quarantine calls this transform."""
        return type(self).__name__.lower()

    def schema(self, given: Schema) -> Schema:
        """The fields of what `apply` returns, from those of what it is given.

        Raises:
            DataError: a field that the transform needs is missing or of another kind; the message says which there are.
        """
        raise NotImplementedError

    def apply(self, batch: Batch, draw: Draw) -> Batch:
        """Transform some records.

        The result depends on each record alone, or, where the transform combines records (packing), on the batches of
        its unit in their order. What is given is not changed. Records that are left out keep the ids of the others as
        they are.

        Args:
            batch: records; at least one.
            draw: where randomness comes from.

        Raises:
            Exception: of any kind: some record cannot be transformed. Whoever applies the transform finds out which by
                applying it to fewer of them, sets those aside, and goes on with the rest.
        """
        raise NotImplementedError
