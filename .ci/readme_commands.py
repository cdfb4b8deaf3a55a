"""Prints every ```bash block of README.md, in order: what CI runs is what the README says."""

import re
import sys
from pathlib import Path

text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
sys.stdout.write("\n".join(re.findall(r"^```bash\n(.*?)^```$", text, flags=re.M | re.S)))
