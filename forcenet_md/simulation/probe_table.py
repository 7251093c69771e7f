"""What a probe found, as a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from forcenet_md.blocking import with_error
from forcenet_md.inference.kinetics import HEATING
from forcenet_md.simulation.probing import Probe


def print_probe(found: Probe, console: Console) -> None:
    """The table, and the verdict below it."""
    n, model = len(found.structures), found.model
    mean = f", the mean over {model.frames} frames" if model.frames > 1 else ""
    what = f"{n} structure{'s' * (n > 1)}, {found.n_atoms} atoms, {model.dtype}"
    lines = [f"{model.name}{mean}: {what}"]
    for what, figure, unit, remark in rows(found):
        lines.append(f"  {what:21} {figure:>19} {unit:12} {remark}".rstrip())
    if not found.complete:
        lines.append("INTERRUPTED: what is not in the table was not measured to its end.")
    for line in [*lines, *found.verdict.words]:
        console.print(Text(line), soft_wrap=True)


def rows(found: Probe) -> Iterator[tuple[str, str, str, str]]:
    """(what, figure, unit, remark)"""
    if found.mean_force is not None:
        yield "mean |F|", f"{found.mean_force:.3g}", "eV/Å", f"net force {found.net_force}"
    if found.jacobian is not None:
        of = found.jacobian
        exact = of.n_directions == of.n_coordinates
        spread = f", structures {min(of.frames):.2g} to {max(of.frames):.2g}"
        yield (
            "λ = ‖J anti‖ / ‖J‖",
            f"{of.value:.2g}" if exact else with_error(of.value, of.standard_error),
            "",
            f"{of.n_directions} of {of.n_coordinates} directions"
            + spread * (len(of.frames) > 1)
            + f"; twice the step changes J by {of.step_error:.1g}",
        )
    if found.jumps is not None and found.jumps.n_places:
        jumps = found.jumps
        remark = f"of {jumps.n_places} places; forces change by {jumps.change:.1g} anyway"
        yield (
            "largest jump",
            f"{jumps.largest:.1e}" if jumps.seen else "none",
            "eV/Å" if jumps.seen else "",
            f"{jumps.where}, {remark}" if jumps.seen else remark,
        )
    if found.rotation is not None:
        turn = found.rotation
        about = "z" if turn.axis == "z" else "any axis"
        figure = f"{turn.standard_deviation:.2g}"
        yield "rotation instability", figure, "eV/Å", f"{turn.n_rotations} turns about {about}"
    if found.heating is not None:
        of_heat = found.heating
        lived = of_heat.n_copies - len(of_heat.lost)
        copies = f"{lived} of {of_heat.n_copies} copies lived {of_heat.time:.3g} ps"
        steps = f"{1000 * of_heat.timestep:g} fs"
        if of_heat.rate is not None and of_heat.interval is not None:
            yield (
                "heating",
                with_error(of_heat.rate, of_heat.interval),
                "K/ps",
                f"95 %, by the {_seen_by(of_heat.seen_by)}; {copies}, {steps}; {HEATING}",
            )
        else:
            yield "heating", "–", "K/ps", copies
        if of_heat.drift is not None:
            yield "drift of the energy", f"{of_heat.drift:.2g}", "meV/atom/ps", ""
        if of_heat.temperature is not None:
            remark = f"NVE that began at {of_heat.target:g} K"
            yield "temperature", f"{of_heat.temperature:.0f}", "K", remark


def _seen_by(what: str) -> str:
    return {"teacher": "teacher's energy", "model": "model's energy"}.get(what, what)
