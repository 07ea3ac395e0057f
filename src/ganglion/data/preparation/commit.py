"""The pieces of a plan become a dataset: a manifest, and a tree that lists what is in the store already."""

from __future__ import annotations

import msgspec

from ganglion.artifacts.store import Artifact, FolderStore
from ganglion.core import faults
from ganglion.core.errors import DataError
from ganglion.data.dataset.manifest import (
    FORMAT,
    KIND,
    MANIFEST,
    Account,
    Manifest,
    Segment,
    checksums_path,
    quarantine_path,
    segment_path,
)
from ganglion.data.dataset.prepared import PreparedDataset
from ganglion.data.dataset.quarantine import add_counts
from ganglion.data.preparation.plan import Plan
from ganglion.data.preparation.staging import Report, Staging
from ganglion.data.source import Source


def commit(plan: Plan, source: Source, store: FolderStore) -> Artifact:
    """Make a dataset of written pieces.

    Args:
        plan: all of whose pieces are written.
        source: looked at again, to see that it is still what was planned.
        store: where the segments are.

    Raises:
        DataError: the source has changed meanwhile, there is no record, or records are not accounted for.
    """
    planned = [unit.unit for piece in plan.pieces for unit in piece.units]
    now = {unit.number: unit for unit in source.units()}
    if changed := [unit.name for unit in planned if now.get(unit.number) != unit]:
        raise DataError(f"The source has changed while it was read: {', '.join(changed[:3])}. Prepare it again.")
    reports = _reports(plan, store)
    base = PreparedDataset(plan.base, store) if plan.base is not None else None
    manifest, listed = _assemble(plan, reports, base)
    _check_sums(manifest)
    written = [segment for report in reports for segment in report.segments]
    if written:
        checksums = store.put_parts((segment.checksums for segment in written), KIND)
        listed[checksums_path(plan.generation)] = checksums
    listed[MANIFEST] = store.put_bytes(msgspec.json.encode(manifest), KIND)
    faults.point("data.commit", key=plan.origin.key)
    return store.put_listing(listed, KIND)


def _reports(plan: Plan, store: FolderStore) -> list[Report]:
    staging = Staging(store, plan.origin.key)
    reports = []
    for piece in plan.pieces:
        report = staging.report(piece.number)
        if report is None:
            raise DataError(f"Piece {piece.number} of the preparation is not in {store.root} any more; start it again.")
        reports.append(report)
    return reports


def _assemble(plan: Plan, reports: list[Report], base: PreparedDataset | None) -> tuple[Manifest, dict[str, Artifact]]:
    """The manifest, and the files that it speaks of."""
    replayed = any(unit.recovers for piece in plan.pieces for unit in piece.units)
    listed = {}
    if base is not None:
        listed = {
            path: blob
            for path, blob in base.files.items()
            if path != MANIFEST and not (replayed and "/quarantine-" in path)
        }
    segments: list[Segment] = []
    for report in reports:
        if report.quarantine is not None:
            listed[quarantine_path(plan.generation, report.piece)] = report.quarantine
        for segment in report.segments:
            path = segment_path(plan.generation, len(segments))
            listed[path] = Artifact(digest=segment.digest, kind=KIND, size=segment.size)
            segments.append(
                Segment(
                    path=path,
                    generation=plan.generation,
                    records=segment.records,
                    ids=segment.ids,
                    size=segment.size,
                    digest=segment.digest,
                    columns=segment.columns,
                )
            )
    before = base.manifest if base is not None else None
    bad = [count for report in reports for count in report.bad]
    manifest = Manifest(
        format=FORMAT,
        schema=plan.schema,
        segment_bytes=plan.segment_bytes,
        segments=(*(before.segments if before else ()), *segments),
        accounts=_accounts(before, [account for report in reports for account in report.accounts], replayed),
        origins=(*(before.origins if before else ()), plan.origin),
        bad=add_counts((*(before.bad if before and not replayed else ()), *bad)),
        named=plan.classes or msgspec.UNSET,
    )
    return manifest, listed


def _accounts(before: Manifest | None, found: list[Account], replayed: bool) -> tuple[Account, ...]:
    accounts = {account.unit: account for account in (before.accounts if before else ())}
    for account in found:
        if replayed:
            old = accounts[account.unit]
            account = msgspec.structs.replace(
                account,
                generation=old.generation,
                written=old.written + account.written,
                left_out=account.read - old.written - account.written - account.set_aside,
            )
        accounts[account.unit] = account
    return tuple(accounts[number] for number in sorted(accounts))


def _check_sums(manifest: Manifest) -> None:
    """Every record that was read is written, in quarantine or left out by a transform, and nothing else is written."""
    if manifest.count == 0:
        raise DataError("The source has no records; a dataset needs at least one.")
    for account in manifest.accounts:
        if (
            account.read + account.made != account.written + account.set_aside + account.left_out
            or account.left_out < 0
        ):
            raise DataError(
                f"{account.name}: {account.read} records were read; {account.written} written, {account.set_aside} set "
                f"aside and {account.left_out} left out do not account for them."
            )
    written = sum(account.written for account in manifest.accounts)
    if written != manifest.count:
        raise DataError(f"{written} records were written, and the segments hold {manifest.count}.")
    if manifest.set_aside != sum(count.count for count in manifest.bad):
        raise DataError(f"{manifest.set_aside} records were set aside, and the quarantine does not hold as many.")
