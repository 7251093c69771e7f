"""Figures measured in one run, with the peers beside ours."""
