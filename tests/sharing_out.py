"""Which of pytest's processes takes which file, so that no core waits for another at the end."""

from typing import Any

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

# The longest first: one that began last would run on alone. A file that is not here comes after them.
LONGEST = (
    *("tests/contract/test_faults.py", "tests/unit/test_crash.py", "tests/contract/test_capabilities.py"),
    *("tests/unit/test_faulty.py", "tests/unit/test_sync.py", "tests/contract/test_killed.py"),
    *("tests/unit/test_doctor.py", "tests/contract/test_registration.py", "tests/unit/test_api.py"),
    *("tests/unit/test_invoices.py", "tests/unit/test_bench.py", "tests/unit/test_tabs.py"),
    *("tests/unit/test_uploads.py", "tests/unit/test_domains.py", "tests/unit/test_openapi.py"),
    *("tests/unit/settings/test_processors.py", "tests/unit/test_pdf.py"),
    *("tests/e2e/test_processors.py", "tests/e2e/test_accessibility.py", "tests/e2e/test_actions.py"),
    *("tests/e2e/test_merchant.py", "tests/e2e/test_merchant_pages.py", "tests/e2e/test_tabs.py"),
)
_PLACES = {name: place for place, name in enumerate(LONGEST)}
HELP = 2  # so many files with a browser are left to the process that is at them: another's demo takes longer to start


def has_browser(file: str) -> bool:
    return file.startswith("tests/e2e/")


def place(file: str) -> tuple[bool, int]:
    """Browser tests last: once Playwright has begun, its event loop runs in this thread, where no other can then."""
    return has_browser(file), _PLACES.get(file, len(_PLACES))


class SharingOut(LoadFileScheduling):  # type: ignore[misc]
    """Of three processes or more, one is at the browser tests from the start, since much of their time is waiting;
    the others come to them when nothing else is left. After a browser test a process takes no other kind."""

    _browser: WorkerController | None = None

    def _assign_work_unit(self, node: WorkerController) -> None:
        file = self._next_for(node)
        if file is None:
            node.shutdown()
            return
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)

    def _next_for(self, node: WorkerController) -> str | None:
        mine: dict[str, Any] = self.assigned_work[node]
        browsers = [file for file in self.workqueue if has_browser(file)]
        others = [file for file in self.workqueue if not has_browser(file)]
        if self._browser is None and browsers and self.numnodes > 2:
            self._browser = node
        if node is self._browser or any(map(has_browser, mine)):
            others = []
        elif self._browser in self.assigned_work and len(browsers) <= HELP:
            browsers = []
        return next(iter(others + browsers), None)
