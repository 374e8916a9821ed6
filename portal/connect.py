"""From an account in the database to a gateway ready for use."""

from portal import models
from portal.gateways import gateway
from portal.gateways.base import Gateway
from portal.settings import Settings
from portal.vault import Vault


def open_gateway(
    settings: Settings,
    vault: Vault,
    account: models.Account,
    patient: bool = False,
    previous: bool = False,
) -> Gateway:
    """The gateway of an account; who opens it calls `aclose()`.

    In the demo it speaks with the account's simulator. `patient` allows the long time-outs that only the worker may
    wait for; `previous` takes the credentials of before a change. Raises VaultError where no key opens them.
    """
    sealed = account.previous_credentials if previous else account.credentials
    assert sealed is not None
    return gateway(
        account.processor,
        vault.open(account.portal_id, account.id, sealed),
        variant=account.variant,
        simulator=simulator(settings, account.processor),
        patient=patient,
    )


def simulator(settings: Settings, processor: str) -> str | None:
    """The address that stands in for a processor's hosts; None outside the demo."""
    return settings.simulators.get(processor) if settings.demo else None
