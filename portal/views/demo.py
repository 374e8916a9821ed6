"""The demo's own addresses: mailbox, reset, clock, switches. In any other mode they are not there."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from portal import clock, render, work


def _demo(request: Request) -> Any:
    demo = getattr(request.app.state, "demo", None)
    client = request.client.host if request.client else ""
    if demo is None or client not in ("127.0.0.1", "::1", "testclient"):
        raise HTTPException(404)
    return demo


async def mailbox(request: Request) -> Response:
    mails = list(enumerate(_demo(request).mailbox.mails))[::-1]
    return render.page(request, "demo_mailbox.html", mails=mails)


async def mailbox_json(request: Request) -> Response:
    to = request.query_params.get("to")
    mails = [mail for mail in _demo(request).mailbox.mails[::-1] if to in (None, mail.to)]
    return JSONResponse([asdict(mail) for mail in mails])


async def mail_html(request: Request) -> Response:
    """One mail as its reader would see it, with the inline styles that mails need."""
    mails = _demo(request).mailbox.mails
    number = request.path_params["number"]
    if number >= len(mails):
        raise HTTPException(404)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src http://*.localhost:*; base-uri 'none'"
    return HTMLResponse(mails[number].html, headers={"Content-Security-Policy": policy})


async def reset(request: Request) -> Response:
    await _demo(request).reset()
    return JSONResponse({"ok": True})


async def set_clock(request: Request) -> Response:
    """`{"now": ISO 8601}` or `{"advance": seconds}`."""
    demo = _demo(request)
    wanted = await _body(request)
    try:
        if "now" in wanted:
            moment = datetime.fromisoformat(wanted["now"])
            offset = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)
        else:
            offset = clock.offset() + timedelta(seconds=float(wanted["advance"]))
        moved = datetime.now(UTC) + offset
    except (KeyError, TypeError, ValueError, OverflowError):
        raise HTTPException(422, 'Send {"now": "2026-12-01T10:00:00Z"} or {"advance": 3600}.') from None
    demo.move_clock(offset)
    work.nudge()
    return JSONResponse({"now": moved.isoformat()})


async def switch(request: Request) -> Response:
    simulator = _demo(request).simulators.get(request.path_params["name"])
    if simulator is None:
        raise HTTPException(404)
    wanted = await _body(request)
    try:
        simulator.switch(str(wanted.get("mode")))
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    return JSONResponse({"mode": simulator.mode})


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        raise HTTPException(422, "Send a JSON object.") from None
    if not isinstance(body, dict):
        raise HTTPException(422, "Send a JSON object.")
    return body
