"""Where the file of a model is: a path, or the name of a model that comes with the package."""

from __future__ import annotations

from pathlib import Path

from forcenet_md.errors import ModelFileError

SHIPPED = Path(__file__).parent / "shipped"


def model_path(spec: str) -> Path:
    """The file of a model: a path, or a bare name for a shipped one. Raises ModelFileError."""
    path = Path(spec).expanduser()
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    file = SHIPPED / f"{spec}.pt"
    if not file.is_file():
        raise ModelFileError(
            f"there is no model file {spec!r} and no shipped model of that name"
            f" (shipped: {shipped_names()}): give the path of an m.pt."
        )
    return file


def shipped_names() -> str:
    """Of the models that come with the package, for messages."""
    return ", ".join(sorted(file.stem for file in SHIPPED.glob("*.pt"))) or "none"
