"""A manifest in words."""

from __future__ import annotations

from collections.abc import Iterator

from forcenet_md.data.manifest import Found, Manifest

SHOWN = 5


def describe(manifest: Manifest) -> str:
    """What a store holds, a line a subject."""
    return "\n".join(_lines(manifest))


def findings(manifest: Manifest, most: int = SHOWN) -> Iterator[str]:
    """A line for what is bad or strange, with the first `most` frames of each kind."""
    for source in manifest.sources:
        yield from source.left_out[:most]
        if source.bad > most:
            yield f"… {source.bad} bad frames of {source.path} in all"
    for what, found in (
        ("frames are there twice", manifest.duplicates),
        ("frames have outlying forces", manifest.large_forces),
        ("frames have atoms that are too near", manifest.near_atoms),
        ("frames have electrons that did not converge", manifest.unconverged),
    ):
        yield from _found(what, found, most)
    yield from manifest.remarks


def _found(what: str, found: Found, most: int) -> Iterator[str]:
    if found.count:
        yield f"{found.count} {what}"
        yield from (f"  {place}" for place in found.named[:most])
        if found.count > most:
            yield "  …"


def _lines(manifest: Manifest) -> Iterator[str]:
    yield (
        f"{manifest.frames} frames, {manifest.atoms} atoms ({manifest.smallest} to"
        f" {manifest.largest} a frame), {manifest.with_energy} with energy,"
        f" {manifest.with_stress} with stress, {manifest.fixed_atoms} atoms held"
    )
    units = manifest.units
    yield f"units: eV and Å; read as {units.length} and {units.force} ({units.checked})"
    yield f"mean |force component| {manifest.mean_abs_force:.4g} eV/Å"
    yield "element     atoms   mean |F|      rms  largest   (eV/Å)"
    for symbol, force in manifest.forces.items():
        yield (
            f"{symbol:>7} {force.atoms:9d} {force.mean_abs:10.4f} {force.rms:8.4f}"
            f" {force.largest:8.3f}"
        )
    yield f"columns: {', '.join(manifest.columns)}"
    if manifest.skipped_columns:
        yield f"not kept (no words or numbers): {', '.join(manifest.skipped_columns)}"
    for source in manifest.sources[:SHOWN]:
        yield f"{source.path}: {source.frames} frames, sha256 {source.sha256[:12]}…"
    if len(manifest.sources) > SHOWN:
        yield f"… {len(manifest.sources)} sources"
    yield from findings(manifest)
