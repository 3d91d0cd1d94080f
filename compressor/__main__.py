"""`python -m compressor`."""

from compressor.cli.app import main

main()
