"""docs/protocol.md says what the declarations say."""

import runpy

from tests.support.daemon import ROOT


def test_the_message_reference_is_up_to_date():
    generator = runpy.run_path(str(ROOT / "docs" / "make_protocol.py"))
    assert generator["TARGET"].read_text(encoding="utf-8") == generator["page"](), (
        "run: python docs/make_protocol.py"
    )
