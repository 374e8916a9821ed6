"""Whether a key of Stripe's is good, and for what.

A restricted key cannot be asked what it may do: one of everything is read, and writes are tried on objects that do not
exist, so that nothing can happen. What a key lacks stands in the refusal.
"""

from portal.gateways._stripe.shapes import as_dict, id_of
from portal.gateways._stripe.wire import Json, Refusal, Wire, error_of, permission_of
from portal.gateways.base import Health

READS = (
    "customers",
    "subscriptions",
    "invoices",
    "invoice_payments",
    "charges",
    "refunds",
    "checkout/sessions",
    "products",
)
NOBODY = "portal_key_check"
WRITES: tuple[tuple[str, Json], ...] = (
    (f"subscriptions/{NOBODY}", {}),
    (f"customers/{NOBODY}", {}),
    ("invoices/create_preview", {"subscription": NOBODY}),
    (f"checkout/sessions/{NOBODY}/expire", {}),
    ("billing_portal/sessions", {"customer": NOBODY}),
)
READ_ONE = (f"payment_methods/{NOBODY}", f"setup_intents/{NOBODY}")


async def check(wire: Wire, live: bool, restricted: bool) -> Health:
    missing: dict[str, None] = {}
    try:
        for path in READS:
            await _probe(wire, missing, "get", path, {"limit": 1})
        if restricted:
            for path in READ_ONE:
                await _probe(wire, missing, "get", path, {})
            for path, params in WRITES:
                await _probe(wire, missing, "post", path, params)
    except Refusal as refusal:
        error = error_of(refusal, writes=False)
        if refusal.status != 401:
            raise error from refusal
        return Health(ok=False, live=live, hint=error.hint)
    named = ", ".join(missing)
    hint = f"Give the restricted key these permissions in Stripe: {named}." if missing else None
    return Health(ok=not missing, live=live, account=await _account(wire), missing=tuple(missing), hint=hint)


async def _probe(wire: Wire, missing: dict[str, None], method: str, path: str, params: Json) -> None:
    try:
        await wire.send(method, f"/v1/{path}", params)
    except Refusal as refusal:
        if refusal.status == 403:
            missing[permission_of(refusal) or path] = None
        elif refusal.status not in (400, 404):
            raise


async def _account(wire: Wire) -> str | None:
    try:
        account = await wire.send("get", "/v1/account", {})
    except Refusal:
        return None  # a restricted key need not see it
    return as_dict(account.get("business_profile")).get("name") or id_of(account)
