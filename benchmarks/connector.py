"""Runs `connector_speed`, where the options are described.

    python benchmarks/connector.py --json OUT [--quick]

The scripts beside this one import Landbridge's package of the same name: they get that, and not this file.
"""

import sys
from pathlib import Path

sys.path.remove(str(Path(__file__).parent))
if __name__ == "connector":
    del sys.modules["connector"]
    import connector  # noqa: F401
sys.path.append(str(Path(__file__).parent))

if __name__ == "__main__":
    import connector_speed

    connector_speed.main()
