"""`python -m landbridge` is the `landbridge` command."""

from landbridge.cli import main

main()
