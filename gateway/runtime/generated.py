"""Files made from the verbs: the JSON Schema that editors complete with, and the reference in docs/.

`make generated` writes them; a test compares them with what would be written, so that they can't go stale.
"""

from __future__ import annotations

import json
from pathlib import Path

from gateway.config.json_schema import overrides_schema, write_schema
from gateway.config.reference import write_reference
from gateway.filters.catalog import KINDS

ROOT = Path(__file__).resolve().parents[2]


def generated() -> dict[Path, str]:
    """Return every generated file and its content."""
    overrides = json.dumps(overrides_schema(KINDS), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return {
        ROOT / "policies" / "schema.json": write_schema(KINDS),
        ROOT / "policies" / "overrides.schema.json": overrides,
        ROOT / "docs" / "policies-reference.md": write_reference(KINDS),
    }


def main() -> None:
    """Write them."""
    for path, content in generated().items():
        path.write_text(content)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
