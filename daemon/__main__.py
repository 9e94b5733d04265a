"""`python -m daemon` is `persona`."""

from daemon.cli.main import main

main()
