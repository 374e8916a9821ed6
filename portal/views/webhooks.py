"""`POST /webhooks/{account token}`: proved, stored, answered; nothing else happens here."""

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from portal import clock, models, walls, webhooks, work
from portal.connect import open_gateway
from portal.gateways.base import BadSignature, Event, Unavailable


async def receive(request: Request) -> Response:
    body = await request.body()
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    state = request.app.state
    try:
        with walls.wide("webhook"):
            account = await state.database.read(webhooks.account_by_token, request.path_params["token"])
        if account is None:
            return PlainTextResponse("No such address.", 404)
        walls.narrow(account.portal_id)
        if account.disconnected_at is not None:
            return PlainTextResponse("This account is no longer connected here.", 410)
        events = await _proved(request, account, headers, body)
        await state.database.write(webhooks.store, account, events, headers, body, clock.now())
    except BadSignature:
        return PlainTextResponse("The signature is not right.", 400)
    except Unavailable:
        return PlainTextResponse("The certificate could not be had; please send again.", 503)
    except (DBAPIError, PoolTimeout):
        return PlainTextResponse("Not stored; please send again.", 503, headers={"Retry-After": "10"})
    work.nudge()
    return Response(status_code=200)


async def _proved(
    request: Request, account: models.Account, headers: list[tuple[str, str]], body: bytes
) -> list[Event]:
    """The events of a delivery; while a secret is being changed over, the one of before proves it too."""
    state, now = request.app.state, clock.now()
    overlap = account.previous_credentials and account.previous_until and account.previous_until > now
    for previous in (False, True) if overlap else (False,):
        gateway = open_gateway(state.settings, state.vault, account, previous=previous)
        try:
            certificate = await gateway.certificate(dict(request.headers))
            return gateway.verify(headers, body, now, certificate)
        except BadSignature:
            if previous or not overlap:
                raise
        finally:
            await gateway.aclose()
    raise AssertionError("unreachable")
