"""A source with transforms is a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

import msgspec

from ganglion.data.records.bad_record import BadRecord, SetAside
from ganglion.data.records.batch import Batch
from ganglion.data.records.draw import Draw
from ganglion.data.records.fingerprint import digest_of
from ganglion.data.records.schema import Schema
from ganglion.data.records.unit import Unit, inner_unit, unit_of
from ganglion.data.source import PlainSource, source_from
from ganglion.data.transform import Transform
from ganglion.data.transforms.chain import Chain, Failure, check_transforms
from ganglion.data.transforms.digest import digest_transforms


class TransformedSource(
    PlainSource, frozen=True, kw_only=True, dict=True, tag="ganglion.data.sources.transformed:TransformedSource"
):
    """The records of another source after transforms.

    A record that a transform fails on is set aside under the name of the transform, as the transform was given it; the
    others go on. Units are those of the other source; records keep their ids, but for transforms that make new ones
    of several, which number them from 0 in each unit.

    Attributes:
        source: the other source, or its plain data.
        transforms: what is done, in order, as transforms or their plain data.
        seed: of random transforms.
    """

    source: Any
    transforms: tuple[Any, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "source", source_from(self.source))
        msgspec.structs.force_setattr(self, "transforms", check_transforms(self.transforms))

    @property
    def schema(self) -> Schema:
        """The fields after the last transform.

        Raises:
            DataError: a transform does not go with the fields that it is given.
        """
        return self.chain.schema

    @cached_property
    def chain(self) -> Chain:
        """The transforms, checked against the fields of the other source."""
        return Chain(self.transforms, self._inner.schema)

    @contextmanager
    def snapshot(self) -> Iterator[Self]:
        """The source as it is now."""
        with self._inner.snapshot() as inner:
            yield msgspec.structs.replace(self, source=inner)

    def units(self) -> Sequence[Unit]:
        """The units of the other source; how many records they have is known where no transform changes that."""
        digest = self._digest()
        return tuple(
            msgspec.structs.replace(
                unit,
                records=unit.records if self.chain.keeps_records else None,
                fingerprint=digest_of(f"{unit.fingerprint} {digest}".encode()) if unit.fingerprint else "",
                inner=unit,
            )
            for unit in self._inner.units()
        )

    def read_unit(self, unit: Unit, size: int, set_aside: SetAside) -> Iterator[Batch]:
        """The records of one unit after the transforms, in order."""
        batches = self._inner.read_unit(inner_unit(unit), size, set_aside)
        return self.transform_unit(unit, batches, size, set_aside)

    def transform_unit(self, unit: Unit, batches: Iterator[Batch], size: int, set_aside: SetAside) -> Iterator[Batch]:
        """Transform the records of one unit that are at hand already.

        Args:
            unit: of the other source.
            batches: its records there, in order.
            size: as for `read_unit`.
            set_aside: told of each record that a transform fails on.
        """

        def failed(failure: Failure) -> None:
            set_aside(
                BadRecord.at(unit, unit_of(failure.id)[1], failure.reason, stage=failure.stage, payload=failure.payload)
            )

        return self.chain.over_unit(batches, Draw(self.seed), size, failed)

    def fingerprint(self) -> str:
        """Digest of the other source, of the transforms, and of the code of functions that they call.

        Where that code has no digest the fingerprint is another one each time.
        """
        return digest_of(f"{self._inner.fingerprint()} {self._digest()}".encode())

    def transform(self, *transforms: Transform, seed: int = 0) -> TransformedSource:
        """The records after further transforms: one chain, if no other seed is given."""
        if seed not in (0, self.seed):
            return TransformedSource(source=self, transforms=transforms, seed=seed)
        return msgspec.structs.replace(self, transforms=(*self.transforms, *transforms))

    def _digest(self) -> str:
        return hashlib.sha256(f"{digest_transforms(self.transforms)} {self.seed}".encode()).hexdigest()

    @property
    def _inner(self) -> PlainSource:
        inner: PlainSource = self.source
        return inner
