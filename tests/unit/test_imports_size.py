"""A shop of ten thousand objects is read in whole, from a Stripe that works them out."""

import gc
import importlib
import json
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from portal import models
from portal.db import Database
from seeds.simulators._stripe.crowd import EACH, OBJECTS
from seeds.simulators.stripe import Simulator

bench = importlib.import_module("bench.import")  # whose name is a word of the language

BETWEEN = (62, 92)  # of the pages: charges all of them
GROWS_BY = 400_000  # bytes at most from one to the other; what is kept of each object would make more


class Growth:
    """How much more Python holds at a later page than at an earlier one, by its own count."""

    def __init__(self) -> None:
        self.begin = self.end = 0

    def told(self, run: models.ImportRun) -> None:
        first, last = BETWEEN
        if run.pages == first - 2:  # what one page holds is counted on both sides
            tracemalloc.start()
        elif run.pages == first:
            self.begin = self._held()
        elif run.pages == last:
            self.end = self._held()
            tracemalloc.stop()

    @staticmethod
    def _held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]


def test_ten_thousand_objects_are_read_in_and_everybody_has_theirs(database: Database) -> None:
    wanted, growth = (10_000, Growth()) if database.is_sqlite else (1_000, None)
    url = database.engine.url.render_as_string(hide_password=False)
    also = growth.told if growth else None
    result = bench.read_everything(url, wanted, also=also, start="fork")
    if growth is not None:
        assert growth.begin > 0
        assert growth.end - growth.begin < GROWS_BY  # a page at a time, however many there are
    people = wanted // OBJECTS
    assert result.objects == result.rows == wanted
    assert result.pages == 2 * -(-people // 100) + 2 * -(-people * EACH // 100) + 1  # and no Checkout order

    def count(model: type[models._Mirrored] | type[models.Customer], *where: object) -> int:
        return database.read_now(
            lambda db: db.execute(select(func.count()).select_from(model).where(*where)).scalar_one()  # type: ignore[arg-type]
        )

    assert count(models.Customer) == people
    assert count(models.Payment) == count(models.Invoice) == people * EACH
    for model in (models.Subscription, models.Payment, models.Invoice, models.RemoteCustomer):
        assert count(model, model.customer_id.is_(None)) == 0, model.__name__  # type: ignore[union-attr]
    linked = models.Payment.subscription_remote.is_not(None)  # type: ignore[union-attr]
    assert count(models.Payment, linked) == people * EACH


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/subscriptions", "/v1/invoices", "/v1/charges"])
def test_a_crowd_is_listed_once_newest_first_and_kept_nowhere(path: str) -> None:
    simulator = Simulator(lambda: datetime(2026, 11, 28, tzinfo=UTC))
    account = simulator.add_account("sk_test_crowd")
    crowd = simulator.crowd(account, 130)
    before = len(str(simulator.state))
    seen: list[tuple[int, str]] = []
    after: dict[str, str] = {}
    while True:
        page = crowd.page(path, {"limit": "100", **after})
        assert page is not None
        said = json.loads(page)
        seen += [(one["created"], one["id"]) for one in said["data"]]
        if not said["has_more"]:
            break
        after = {"starting_after": seen[-1][1]}
    assert len(seen) == len(set(seen)) == crowd.count(path)
    assert [created for created, _ in seen] == sorted((created for created, _ in seen), reverse=True)
    assert len(str(simulator.state)) == before


def test_a_crowds_payments_of_invoices_are_found_by_their_time() -> None:
    simulator = Simulator(lambda: datetime(2026, 11, 28, tzinfo=UTC))
    crowd = simulator.crowd(simulator.add_account("sk_test_crowd"), 500)
    low, high = (datetime(2026, month, 1, tzinfo=UTC) for month in (5, 6))
    window = {"gte": str(int(low.timestamp())), "lte": str(int(high.timestamp()))}
    page = crowd.page("/v1/invoice_payments", {"limit": "100", "created": window})
    assert page is not None
    made = [one["created"] for one in json.loads(page)["data"]]
    every = [crowd._made("/v1/invoice_payments", number) for number in range(2000)]
    inside = [one for one in every if low.timestamp() <= one <= high.timestamp()]
    assert made[: len(inside)] == inside
    assert len(made) - len(inside) <= 1
    assert timedelta(seconds=made[0] - made[-1]) < timedelta(days=32)
