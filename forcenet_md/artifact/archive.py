"""The m.pt container: a TorchScript zip with the card inside, read without running anything."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from forcenet_md.artifact.card import FORMAT_VERSION, Card, make_card
from forcenet_md.artifact.find import shipped_names
from forcenet_md.errors import ModelFileError

CARD = "extra/forcenet_card.json"
# The weights as they were trained; hashed like every member, no part of the program.
TRAINABLE = "extra/trainable"
ROOT = "archive/"
# Names of the builder's source files, and a random id: neither is needed to load.
DROPPED = (".debug_pkl", "serialization_id")


@dataclass(frozen=True, slots=True)
class Archive:
    """Members without the root folder and without the card; the card."""

    members: dict[str, bytes]
    card: Card


def digest(members: dict[str, bytes]) -> str:
    """sha256 over the members in order of name, each with the lengths of name and content."""
    h = hashlib.sha256()
    for name in sorted(members):
        key = name.encode()
        h.update(len(key).to_bytes(8, "little") + key)
        h.update(len(members[name]).to_bytes(8, "little") + members[name])
    return h.hexdigest()


def strip(data: bytes) -> dict[str, bytes]:
    """The members of a fresh TorchScript archive that a model file keeps."""
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        return {
            name.partition("/")[2]: z.read(name)
            for name in z.namelist()
            if not name.endswith(DROPPED)
        }


def to_zip(members: dict[str, bytes]) -> bytes:
    """A stored (not compressed) zip with fixed times: the same members give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as z:
        for name in sorted(members):
            z.writestr(zipfile.ZipInfo(ROOT + name, (1980, 1, 1, 0, 0, 0)), members[name])
    return buffer.getvalue()


def write(path: Path, members: dict[str, bytes], card: Card) -> Card:
    """Write the file at once or not at all; returns the card with its sha256."""
    card = card.model_copy(update={"sha256": digest(members)})
    text = card.model_dump_json(indent=2).encode()
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(to_zip(members | {CARD: text}))
        temporary.replace(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ModelFileError(
            f"{path} cannot be written ({e.strerror}): give another path, or make room."
        ) from None
    return card


def read(path: Path) -> Archive:
    """Read members and card with zipfile and run nothing.

    Raises ModelFileError, one sentence, for a file that is missing, truncated, foreign,
    pickled, of another format version, or whose hash differs from its card.
    """
    members = _members(path)
    text = members.pop(CARD)
    try:
        fields = json.loads(text)
        version = fields["format_version"]
    except (ValueError, KeyError, TypeError):
        raise ModelFileError(f"{path} is damaged: its card cannot be read; copy it anew.") from None
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has format version {version}, this program reads {FORMAT_VERSION}: export"
            " the model again, or use the version of forcenet-md that wrote it."
        )
    card = make_card(fields)
    if digest(members) != card.sha256:
        raise ModelFileError(
            f"{path} is damaged or was changed: its contents do not match the sha256 in its"
            " card; copy or export it anew."
        )
    return Archive(members, card)


def _members(path: Path) -> dict[str, bytes]:
    try:
        with path.open("rb") as f:
            start = f.read(2)
            if start != b"PK":
                kind = "a pickle" if start[:1] == b"\x80" else "not a zip archive"
                raise ModelFileError(
                    f"{path} is no forcenet-md model file (it is {kind}, and nothing in it was"
                    " run): give a file that `forcenet-md train` or `convert` wrote."
                )
            return _read_zip(path)
    except FileNotFoundError:
        raise ModelFileError(
            f"the model file {path} does not exist: mend the path, or give a shipped model by its"
            f" name ({shipped_names()})."
        ) from None
    except IsADirectoryError:
        raise ModelFileError(f"{path} is a folder, not a model file.") from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as e:
        raise ModelFileError(f"{path} is truncated or damaged ({e}): copy it anew.") from None
    except OSError as e:
        if e.errno == errno.EINVAL:  # a place before the file's start, by a damaged directory
            raise ModelFileError(f"{path} is truncated or damaged: copy it anew.") from None
        raise ModelFileError(
            f"{path} cannot be read ({e.strerror}): give the path of a model file."
        ) from None


def _read_zip(path: Path) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    with zipfile.ZipFile(path) as z:
        names = [name.partition("/")[2] for name in z.namelist()]
        if CARD not in names:
            raise ModelFileError(
                f"{path} is {_kind(names)} without a model card: export it with `forcenet-md"
                " train` or import a checkpoint with `forcenet-md convert`."
            )
        for info in z.infolist():
            _root, _, name = info.filename.partition("/")
            if not name or name in members or info.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f"unexpected member {info.filename!r}")
            members[name] = z.read(info)
    return members


def _kind(names: list[str]) -> str:
    if any(name.startswith("code/") for name in names):
        return "a TorchScript file"
    return "a pickled PyTorch file" if "data.pkl" in names else "a zip file"
