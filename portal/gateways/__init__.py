"""The registry: a processor is a module `portal.gateways.<name>` with a class `Adapter`, and its fact table."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module

# The folder of the fact tables is loaded first: who imports it later would else put it in the place of the function.
import portal.gateways.facts  # noqa: F401
from portal.gateways.base import Gateway
from portal.gateways.capabilities import facts, processors

__all__ = ["adapter", "facts", "gateway", "processors"]


@cache
def adapter(processor: str) -> type[Gateway]:
    """The adapter class of a processor; KeyError for a name that is not in the registry."""
    if processor not in processors():
        raise KeyError(processor)
    found: type[Gateway] = import_module(f"portal.gateways.{processor}").Adapter
    return found


def gateway(
    processor: str,
    credentials: Mapping[str, str],
    *,
    variant: str | None = None,
    simulator: str | None = None,
    patient: bool = False,
) -> Gateway:
    """A gateway ready for use; `simulator` is the base address that stands in for every host of the facts."""
    addresses = {}
    if simulator:
        hosts = facts(processor).hosts
        addresses = dict.fromkeys(
            (*hosts.calls, *hosts.links, *hosts.certificates, *hosts.scripts), simulator
        )
    return adapter(processor)(credentials, variant=variant, addresses=addresses, patient=patient)
