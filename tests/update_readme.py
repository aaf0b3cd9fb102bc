"""Write the scripts' --help into the README's usage blocks: python tests/update_readme.py"""

from __future__ import annotations

import re

from test_readme import README, ROOT, SCRIPTS, help_text

if __name__ == "__main__":
    text = README
    for script in SCRIPTS:
        block = f"### {script}\n\n```text\n{help_text(script)}\n```"
        text = re.sub(rf"### {re.escape(script)}\n\n```text\n.*?\n```", lambda _, b=block: b, text, flags=re.DOTALL)  # type: ignore[misc]
    (ROOT / "README.md").write_text(text, encoding="utf-8")
