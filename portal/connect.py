"""From an account in the database to a gateway ready for use."""

from collections.abc import Mapping

from portal import models
from portal.gateways import gateway
from portal.gateways.base import Gateway, Unsupported
from portal.settings import Settings
from portal.vault import Vault


class Disconnected(Unsupported):
    """The merchant has taken the account away: nothing is called there any more."""

    def __init__(self) -> None:
        super().__init__(
            "This shop no longer uses this payment company here.", "The account is disconnected."
        )


def open_gateway(
    settings: Settings,
    vault: Vault,
    account: models.Account,
    patient: bool = False,
    previous: bool = False,
) -> Gateway:
    """The gateway of an account; who opens it calls `aclose()`.

    In the demo it speaks with the account's simulator. `patient` allows the long time-outs that only the worker may
    wait for; `previous` takes the credentials of before a change. Raises VaultError where no key opens them, and
    Disconnected where the account has none any more.
    """
    if account.disconnected_at is not None:
        raise Disconnected
    sealed = account.previous_credentials if previous else account.credentials
    assert sealed is not None
    credentials = vault.open(account.portal_id, account.id, sealed)
    return new_gateway(settings, account.processor, account.variant, credentials, patient)


def new_gateway(
    settings: Settings,
    processor: str,
    variant: str | None,
    credentials: Mapping[str, str],
    patient: bool = False,
) -> Gateway:
    """The same for credentials that are not kept yet."""
    return gateway(
        processor, credentials, variant=variant, simulator=simulator(settings, processor), patient=patient
    )


def simulator(settings: Settings, processor: str) -> str | None:
    """The address that stands in for a processor's hosts; None outside the demo."""
    return settings.simulators.get(processor) if settings.demo else None
