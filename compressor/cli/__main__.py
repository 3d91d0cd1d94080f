"""`python -m compressor.cli`, which is what launchers such as `accelerate launch -m` start."""

from compressor.cli.app import main

main()
