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
    from portal.views import (
        actions,
        demo,
        health,
        help,
        invoices,
        login,
        orders,
        payments,
        requests,
        static,
        subscriptions,
        upcoming,
        webhooks,
    )

    public = [
        Route("/", login.root, name="root"),
        Route("/customers", login.form, name="sign_in"),
        Route("/customers/help/what-can-i-do", help.what_can_i_do, name="what_can_i_do"),
        Route("/customers/login", login.ask, methods=["POST"], name="ask"),
        Route("/customers/login/check", login.check_mail, name="check_mail"),
        Route("/customers/login/code", login.redeem_code, methods=["POST"], name="redeem_code"),
        Route("/customers/login/{token}", login.link, methods=["GET", "HEAD"], name="link"),
        Route("/customers/login/{token}", login.redeem_link, methods=["POST"], name="redeem_link"),
        Route(
            "/customers/return/{state}", actions.come_back, methods=["GET", "POST", "HEAD"], name="come_back"
        ),
    ]
    files = [
        Route("/customers/static/{name}", static.file, name="static"),
        Route("/customers/logo/{sha}.png", static.logo, name="logo"),
    ]
    customer = [
        Route("/customers/orders", orders.index, name="orders"),
        Route("/customers/orders/{order_id:id}", orders.show, name="order"),
        Route("/customers/subscriptions", subscriptions.index, name="subscriptions"),
        Route("/customers/subscriptions/{subscription_id:id}/card", actions.card, name="card"),
        Route("/customers/subscriptions/{subscription_id:id}/{step}", actions.step, name="step"),
        Route(
            "/customers/subscriptions/{subscription_id:id}/{step}", actions.act, methods=["POST"], name="act"
        ),
        Route(
            "/customers/subscriptions/{subscription_id:id}/{step}/check",
            actions.look_again,
            methods=["POST"],
            name="look_again",
        ),
        Route(
            "/customers/subscriptions/{subscription_id:id}/requests/{request_id:id}/withdraw",
            actions.withdraw,
            methods=["POST"],
            name="withdraw_here",
        ),
        Route("/customers/requests", requests.index, name="requests"),
        Route(
            "/customers/requests/{request_id:id}/withdraw",
            actions.withdraw,
            methods=["POST"],
            name="withdraw",
        ),
        Route("/customers/payments/{payment_id:id}/refund", requests.refund, methods=["POST"], name="refund"),
        Route("/customers/orders/{order_id:id}/pay_now", orders.pay_now, methods=["POST"], name="pay_order"),
        Route("/customers/leave/{sealed}/start.js", actions.start, methods=["GET"], name="leave_start"),
        Route("/customers/leave/{sealed}", actions.leave, methods=["GET"], name="leave"),
        Route("/customers/invoices/{payment_id:id}", invoices.download, name="invoice"),
        Route("/customers/upcoming", upcoming.index, name="upcoming"),
        Route("/customers/upcoming.ics", upcoming.calendar, name="calendar"),
        Route("/customers/payments", payments.index, name="payments"),
        Route("/customers/sessions", login.sessions, name="sessions"),
        Route("/customers/sessions/end", login.sign_out_everywhere, methods=["POST"], name="end_sessions"),
        Route(
            "/customers/sessions/{session_id:id}/end",
            login.end_session,
            methods=["POST"],
            name="end_session",
        ),
        Route("/customers/logout", login.sign_out, methods=["POST"], name="sign_out"),
    ]
    machine = [
        Route("/webhooks/{token}", webhooks.receive, methods=["POST"], name="webhook"),
        Route("/health/live", health.live, name="live"),
        Route("/health/ready", health.ready, name="ready"),
        Route("/__demo/mailbox", demo.mailbox, name="demo_mailbox"),
        Route("/__demo/mailbox.json", demo.mailbox_json, name="demo_mailbox_json"),
        Route("/__demo/mailbox/{number:int}.html", demo.mail_html, name="demo_mail"),
        Route("/__demo/reset", demo.reset, methods=["POST"], name="demo_reset"),
        Route("/__demo/clock", demo.set_clock, methods=["POST"], name="demo_clock"),
        Route("/__demo/simulators/{name}/switch", demo.switch, methods=["POST"], name="demo_switch"),
    ]
    return [*public, *files, *customer, *machine]
