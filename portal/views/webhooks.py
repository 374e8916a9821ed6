"""`POST /webhooks/{account token}`: proved, stored, answered; nothing else happens here."""

from sqlalchemy.exc import DBAPIError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from portal import clock, webhooks, work
from portal.connect import open_gateway
from portal.gateways.base import BadSignature, Unavailable


async def receive(request: Request) -> Response:
    body = await request.body()
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    state = request.app.state
    try:
        account = await state.database.read(webhooks.account_by_token, request.path_params["token"])
        if account is None:
            return PlainTextResponse("No such address.", 404)
        gateway = open_gateway(state.settings, state.vault, account)
        try:
            certificate = await gateway.certificate(dict(request.headers))
            events = gateway.verify(headers, body, clock.now(), certificate)
        finally:
            await gateway.aclose()
        await state.database.write(webhooks.store, account, events, headers, body, clock.now())
    except BadSignature:
        return PlainTextResponse("The signature is not right.", 400)
    except Unavailable:
        return PlainTextResponse("The certificate could not be had; please send again.", 503)
    except DBAPIError:
        return PlainTextResponse("Not stored; please send again.", 503, headers={"Retry-After": "10"})
    work.nudge()
    return Response(status_code=200)
