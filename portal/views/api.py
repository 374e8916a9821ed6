"""`/api/v1/…`: the merchant's own app. A bearer key is the proof and decides the portal; nothing else is looked at."""

import functools
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from portal import api, clock, openapi, shapes, walls, work
from portal.api import Problem, Wrong
from portal.openapi import BASE, Operation

OPERATIONS: list[Operation] = []
MOST_DEEP = 10  # of a body's JSON
MOST_TOLD = 20  # of what is wrong with it
_REFERENCE = re.compile(r"[2-9A-Za-z]{3}-[2-9A-Za-z]{3}")
_NO_KEY = "Send a key of this portal that is not revoked, as `Authorization: Bearer pk_…`."


@dataclass(frozen=True, slots=True)
class Call:
    """A call that may be answered: whose key it is, and what was handed in."""

    request: Request
    key: api.Caller
    query: Any
    body: Any

    async def read(self, fn: Callable[..., Any], *args: Any) -> Any:
        return await self.request.app.state.database.read(fn, self.key.portal_id, *args)

    async def write(self, fn: Callable[..., Any], *args: Any) -> Any:
        done = await self.request.app.state.database.write(fn, *args)
        work.nudge()
        return done


View = Callable[[Call], Awaitable[BaseModel]]


def operation(
    method: str,
    path: str,
    summary: str,
    answer: type[BaseModel],
    scope: str | None = None,
    query: type[BaseModel] | None = None,
    body: type[BaseModel] | None = None,
    problems: tuple[str, ...] = (),
) -> Callable[[View], Callable[[Request], Awaitable[Response]]]:
    """A view of the API: its key, its parameters and its body are looked at before it is asked."""

    def made(view: View) -> Callable[[Request], Awaitable[Response]]:
        @functools.wraps(view)
        async def guarded(request: Request) -> Response:
            limits: dict[str, str] = {}
            try:
                key = await _caller(request, limits)
                if scope is not None and scope not in key.scopes:
                    raise Problem("scope_missing", f"The key has no scope {scope}.")
                given = _query(request, query)
                handed_in = await _body(request, body) if body is not None else None
                found = await view(Call(request, key, given, handed_in))
            except Problem as problem:
                return answer_problem(request, problem, limits)
            content = found.model_dump_json(exclude_unset=True)
            return Response(
                content, media_type="application/json", headers={**limits, "Cache-Control": "no-store"}
            )

        guarded.guard = ("key", scope)  # type: ignore[attr-defined]
        OPERATIONS.append(
            Operation(method, path, view.__name__, summary, scope, answer, query, body, problems, guarded)
        )
        return guarded

    return made


async def _caller(request: Request, limits: dict[str, str]) -> api.Caller:
    """Whose key this is; the same answer to every one that is none."""
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    database = request.app.state.database
    found: api.Caller | None = None
    if kind.lower() == "bearer":
        with walls.wide("api key"):
            found = await database.read(api.caller, text.strip()[:100])
    if found is None:
        raise Problem("unauthorized", _NO_KEY, headers={"WWW-Authenticate": 'Bearer realm="Portal"'})
    walls.narrow(found.portal_id)
    use: api.Use = await database.write(api.count, found.key_id, clock.now())
    limits["RateLimit-Limit"] = str(api.PER_MINUTE)
    limits["RateLimit-Remaining"] = str(max(0, use.left))
    limits["RateLimit-Reset"] = str(use.seconds)
    if use.left < 0:
        detail = f"More than {api.PER_MINUTE} calls in a minute. Go on in {use.seconds} seconds."
        raise Problem("rate_limited", detail, headers={"Retry-After": str(use.seconds)})
    return found


def _query(request: Request, model: type[BaseModel] | None) -> BaseModel | None:
    given: dict[str, str] = {}
    wrong = []
    for name, value in request.query_params.multi_items():
        if name in given:
            wrong.append(Wrong(pointer=_parameter(name), detail="It is there twice."))
        given[name] = value
    if model is None and given:
        wrong += [
            Wrong(pointer=_parameter(name), detail="This address takes no parameters.") for name in given
        ]
    if not wrong and model is not None:
        try:
            return model.model_validate(given)
        except ValidationError as error:
            wrong = [
                Wrong(pointer=_parameter(str(one["loc"][0])), detail=_words(one)) for one in _told(error)
            ]
    if wrong:
        raise Problem("invalid", "A parameter is not as it should be.", wrong[:MOST_TOLD])
    return None


def _parameter(name: str) -> str:
    return "?" + name[:50]


async def _body(request: Request, model: type[BaseModel]) -> BaseModel:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem("unsupported_media_type", "Send JSON, with Content-Type: application/json.")
    raw = await request.body()
    _must_be_plain(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        told = _told(error)
        if any(one["type"] == "json_invalid" for one in told):
            raise Problem("malformed", f"The body can't be read. {_words(told[0])}") from None
        wrong = [Wrong(pointer=_pointer(one["loc"]), detail=_words(one)) for one in told]
        raise Problem("invalid", "Nothing was done: see `errors`.", wrong) from None


def _must_be_plain(raw: bytes) -> None:
    """Refuse what is no JSON, or such that two readers may read it in two ways."""
    try:
        found = json.loads(raw.decode(), parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except RecursionError:
        raise Problem("malformed", "The body is nested too deeply.") from None
    except ValueError as error:  # of the decoder too
        words = (
            str(error) if isinstance(error, json.JSONDecodeError | _Ambiguous) else "not UTF-8, or no JSON"
        )
        raise Problem("malformed", f"The body can't be read: {words}.") from None
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > MOST_DEEP:
            raise Problem("malformed", "The body is nested too deeply.")
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]


class _Ambiguous(ValueError):
    pass


def _no_constant(word: str) -> Any:
    raise _Ambiguous(f"{word} is no number of JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Ambiguous("a name stands twice in one object")
    return found


def _told(error: ValidationError) -> list[Any]:
    return error.errors(include_url=False, include_context=False, include_input=False)[:MOST_TOLD]


def _words(one: Any) -> str:
    known = {"extra_forbidden": "There is no such field.", "missing": "It is missing."}
    words = str(one["msg"]).removeprefix("Value error, ")
    return known.get(one["type"], f"{words[:1].upper()}{words[1:]}.")


def _pointer(loc: tuple[int | str, ...]) -> str:
    return "".join(f"/{str(part)[:100].replace('~', '~0').replace('/', '~1')}" for part in loc)


# Problems


def answer_problem(request: Request, problem: Problem, limits: dict[str, str] | None = None) -> Response:
    shape = api.ProblemShape(
        type=f"urn:portal:problem:{problem.code}",
        title=problem.title,
        status=problem.status,
        code=problem.code,
        detail=problem.detail,
        request_id=getattr(request.state, "request_id", ""),
        errors=list(problem.errors),
    )
    return Response(
        shape.model_dump_json().encode(errors="replace"),
        problem.status,
        {**(limits or {}), **problem.headers, "Cache-Control": "no-store"},
        "application/problem+json",
    )


_BY_STATUS = {status: code for code, (status, _title) in api.PROBLEMS.items()}
_SENTENCES = {
    "not_found": "There is nothing at this address.",
    "method_not_allowed": "This address does not take this method.",
    "too_large": "Send less at once: a body has at most 1 MB.",
    "too_slow": "The body took too long to arrive.",
    "unavailable": "Try again in a little while.",
}


def is_api(path: str) -> bool:
    return path.startswith(f"{BASE}/")


def answer_error(request: Request, status: int) -> Response:
    """What went wrong before or outside of a view, in the same shape."""
    code = _BY_STATUS.get(status, "fault")
    sentence = _SENTENCES.get(
        code, "It is written down. Try again; if it stays, tell whoever runs the portal."
    )
    headers = {"Allow": ", ".join(_methods(request))} if status == 405 else {}
    return answer_problem(request, Problem(code, sentence, headers=headers))


def _methods(request: Request) -> list[str]:
    """All that an address takes; the routes of its methods do not know of each other."""
    return sorted(
        {
            method
            for route in request.app.routes
            if route.matches(request.scope)[0] is not Match.NONE
            for method in getattr(route, "methods", None) or ()
        }
    )


# The operations


@operation(
    "POST",
    "/portal-sessions",
    "Make a link that takes a customer into the portal, signed in. It works once, for five minutes.",
    api.SessionOut,
    "sessions:write",
    body=api.SessionIn,
    problems=("conflict",),
)
async def create_portal_session(call: Call) -> BaseModel:
    settings = call.request.app.state.settings
    found: api.SessionOut = await call.write(api.open_session, settings, call.key, call.body, clock.now())
    return found


@operation("GET", "/accounts", "The connected processor accounts.", api.Accounts)
async def list_accounts(call: Call) -> BaseModel:
    found: api.Accounts = await call.read(api.accounts)
    return found


@operation(
    "GET",
    "/customers",
    "Customers, newest first; by `email`, the one who has it, as a further address too.",
    api.Customers,
    "customers:read",
    query=api.CustomersQuery,
)
async def list_customers(call: Call) -> BaseModel:
    found: api.Customers = await call.read(api.customers, call.query)
    return found


@operation(
    "GET",
    "/customers/{customer_id}",
    "One customer, and how much of theirs there is.",
    shapes.CustomerInFull,
    "customers:read",
)
async def get_customer(call: Call) -> BaseModel:
    found: shapes.CustomerInFull = await call.read(api.customer, call.request.path_params["customer_id"])
    return found


@operation("GET", "/orders", "Orders, newest first.", api.Orders, "orders:read", query=api.OfCustomer)
async def list_orders(call: Call) -> BaseModel:
    found: api.Orders = await call.read(api.orders, call.query)
    return found


@operation("GET", "/orders/{order_id}", "One order.", shapes.Order, "orders:read")
async def get_order(call: Call) -> BaseModel:
    found: shapes.Order = await call.read(api.order, call.request.path_params["order_id"])
    return found


@operation(
    "PUT",
    "/orders",
    "Push up to 100 orders. Account and remote id are the key of each: sent again, nothing is made twice. All of them "
    "are written, or none.",
    api.PushedOrders,
    "orders:write",
    body=api.OrdersIn,
)
async def push_orders(call: Call) -> BaseModel:
    found: api.PushedOrders = await call.write(api.push, call.key, call.body, clock.now())
    return found


@operation(
    "POST",
    "/orders",
    "Add up to 500 rows as a file has them: orders, payments, subscriptions. Each is taken or refused by itself; sent "
    "again, nothing is made twice.",
    api.AddedOrders,
    "orders:write",
    body=api.RowsIn,
)
async def add_orders(call: Call) -> BaseModel:
    now = clock.now()
    await call.read(api.may_add, call.body, now)
    as_of = call.body.as_of or now
    data: list[api.Added] = []
    for begin in range(0, len(call.body.orders), api.ROWS_AT_ONCE):
        data += await call.write(api.add, call.key, call.body, begin, as_of, now)
    return api.AddedOrders(data=data)


@operation(
    "GET",
    "/subscriptions",
    "Subscriptions, newest first.",
    api.Subscriptions,
    "subscriptions:read",
    query=api.OfCustomer,
)
async def list_subscriptions(call: Call) -> BaseModel:
    found: api.Subscriptions = await call.read(api.subscriptions, call.query)
    return found


@operation("GET", "/payments", "Payments, newest first.", api.Payments, "payments:read", query=api.OfCustomer)
async def list_payments(call: Call) -> BaseModel:
    found: api.Payments = await call.read(api.payments, call.query)
    return found


@operation(
    "GET",
    "/requests",
    "What customers ask of you: newest first; with `status`, what is due first.",
    api.Requests,
    "requests:read",
    query=api.RequestsQuery,
)
async def list_requests(call: Call) -> BaseModel:
    found: api.Requests = await call.read(api.asked, call.query)
    return found


@operation(
    "POST",
    "/requests/{reference}/done",
    "Say that you did it. The customer gets a mail. Said again, nothing changes.",
    shapes.Request,
    "requests:write",
    body=api.AnswerIn,
    problems=("conflict",),
)
async def mark_request_done(call: Call) -> BaseModel:
    return await _answer(call, "done")


@operation(
    "POST",
    "/requests/{reference}/decline",
    "Say that you won't, and why. The customer gets a mail. Said again, nothing changes.",
    shapes.Request,
    "requests:write",
    body=api.AnswerIn,
    problems=("conflict",),
)
async def decline_request(call: Call) -> BaseModel:
    return await _answer(call, "declined")


async def _answer(call: Call, status: str) -> BaseModel:
    reference = call.request.path_params["reference"]
    if not _REFERENCE.fullmatch(reference):
        raise Problem("not_found", "This portal has no such request.")
    found: shapes.Request = await call.write(
        api.answer, call.key, reference, status, call.body.say, clock.now()
    )
    return found


@operation(
    "GET",
    "/events",
    "The portal's own events of the last 30 days, oldest first: `after` with the last you have seen gives what is new.",
    api.Events,
    "events:read",
    query=api.Paged,
)
async def list_events(call: Call) -> BaseModel:
    found: api.Events = await call.read(api.events, call.query, clock.now())
    return found


# The description


@functools.cache
def _document() -> bytes:
    return json.dumps(openapi.document(OPERATIONS)).encode()


async def describe(request: Request) -> Response:
    """The API's own description. Public: it says nothing of any portal."""
    return Response(
        _document(), media_type="application/json", headers={"Cache-Control": "public, max-age=300"}
    )
