"""``python -m ctxsweep.cli``."""

from ctxsweep.cli import main

main()
