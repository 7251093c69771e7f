"""`python -m forcenet_md`: the command line."""

from forcenet_md.cli.main import main

main()
