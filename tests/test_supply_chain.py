"""Nothing that regaudit stands on is known to be vulnerable, and the bill of materials has all of it."""

from __future__ import annotations

import json
import tomllib

from supply_chain import ADVISORIES, ROOT, below, bill, floors, installed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]


def test_no_lowest_version_that_may_be_installed_is_known_to_be_vulnerable():
    assert below(floors(REQUIREMENTS)) == []


def test_nothing_that_is_installed_is_known_to_be_vulnerable():
    assert below((name, of.version) for name, of in installed().items()) == []


def test_what_is_vulnerable_is_found():
    assert below([("urllib3", "2.6.3"), ("Requests", "2.33.0")]) == [
        f"urllib3 2.6.3: {known}, gone in {fixed}" for known, fixed in list(ADVISORIES["urllib3"].items())[4:]
    ]
    assert list(floors(["urllib3>=2.6,<3", "x"])) == [("urllib3", "2.6")]


def test_the_bill_of_materials_has_every_package_with_its_version():
    made = json.loads(json.dumps(bill()))
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.5")
    names = {component["name"]: component["version"] for component in made["components"]}
    assert {"requests", "urllib3", "pandas", "pyarrow", "certifi", "numpy"} <= set(names)
    assert names == {name: of.version for name, of in installed().items() if name != "regaudit"}
    assert made["metadata"]["component"]["name"] == "regaudit"
