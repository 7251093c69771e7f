"""How far a model's training went, into its card: training_range.py MODEL CONFIG [key=value…].

For model files from before `forcenet-md train` noted it: guards then hold distances and forces
against the training (forcenet_md/watching/guards.py). CONFIG and key=value are those of the
training, whose frames must lie in the current folder. What `train` would write is written.
--note TEXT is added to the card's notes: say there which frames are gone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from forcenet_md.artifact.export import read_card
from forcenet_md.artifact.update import update_card
from forcenet_md.errors import ForceNetError
from forcenet_md.training.config_file import load_config
from forcenet_md.training.survey import open_split, training_range


def main(model: Path, config: str, overrides: list[str], note: str) -> None:
    card = read_card(model)
    with TemporaryDirectory() as folder:
        frames = open_split(load_config(config, overrides).data, Path(folder)).train
        found = training_range(frames)
    if found is None:
        sys.exit("error: the frames have no forces")
    notes = " ".join(filter(None, [card.notes, note]))
    update_card(model, {"training_range": found, "notes": notes}, sha256=card.sha256)
    print(f"{len(frames)} frames; largest force {found.largest_force:g} eV/Å; shortest distances:")
    for pair, distance in found.shortest.items():
        print(f"    {pair:6}{distance:.3f} Å")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Note a model's training range in its card.")
    parser.add_argument("model", type=Path)
    parser.add_argument("config")
    parser.add_argument("override", nargs="*", help="key=value as given to the training")
    parser.add_argument("--note", default="", help="sentence for the card's notes")
    given = parser.parse_intermixed_args()
    try:
        main(given.model, given.config, given.override, given.note)
    except ForceNetError as error:
        sys.exit(f"error: {error}")
