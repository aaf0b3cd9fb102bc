"""Write the scripts' --help into the usage blocks of both READMEs: python tests/update_readme.py"""

from __future__ import annotations

import re

from test_readme import PAGES, ROOT, SCRIPTS, help_text

if __name__ == "__main__":
    helps = {script: help_text(script) for script in SCRIPTS}
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for script, shown in helps.items():
            block = f"### {script}\n\n```text\n{shown}\n```"
            text = re.sub(rf"### {re.escape(script)}\n\n```text\n.*?\n```", lambda _, b=block: b, text, flags=re.DOTALL)  # type: ignore[misc]
        (ROOT / name).write_text(text, encoding="utf-8")
