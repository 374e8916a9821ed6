"""Every address, in groups. PUBLIC and CUSTOMER are all under /customers on a portal's host; MACHINE reads no Host."""

from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import BaseRoute, Route

from portal.ids import id_text, parse_id


class IdConvertor(Convertor[int]):
    """Row ids in addresses; a malformed one is not found."""

    regex = "[0-7][0-9a-hjkmnp-tv-z]{12}"

    def convert(self, value: str) -> int:
        found = parse_id(value)
        assert found is not None
        return found

    def to_string(self, value: int) -> str:
        return id_text(value)


register_url_convertor("id", IdConvertor())


def routes() -> list[BaseRoute]:
    from portal.views import login, orders, payments, static, subscriptions, upcoming

    public = [
        Route("/", login.root, name="root"),
        Route("/customers", login.form, name="sign_in"),
        Route("/customers/login", login.ask, methods=["POST"], name="ask"),
        Route("/customers/login/check", login.check_mail, name="check_mail"),
        Route("/customers/login/code", login.redeem_code, methods=["POST"], name="redeem_code"),
        Route("/customers/login/{token}", login.link, methods=["GET", "HEAD"], name="link"),
        Route("/customers/login/{token}", login.redeem_link, methods=["POST"], name="redeem_link"),
    ]
    files = [
        Route("/customers/static/{name}", static.file, name="static"),
        Route("/customers/logo/{sha}.png", static.logo, name="logo"),
    ]
    customer = [
        Route("/customers/orders", orders.index, name="orders"),
        Route("/customers/orders/{order_id:id}", orders.show, name="order"),
        Route("/customers/subscriptions", subscriptions.index, name="subscriptions"),
        Route("/customers/upcoming", upcoming.index, name="upcoming"),
        Route("/customers/upcoming.ics", upcoming.calendar, name="calendar"),
        Route("/customers/payments", payments.index, name="payments"),
        Route("/customers/sessions", login.sessions, name="sessions"),
        Route("/customers/sessions/end", login.sign_out_everywhere, methods=["POST"], name="end_sessions"),
        Route("/customers/logout", login.sign_out, methods=["POST"], name="sign_out"),
    ]
    return [*public, *files, *customer]
