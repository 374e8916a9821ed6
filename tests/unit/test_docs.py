"""What the documents say and can be checked is checked."""

import re
from pathlib import Path

from portal.gateways import processors
from portal.gateways.documents import features_table, processors_document
from seeds import world

ROOT = Path(__file__).parents[2]


def test_the_readme_has_the_features_of_the_facts() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"<!-- features -->\n{features_table()}\n<!-- /features -->" in readme


def test_the_evidence_is_that_of_the_facts() -> None:
    assert (ROOT / "docs/processors.md").read_text() == processors_document()


def test_every_cell_of_the_readme_leads_to_its_evidence() -> None:
    evidence = processors_document()
    targets = re.findall(r"docs/processors\.md#([a-z0-9-]+)", features_table())
    assert len(targets) >= 11 * len(processors())
    assert [target for target in targets if f'<a id="{target}"></a>' not in evidence] == []


def test_the_readme_names_the_sample_people() -> None:
    readme = (ROOT / "README.md").read_text()
    for person in world.PEOPLE:
        assert f"| `{person['email']}` | {person['about']} |" in readme


def test_every_link_to_a_file_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} -> {target}"
