"""What the documents say and can be checked is checked."""

from pathlib import Path

from portal.gateways.capabilities import features_table
from seeds import world

ROOT = Path(__file__).parents[2]


def test_the_readme_has_the_features_of_the_facts() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"<!-- features -->\n{features_table()}\n<!-- /features -->" in readme


def test_the_readme_names_the_sample_people() -> None:
    readme = (ROOT / "README.md").read_text()
    for person in world.PEOPLE:
        assert f"| `{person['email']}` | {person['about']} |" in readme


def test_every_link_to_a_file_leads_somewhere() -> None:
    import re

    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} -> {target}"
