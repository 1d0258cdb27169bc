"""Rewrites what is made from the code: `python protocols/spec/generate.py [--check]`.

The tables and diagrams in the chapters, `schemas/`, `asyncapi.json` and `vectors/`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bellwire.protocols.describe import refresh
from bellwire.protocols.schemas import all_schemas, asyncapi
from bellwire.protocols.vectors import VECTORS_SCHEMA, all_vectors

HERE = Path(__file__).parent


def made() -> dict[Path, str]:
    """Every file that is made from the code, as it ought to be."""
    files = {path: refresh(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("[0-9]*.md"))}
    chapters = "\n".join(files.values())
    for name, schema in all_schemas(chapters).items():
        files[HERE / "schemas" / f"{name}.json"] = _json(schema)
    files[HERE / "asyncapi.json"] = _json(asyncapi(chapters))
    files[HERE / "vectors" / "vectors.schema.json"] = _json(VECTORS_SCHEMA)
    for family, vectors in all_vectors().items():
        files[HERE / "vectors" / f"{family}.json"] = _json(vectors)
    return files


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Rewrite what is out of date; with `--check` only say which files are. Files that nothing makes any more count too."""
    wanted = made()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    left = [path for folder in ("schemas", "vectors") for path in sorted((HERE / folder).glob("*.json"))]
    over = [path for path in left if path not in wanted]
    if "--check" not in arguments:
        for path in stale:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        for path in over:
            path.unlink()
    names = ", ".join(str(path.relative_to(HERE)) for path in [*stale, *over])
    if names:
        sys.stderr.write(f"{'out of date' if '--check' in arguments else 'rewritten'}: {names}\n")
    return 1 if names and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
