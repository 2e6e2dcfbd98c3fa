"""README's lines that call a server without rtool, run as they stand, with this server's address and model."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rtool

README = (Path(rtool.__file__).resolve().parent / "README.md").read_text()
SECTION = README[README.index("**8. Keep it") : README.index("**9. See who")]


def here(text: str, server) -> str:
    text = text.replace("127.0.0.1:8000", server.http_url).replace("127.0.0.1:8001", server.url)
    return text.replace("osnet_b16", "reid").replace("128, 64", "8, 4")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_lines_answer_what_readme_says(server):
    lines = re.findall(r"\$ (curl .*)\n    (.*)\n", SECTION)
    assert len(lines) == 2
    for command, said in lines:
        done = subprocess.run(["sh", "-c", here(command, server)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == said if said != "..." else '"name":"reid"' in done.stdout


def test_tritonclient_needs_nothing_of_rtool(server):
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    assert "rtool" not in code
    script = here(code, server) + "import sys\nprint(embeddings.shape, 'rtool' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "(16, 8) False\n"
