"""Every address, in groups. PUBLIC and CUSTOMER are all under /customers on a portal's host, MERCHANT answers on its
own host alone, MACHINE reads no Host."""

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


_PROCESSORS = "/settings/portals/{portal_id:id}/processors"
_ACCOUNT = f"{_PROCESSORS}/{{account_id:id}}"
_DEVELOPERS = "/settings/portals/{portal_id:id}/developers"
_ENDPOINT = f"{_DEVELOPERS}/endpoints/{{endpoint_id:id}}"
_REQUESTS = "/settings/portals/{portal_id:id}/requests"
_CUSTOMERS = "/settings/portals/{portal_id:id}/customers"
_CUSTOMER = f"{_CUSTOMERS}/{{customer_id:id}}"
_SHEETS = "/settings/portals/{portal_id:id}/sheets"
_SHEET = f"{_SHEETS}/{{sheet_id:id}}"
_EVENTS = "/settings/portals/{portal_id:id}/events"


def routes() -> list[BaseRoute]:
    from portal.views import (
        actions,
        addresses,
        api,
        demo,
        entry,
        find_order,
        health,
        help,
        internal,
        invoices,
        join,
        login,
        metrics,
        orders,
        payments,
        requests,
        static,
        subscriptions,
        upcoming,
        viewing,
        webhooks,
    )
    from portal.views.settings import (
        customers,
        developers,
        doctor,
        domain,
        door,
        events,
        keys,
        mails,
        overview,
        people,
        policy,
        portals,
        processor,
        processors,
        security,
        sheets,
    )
    from portal.views.settings import requests as desk

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
    public += [
        Route("/customers/view/end", viewing.end, methods=["POST"], name="end_view"),
        Route("/customers/view/{token}", viewing.link, methods=["GET", "HEAD"], name="view_link"),
        Route("/customers/view/{token}", viewing.begin, methods=["POST"], name="begin_view"),
    ]
    public += [
        Route("/customers/enter/{token}", entry.link, methods=["GET", "HEAD"], name="entry"),
        Route("/customers/enter/{token}", entry.enter, methods=["POST"], name="enter"),
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
        Route(
            "/customers/subscriptions/{subscription_id:id}/cancel/instead", actions.instead, name="instead"
        ),
        Route(
            "/customers/subscriptions/{subscription_id:id}/cancel/offer",
            actions.take_offer,
            methods=["POST"],
            name="take_offer",
        ),
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
        Route("/customers/orders/{order_id:id}/check", orders.check, methods=["GET"], name="check_order"),
        Route(
            "/customers/orders/{order_id:id}/check",
            orders.check_again,
            methods=["POST"],
            name="check_order_again",
        ),
        Route(
            "/customers/payments/{payment_id:id}/check",
            payments.check_again,
            methods=["POST"],
            name="check_payment_again",
        ),
        Route("/customers/leave/{sealed}/start.js", actions.start, methods=["GET"], name="leave_start"),
        Route("/customers/leave/{sealed}", actions.leave, methods=["GET"], name="leave"),
        Route("/customers/invoices/{payment_id:id}", invoices.download, name="invoice"),
        Route("/customers/upcoming", upcoming.index, name="upcoming"),
        Route("/customers/upcoming.ics", upcoming.calendar, name="calendar"),
        Route("/customers/payments", payments.index, name="payments"),
        Route("/customers/addresses", addresses.index, name="addresses"),
        Route("/customers/addresses", addresses.add, methods=["POST"], name="add_address"),
        Route("/customers/addresses/code", addresses.prove, methods=["POST"], name="prove_address"),
        Route("/customers/addresses/{join_id:id}/remove", addresses.ask_remove, name="ask_remove_address"),
        Route(
            "/customers/addresses/{join_id:id}/remove",
            addresses.remove,
            methods=["POST"],
            name="remove_address",
        ),
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
    merchant = [
        # The way in
        Route("/sign-in", door.form, name="merchant_sign_in"),
        Route("/sign-in", door.ask, methods=["POST"], name="merchant_ask"),
        Route("/sign-in/check", door.check_mail, name="merchant_check_mail"),
        Route("/sign-in/code", door.redeem_code, methods=["POST"], name="merchant_redeem_code"),
        Route("/sign-in/link/{token}", door.link, methods=["GET", "HEAD"], name="merchant_link"),
        Route("/sign-in/link/{token}", door.redeem_link, methods=["POST"], name="merchant_redeem_link"),
        Route("/sign-in/second", door.second, name="second"),
        Route("/sign-in/second", door.give_second, methods=["POST"], name="give_second"),
        Route("/sign-in/passkey/ask", keys.ask, methods=["POST"], name="ask_passkey"),
        Route("/sign-in/passkey", keys.show, methods=["POST"], name="show_passkey"),
        Route("/sign-out", door.sign_out, methods=["POST"], name="merchant_sign_out"),
        Route("/setup/{token}", door.setup, methods=["GET", "HEAD"], name="setup"),
        Route("/setup/{token}", door.take, methods=["POST"], name="take_setup"),
        Route("/invitations/{token}", door.invitation, methods=["GET", "HEAD"], name="invitation"),
        Route("/invitations/{token}", door.take, methods=["POST"], name="take_invitation"),
        Route("/static/{name}", static.file, name="merchant_static"),
        # Of the merchant
        Route("/settings", portals.index, name="portals"),
        Route("/settings/confirm", door.confirm, name="confirm"),
        Route("/settings/confirm", door.do_confirm, methods=["POST"], name="do_confirm"),
        Route("/settings/switch", door.switch, methods=["POST"], name="switch_merchant"),
        Route("/settings/people", people.index, name="people"),
        Route("/settings/people/invite", people.invite, methods=["POST"], name="invite"),
        Route("/settings/people/name", people.rename, methods=["POST"], name="rename_merchant"),
        Route("/settings/people/{member_id:id}", people.change, methods=["POST"], name="change_member"),
        Route(
            "/settings/people/invitations/{invitation_id:id}/withdraw",
            people.withdraw,
            methods=["POST"],
            name="withdraw_invitation",
        ),
        Route("/settings/audit", people.audit, name="audit"),
        Route("/settings/security", security.index, name="security"),
        Route("/settings/security/app", security.begin_app, methods=["POST"], name="begin_app"),
        Route("/settings/security/app/confirm", security.confirm_app, methods=["POST"], name="confirm_app"),
        Route("/settings/security/app/remove", security.remove_app, methods=["POST"], name="remove_app"),
        Route("/settings/security/passkeys/begin", keys.begin, methods=["POST"], name="begin_passkey"),
        Route("/settings/security/passkeys", keys.finish, methods=["POST"], name="add_passkey"),
        Route(
            "/settings/security/passkeys/{key_id:id}/remove",
            keys.remove,
            methods=["POST"],
            name="remove_passkey",
        ),
        Route("/settings/security/codes", security.new_codes, methods=["POST"], name="new_codes"),
        Route(
            "/settings/security/sessions/{session_id:id}/end",
            security.end_session,
            methods=["POST"],
            name="end_merchant_session",
        ),
        Route("/settings/security/sessions/end", security.end_others, methods=["POST"], name="end_others"),
        Route("/settings/doctor", doctor.show, name="doctor"),
        Route("/settings/doctor/keys", doctor.check_keys, methods=["POST"], name="doctor_keys"),
        Route("/settings/doctor/mail", doctor.send_mail, methods=["POST"], name="doctor_mail"),
        Route("/settings/doctor/{area}", doctor.area, name="doctor_area"),
        Route("/settings/brand/{colour}.css", portals.brand_css, name="brand_css"),
        # Settings > Customer Portal
        Route("/settings/portals/new", portals.new, name="new_portal"),
        Route("/settings/portals/new", portals.create, methods=["POST"], name="create_portal"),
        Route("/settings/portals/{portal_id:id}", portals.show, name="portal"),
        Route("/settings/portals/{portal_id:id}", portals.change, methods=["POST"], name="change_portal"),
        Route("/settings/portals/{portal_id:id}/preview", portals.preview, methods=["POST"], name="preview"),
        Route("/settings/portals/{portal_id:id}/logo", portals.put_logo, methods=["POST"], name="put_logo"),
        Route(
            "/settings/portals/{portal_id:id}/logo_dark",
            portals.put_dark_logo,
            methods=["POST"],
            name="put_dark_logo",
        ),
        Route("/settings/portals/{portal_id:id}/logo/{sha}.png", static.logo_of_site, name="site_logo"),
        Route("/settings/portals/{portal_id:id}/switch", portals.switch, methods=["POST"], name="switch"),
        # Overview
        Route("/settings/portals/{portal_id:id}/overview", overview.show, name="overview"),
        Route("/settings/portals/{portal_id:id}/overview.csv", overview.download, name="overview_csv"),
        # Domain
        Route("/settings/portals/{portal_id:id}/domain", domain.show, name="domain"),
        Route("/settings/portals/{portal_id:id}/domain/state", domain.state, name="domain_state"),
        Route("/settings/portals/{portal_id:id}/domain/look", domain.look, methods=["POST"], name="look_now"),
        Route("/settings/portals/{portal_id:id}/domain/name", domain.name, name="domain_name"),
        Route(
            "/settings/portals/{portal_id:id}/domain/name",
            domain.claim,
            methods=["POST"],
            name="claim_domain",
        ),
        Route("/settings/portals/{portal_id:id}/domain/release", domain.ask_release, name="ask_release"),
        Route(
            "/settings/portals/{portal_id:id}/domain/release",
            domain.release,
            methods=["POST"],
            name="release_domain",
        ),
        Route(
            "/settings/portals/{portal_id:id}/customers/{customer_id:id}/view",
            portals.view_as,
            methods=["POST"],
            name="view_as",
        ),
    ]
    app = [
        Route("/api/v1/openapi.json", api.describe, methods=["GET"], name="api_description"),
        Route(
            "/api/v1/portal-sessions", api.create_portal_session, methods=["POST"], name="api_portal_sessions"
        ),
        Route("/api/v1/accounts", api.list_accounts, methods=["GET"], name="api_accounts"),
        Route("/api/v1/customers", api.list_customers, methods=["GET"], name="api_customers"),
        Route("/api/v1/customers/{customer_id:id}", api.get_customer, methods=["GET"], name="api_customer"),
        Route("/api/v1/orders", api.list_orders, methods=["GET"], name="api_orders"),
        Route("/api/v1/orders", api.push_orders, methods=["PUT"], name="api_push_orders"),
        Route("/api/v1/orders", api.add_orders, methods=["POST"], name="api_add_orders"),
        Route("/api/v1/orders/{order_id:id}", api.get_order, methods=["GET"], name="api_order"),
        Route("/api/v1/subscriptions", api.list_subscriptions, methods=["GET"], name="api_subscriptions"),
        Route("/api/v1/payments", api.list_payments, methods=["GET"], name="api_payments"),
        Route("/api/v1/requests", api.list_requests, methods=["GET"], name="api_requests"),
        Route(
            "/api/v1/requests/{reference}/done",
            api.mark_request_done,
            methods=["POST"],
            name="api_request_done",
        ),
        Route(
            "/api/v1/requests/{reference}/decline",
            api.decline_request,
            methods=["POST"],
            name="api_request_decline",
        ),
        Route("/api/v1/events", api.list_events, methods=["GET"], name="api_events"),
    ]
    merchant += [
        # Processors and the matrix
        Route(_PROCESSORS, processors.index, name="processors"),
        Route(f"{_PROCESSORS}/matrix", processors.show_matrix, name="matrix"),
        Route(f"{_PROCESSORS}/new/{{processor}}", processors.new, name="new_account"),
        Route(
            f"{_PROCESSORS}/new/{{processor}}", processors.connect, methods=["POST"], name="connect_account"
        ),
        Route(_ACCOUNT, processor.show, name="account"),
        Route(_ACCOUNT, processor.change, methods=["POST"], name="change_account"),
        Route(f"{_ACCOUNT}/check", processor.check, methods=["POST"], name="check_account"),
        Route(f"{_ACCOUNT}/webhook", processor.register, methods=["POST"], name="register_webhook"),
        Route(f"{_ACCOUNT}/test-event", processor.test_event, methods=["POST"], name="test_event"),
        Route(f"{_ACCOUNT}/events", processor.events, name="account_events"),
        Route(f"{_ACCOUNT}/import", processor.reading, name="account_import"),
        Route(f"{_ACCOUNT}/import", processor.start_reading, methods=["POST"], name="start_import"),
        Route(f"{_ACCOUNT}/import/stop", processor.stop_reading, methods=["POST"], name="stop_import"),
        Route(f"{_ACCOUNT}/keys", processor.keys, name="account_keys"),
        Route(f"{_ACCOUNT}/keys", processor.rotate, methods=["POST"], name="rotate_keys"),
        Route(f"{_ACCOUNT}/disconnect", processor.ask_disconnect, name="ask_disconnect"),
        Route(f"{_ACCOUNT}/disconnect", processor.disconnect, methods=["POST"], name="disconnect"),
    ]
    merchant += [
        # Developers
        Route(_DEVELOPERS, developers.index, name="developers"),
        Route(
            f"{_DEVELOPERS}/return-urls", developers.change_return_urls, methods=["POST"], name="return_urls"
        ),
        Route(f"{_DEVELOPERS}/keys/new", developers.new_key, name="new_key"),
        Route(f"{_DEVELOPERS}/keys/new", developers.make_key, methods=["POST"], name="make_key"),
        Route(f"{_DEVELOPERS}/keys/{{key_id:id}}/revoke", developers.ask_revoke, name="ask_revoke"),
        Route(
            f"{_DEVELOPERS}/keys/{{key_id:id}}/revoke", developers.revoke, methods=["POST"], name="revoke_key"
        ),
        Route(f"{_DEVELOPERS}/endpoints/new", developers.new_endpoint, name="new_endpoint"),
        Route(f"{_DEVELOPERS}/endpoints/new", developers.add_endpoint, methods=["POST"], name="add_endpoint"),
        Route(_ENDPOINT, developers.endpoint, name="endpoint"),
        Route(_ENDPOINT, developers.change_endpoint, methods=["POST"], name="change_endpoint"),
        Route(f"{_ENDPOINT}/deliveries", developers.deliveries, name="deliveries"),
        Route(f"{_ENDPOINT}/rotate", developers.rotate, methods=["POST"], name="rotate_secret"),
        Route(f"{_ENDPOINT}/switch", developers.switch, methods=["POST"], name="switch_endpoint"),
        Route(f"{_ENDPOINT}/test", developers.send_test, methods=["POST"], name="test_endpoint"),
        Route(f"{_ENDPOINT}/remove", developers.ask_remove, name="ask_remove_endpoint"),
        Route(f"{_ENDPOINT}/remove", developers.remove, methods=["POST"], name="remove_endpoint"),
        Route(f"{_ENDPOINT}/deliveries/{{delivery_id:id}}", developers.delivery, name="delivery"),
        Route(
            f"{_ENDPOINT}/deliveries/{{delivery_id:id}}/resend",
            developers.resend,
            methods=["POST"],
            name="resend_delivery",
        ),
        # Policy, plans, privacy
        Route("/settings/portals/{portal_id:id}/policy", policy.show, name="policy"),
        Route(
            "/settings/portals/{portal_id:id}/policy", policy.change, methods=["POST"], name="change_policy"
        ),
        Route("/settings/portals/{portal_id:id}/plans", policy.list_plans, name="plans"),
        Route(
            "/settings/portals/{portal_id:id}/plans/{account_id:id}",
            policy.account_plans,
            name="account_plans",
        ),
        Route(
            "/settings/portals/{portal_id:id}/plans/{account_id:id}",
            policy.save_plan,
            methods=["POST"],
            name="save_plan",
        ),
        Route(
            "/settings/portals/{portal_id:id}/plans/{account_id:id}/move",
            policy.move_plan,
            methods=["POST"],
            name="move_plan",
        ),
        Route("/settings/portals/{portal_id:id}/mails", mails.index, name="mails"),
        Route(
            "/settings/portals/{portal_id:id}/mails",
            mails.change_sender,
            methods=["POST"],
            name="change_sender",
        ),
        Route("/settings/portals/{portal_id:id}/mails/{kind}", mails.show, name="mail"),
        Route(
            "/settings/portals/{portal_id:id}/mails/{kind}",
            mails.change,
            methods=["POST"],
            name="change_mail",
        ),
        Route(
            "/settings/portals/{portal_id:id}/mails/{kind}/preview",
            mails.preview,
            methods=["POST"],
            name="preview_mail",
        ),
        Route(
            "/settings/portals/{portal_id:id}/mails/{kind}/ours",
            mails.ours,
            methods=["POST"],
            name="our_words",
        ),
        Route("/settings/portals/{portal_id:id}/mails/{kind}/test/{job_id:id}", mails.test, name="test_mail"),
        Route("/settings/portals/{portal_id:id}/privacy", policy.show_privacy, name="privacy"),
        Route(
            "/settings/portals/{portal_id:id}/privacy",
            policy.change_privacy,
            methods=["POST"],
            name="change_privacy",
        ),
    ]
    merchant += [
        # The merchant's daily work: requests, customers, events
        Route(_REQUESTS, desk.index, name="merchant_requests"),
        Route(f"{_REQUESTS}/answers", desk.answers, name="ready_answers"),
        Route(f"{_REQUESTS}/answers", desk.save_answer, methods=["POST"], name="save_ready_answer"),
        Route(f"{_REQUESTS}/{{request_id:id}}", desk.show, name="merchant_request"),
        Route(f"{_REQUESTS}/{{request_id:id}}", desk.answer, methods=["POST"], name="answer_request"),
        Route(_CUSTOMERS, customers.index, name="merchant_customers"),
        Route(f"{_CUSTOMERS}/export", customers.take_out, methods=["POST"], name="export"),
        Route(f"{_CUSTOMERS}/unassigned", customers.unassigned, name="unassigned"),
        Route(
            f"{_CUSTOMERS}/unassigned/{{kind}}/{{record_id:id}}", customers.record, name="unassigned_record"
        ),
        Route(
            f"{_CUSTOMERS}/unassigned/{{kind}}/{{record_id:id}}",
            customers.say,
            methods=["POST"],
            name="assign_record",
        ),
        Route(f"{_CUSTOMERS}/assigned", customers.said, name="assigned"),
        Route(
            f"{_CUSTOMERS}/assigned/{{assignment_id:id}}/undo",
            customers.take_back,
            methods=["POST"],
            name="undo_assignment",
        ),
        Route(_CUSTOMER, customers.show, name="merchant_customer"),
        Route(f"{_CUSTOMER}/export", customers.take_out_person, methods=["POST"], name="export_customer"),
        Route(f"{_CUSTOMER}/join", customers.join, methods=["POST"], name="ask_join"),
        Route(f"{_CUSTOMER}/joins/{{join_id:id}}/undo", customers.part, methods=["POST"], name="undo_join"),
        Route(f"{_CUSTOMER}/orders/{{order_id:id}}", customers.order, name="merchant_order"),
        Route(f"{_CUSTOMER}/{{what}}", customers.one_list, methods=["GET"], name="merchant_customer_list"),
        Route(_EVENTS, events.index, name="merchant_events"),
        Route(f"{_EVENTS}/replay", events.replay_all, methods=["POST"], name="replay_parked"),
        Route(f"{_EVENTS}/syncs/{{job_id:id}}/retry", events.retry, methods=["POST"], name="retry_sync"),
        Route(f"{_EVENTS}/{{event_id:id}}", events.show, name="merchant_event"),
        Route(f"{_EVENTS}/{{event_id:id}}/body", events.body, name="event_body"),
        Route(f"{_EVENTS}/{{event_id:id}}/replay", events.replay, methods=["POST"], name="replay_event"),
    ]
    merchant += [
        # Orders from files
        Route(_SHEETS, sheets.index, name="sheets"),
        Route(_SHEETS, sheets.upload, methods=["POST"], name="take_sheet"),
        Route(f"{_SHEETS}/template.csv", sheets.template, name="sheet_template"),
        Route(_SHEET, sheets.show, name="sheet"),
        Route(_SHEET, sheets.go, methods=["POST"], name="run_sheet"),
        Route(f"{_SHEET}/state", sheets.state, name="sheet_state"),
        Route(f"{_SHEET}/problems.csv", sheets.download, name="sheet_problems"),
    ]
    public += [
        Route("/customers/join/{token}", join.link, methods=["GET", "HEAD"], name="join_link"),
        Route("/customers/join/{token}", join.prove, methods=["POST"], name="prove_join"),
        Route("/customers/find-order", find_order.form, name="find_order"),
        Route("/customers/find-order", find_order.ask, methods=["POST"], name="ask_for_order"),
        Route("/customers/find-order/sent", find_order.sent, name="find_order_sent"),
    ]
    machine = [
        Route("/webhooks/{token}", webhooks.receive, methods=["POST"], name="webhook"),
        Route("/health/live", health.live, name="live"),
        Route("/health/ready", health.ready, name="ready"),
        Route("/internal/tls-ask", internal.tls_ask(), name="tls_ask"),
        Route("/metrics", metrics.show, name="metrics"),
        Route("/__demo/mailbox", demo.mailbox, name="demo_mailbox"),
        Route("/__demo/mailbox.json", demo.mailbox_json, name="demo_mailbox_json"),
        Route("/__demo/mailbox/{number:int}.html", demo.mail_html, name="demo_mail"),
        Route("/__demo/reset", demo.reset, methods=["POST"], name="demo_reset"),
        Route("/__demo/clock", demo.set_clock, methods=["POST"], name="demo_clock"),
        Route("/__demo/simulators/{name}/switch", demo.switch, methods=["POST"], name="demo_switch"),
    ]
    return [*public, *files, *customer, *merchant, *app, *machine]
