"""`python -m iii_state` is `iii-state`."""

from iii_state.cli import main

main()
