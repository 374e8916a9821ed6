"""Processor by promise: runs the contract suite and prints, for each processor, whether each promise is kept, or the
reason for a gap. `--json` prints it as JSON, `--markdown` as a table for documents. Exits 1 when a promise is broken.

    python -m bench.contract_matrix
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


class Collector:
    """What became of every test, by processor and promise."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
        self._of: dict[str, tuple[str, str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            parameters = item.callspec.params  # type: ignore[attr-defined]
            case = parameters.get("case")
            processor = case.processor if case else parameters.get("processor") or parameters.get("name")
            promise = re.sub(r"^test_|\[.*", "", item.name).replace("_", " ")
            more = [str(value) for name, value in parameters.items() if name in ("fault", "mode")]
            if case:
                promise = case.key + (f" when {case.number}" if case.number else "")
            self._of[item.nodeid] = processor, " ".join([promise, *more])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        processor, promise = self._of[report.nodeid]
        reason = ""
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
        elif report.outcome == "failed":
            reason = str(report.longrepr).strip().splitlines()[-1][:200]
        self.found[processor][promise].append((report.outcome, reason))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("-k", default="", help="only these, as pytest's -k")
    options = parser.parse_args()
    collector = Collector()
    chosen = ["-k", options.k] if options.k else []
    pytest.main(
        ["-q", "--no-header", "-p", "no:terminal", str(ROOT / "tests/contract"), *chosen], [collector]
    )
    found = {name: dict(promises) for name, promises in sorted(collector.found.items())}
    if options.json:
        print(json.dumps(found, indent=1))
    elif options.markdown:
        print(_markdown(found))
    else:
        print(_text(found))
    broken = any(
        outcome == "failed"
        for promises in found.values()
        for told in promises.values()
        for outcome, _ in told
    )
    return 1 if broken or not found else 0


def _word(told: list[tuple[str, str]]) -> tuple[str, str]:
    """One word for a promise, and the first reason where it is not a plain pass."""
    for outcome, word in (("failed", "BROKEN"), ("passed", "pass")):
        for one, reason in told:
            if one == outcome:
                return word, reason
    return "gap", told[0][1]


def _text(found: dict[str, dict[str, list[tuple[str, str]]]]) -> str:
    lines = []
    for name, promises in found.items():
        words = [_word(told)[0] for told in promises.values()]
        lines.append(
            f"{name}: {words.count('pass')} kept, {words.count('gap')} gaps, {words.count('BROKEN')} broken"
        )
        lines += [
            f"  {word:7}{promise}{f': {reason}' if reason else ''}"
            for promise, told in promises.items()
            for word, reason in [_word(told)]
        ]
    return "\n".join(lines)


def _markdown(found: dict[str, dict[str, list[tuple[str, str]]]]) -> str:
    promises = sorted({promise for kept in found.values() for promise in kept if " when " not in promise})
    lines = [f"| promise | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    for promise in promises:
        cells = [_word(kept[promise])[0] if promise in kept else "–" for kept in found.values()]
        lines.append(f"| {promise} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
