"""Mails: what stands in them, to whom they go, and what becomes of those that are refused."""

import asyncio
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from html import unescape
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from portal.mail import NEEDS, Outcome, compose, one_address, send_batch
from portal.settings import Settings
from portal.tenancy import LogoView, PortalView

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
ACME = {
    "id": 1,
    "slug": "acme",
    "name": "Acme Coffee",
    "host": "acme.localhost",
    "locale": "en",
    "time_zone": "Europe/Berlin",
    "country": None,
    "support_email": "help@acme.example",
    "shop_url": None,
    "sender_name": None,
    "terms_url": None,
    "privacy_url": None,
    "cancel_reasons": (),
    "can_invoice": False,
    "request_days": 3,
    "brand": (),
    "logo": None,
}
ABOUT_ACTION = {
    "title": "Monthly coffee box",
    "label": "PayPal",
    "reference": "K7M-2QX",
    "confirmed_at": NOW,
    "ends": datetime(2026, 12, 12, 10, 0, tzinfo=UTC),
    "scheduled": False,
    "undoable": True,
    "next_on": date(2026, 12, 12),
    "price": "$24.00",
    "method": {"kind": "card", "brand": "Visa", "last4": "4242"},
    "customer": "ana@example.com",
    "what": "cancel now",
    "since": NOW,
}
NOTE = {
    "paragraphs": ["ana@example.com asks to pause the coffee box.", "Please answer by 25 Nov 2026."],
    "quote": "I am away.\nFor two months.",
    "link": ("/customers/requests", "See your requests"),
    "reference": "K7M-2QX",
}
CONTEXTS: dict[str, dict[str, Any]] = dict.fromkeys(NEEDS, ABOUT_ACTION) | {
    "login": {
        "link": "http://acme.localhost:8000/customers/login/the-token",
        "code": "K7M2QX",
        "asked_at": NOW,
        "browser": "Firefox on Windows",
    },
    "address": {
        "link": "http://acme.localhost:8000/customers/join/the-token",
        "code": "K7M2QX",
        "asked_at": NOW,
        "browser": "Firefox on Windows",
        "other": "b•••@example.com",
    },
    "new_device": {"at": NOW, "browser": "Safari on iPhone"},
    "note": NOTE,
    "merchant_note": NOTE,
    "owner_note": NOTE,
    "invitation": NOTE,
    "payment_failed": {
        "title": "Monthly coffee box",
        "amount": "$24.00",
        "reason": "Card expired.",
        "at": NOW,
    },
}


def make_view(**fields: Any) -> PortalView:
    return PortalView(**{**ACME, **fields})


def make_settings(port: int = 25, **fields: Any) -> Settings:
    values = {"scheme": "http", "base_domain": "localhost", "public_port": 8000, "smtp_tls": "none"}
    return Settings(**{**values, "mail_from": "portal@mail.example", "smtp_port": port, **fields})


def write(
    template: str, to: str = "ana@example.com", view: PortalView | None = None, **context: Any
) -> EmailMessage:
    composed = compose(
        make_settings(),
        view or make_view(),
        template,
        to,
        f"About {template}",
        {**CONTEXTS[template], **context},
    )
    read = message_from_bytes(composed.as_bytes(), policy=default)
    assert isinstance(read, EmailMessage)
    return read


def text_of(message: EmailMessage) -> str:
    return _part(message, "plain")


def html_of(message: EmailMessage) -> str:
    return _part(message, "html")


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n").replace("\u00a0", " ")


# What stands in them


@pytest.mark.parametrize("template", sorted(NEEDS))
def test_every_mail_is_whole(template: str) -> None:
    message = write(template)
    text, html = text_of(message), html_of(message)
    assert message.get_content_type() == "multipart/alternative"
    assert str(message["From"]) == "Acme Coffee <portal@mail.example>"
    assert str(message["To"]) == "ana@example.com"
    assert str(message["Reply-To"]) == "help@acme.example"
    assert str(message["Subject"]) == f"About {template}"
    assert message["Auto-Submitted"] == "auto-generated"
    assert re.fullmatch(r"<[^@<>]+@acme\.localhost>", message["Message-ID"])
    assert message["Date"]
    assert message["Cc"] is None
    assert message["Bcc"] is None
    assert len(html.encode()) <= 20 * 1024
    assert html.count("<h1") == 1
    for body in (text, html):
        assert "ana@example.com" in body  # to whom it was sent
        assert "This mail went to" in body  # and why
        assert "Acme Coffee" in body
        assert "{{" not in body
        assert "None" not in body
    assert "<" not in text
    assert "\n\n\n" not in text


@pytest.mark.parametrize("template", sorted(NEEDS))
def test_the_layout(template: str) -> None:
    html = html_of(write(template))
    assert 'width="480"' in html
    assert "max-width:480px" in html
    assert '<meta name="color-scheme" content="light dark">' in html
    assert "prefers-color-scheme: dark" in html
    assert "<script" not in html
    assert "<img" not in html
    assert re.search(r'<div style="display:none[^>]*>\S', html)  # the preheader
    addresses = re.findall(r'(?:href|src)="([^"]+)"', html)
    assert all(address.startswith("http://acme.localhost:8000/customers") for address in addresses)
    assert len(addresses) <= 1  # one button


def test_the_logo_is_the_only_picture() -> None:
    html = html_of(write("cancelled", view=make_view(logo=LogoView("a" * 64, 120, 32))))
    pictures = re.findall(r"<img[^>]+>", html)
    assert len(pictures) == 1
    assert f'src="http://acme.localhost:8000/customers/logo/{"a" * 64}.png"' in pictures[0]
    assert 'alt="Acme Coffee"' in pictures[0]


def test_the_button_bears_the_merchants_colour() -> None:
    view = make_view(brand=(("brand-light", "#aa3311"), ("on-brand-light", "#fefefe")))
    html = html_of(write("login", view=view))
    assert "background-color:#aa3311;color:#fefefe" in html


def test_the_sign_in_mail() -> None:
    message = write("login")
    text, html = text_of(message), html_of(message)
    lines = text.splitlines()
    assert "http://acme.localhost:8000/customers/login/the-token" in lines
    assert "K7M2QX" in lines
    assert lines[-1] == "@acme.localhost #K7M2QX"  # by which a phone fills in the code, on this host only
    assert 'href="http://acme.localhost:8000/customers/login/the-token"' in html
    assert re.search(r"font-size:28px[^>]*><bdi>K7M2QX</bdi>", html)
    for body in (text, unescape(re.sub(r"<[^>]+>", "", html))):
        assert "10 minutes" in body
        assert "22 Nov 2026" in body
        assert "11:00 CET" in body
        assert "Firefox on Windows" in body
        assert "We never ask for this code" in body


def test_an_unknown_browser_is_left_out() -> None:
    assert "Asked for on 22 Nov 2026 at 11:00 CET." in text_of(write("login", browser=""))


@pytest.mark.parametrize(
    ("template", "changed", "sentence"),
    [
        ("cancelled", {}, "until 12 Dec 2026. No further payment"),
        ("cancelled", {}, "Reference: K7M-2QX"),
        ("cancelled", {}, "PayPal confirmed it on 22 Nov 2026"),
        ("cancelled", {}, "you can take it back"),
        ("cancelled", {}, "Your orders, payments and invoices stay"),
        ("cancelled", {"ends": None}, "It has ended. No further payment"),
        ("cancelled", {"scheduled": True}, "It is cancelled at PayPal shortly before the next payment"),
        ("cancel_undone", {}, "The next payment is $24.00 on 12 Dec 2026."),
        ("cancel_undone", {"price": None}, "The next payment is on 12 Dec 2026."),
        ("paused", {}, "No payments are taken"),
        ("resumed", {}, "Payments go on as before."),
        ("card_changed", {}, "Visa ending 4242"),
        ("card_changed", {"method": {}}, "the new payment method"),
        ("payment_failed", {}, "The payment of $24.00 on 22 Nov 2026 did not go through. Card expired."),
        (
            "payment_failed",
            {"amount": None, "reason": None},
            "The payment on 22 Nov 2026 did not go through.",
        ),
        ("new_device", {}, "sign out everywhere"),
        ("new_device", {}, "Safari on iPhone"),
        ("merchant_alarm", {}, "PayPal has not confirmed it"),
    ],
)
def test_both_parts_tell_the_fact(template: str, changed: dict[str, Any], sentence: str) -> None:
    message = write(template, **changed)
    html = unescape(re.sub(r"<[^>]+>", "", html_of(message)))
    assert sentence in " ".join(text_of(message).split(" "))
    assert sentence in html


@pytest.mark.parametrize("changed", [{"next_on": None, "price": None}, {"ends": None, "undoable": True}])
@pytest.mark.parametrize("template", ["cancelled", "cancel_undone", "paused", "resumed", "card_changed"])
def test_what_is_not_known_is_left_out(template: str, changed: dict[str, Any]) -> None:
    message = write(template, **changed)
    if "next_on" in changed:
        assert "next payment is" not in text_of(message) + html_of(message)
    elif template == "cancelled":
        assert "take it back" not in text_of(message)


def test_names_are_escaped_in_the_html_and_only_there() -> None:
    view = make_view(name="Tom & <b>Jerry</b>")
    message = write("paused", view=view)
    assert "Tom & <b>Jerry</b>" in text_of(message)
    assert "<b>Jerry" not in html_of(message)
    assert "Tom &amp; &lt;b&gt;Jerry&lt;/b&gt;" in html_of(message)


def test_a_title_makes_no_line_of_its_own() -> None:
    message = write("merchant_alarm", what="cancel\n\nhttps://evil.example\n@acme.localhost #AAAAAA")
    assert not any(line.startswith(("https://evil", "@acme")) for line in text_of(message).splitlines())


def test_something_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="code"):
        compose(
            make_settings(),
            make_view(),
            "login",
            "ana@example.com",
            "x",
            {"link": "x", "asked_at": NOW, "browser": ""},
        )


# Headers


@pytest.mark.parametrize(
    "name",
    [
        "Acme\r\nBcc: evil@example.com",
        "Acme\nSubject: x",
        "Acme\0",
        'A"c"me',
        "Acme, evil@example.com",
        "<evil@example.com>",
    ],
)
def test_a_name_cannot_add_a_header_or_a_sender(name: str) -> None:
    message = write("paused", view=make_view(sender_name=name))
    assert [one.addr_spec for one in message["From"].addresses] == ["portal@mail.example"]
    assert message["Bcc"] is None
    assert str(message["Subject"]) == "About paused"


def test_a_subject_is_one_line() -> None:
    message = compose(
        make_settings(), make_view(), "paused", "ana@example.com", "Söhne\r\nBcc: x@y.example", ABOUT_ACTION
    )
    read = message_from_bytes(message.as_bytes(), policy=default)
    assert read["Bcc"] is None
    assert read["Subject"].startswith("Söhne")


def test_the_senders_name_may_be_the_merchants_wish() -> None:
    assert str(write("paused", view=make_view(sender_name="Acme service"))["From"]).startswith(
        "Acme service <"
    )


# To whom

FORMS = [
    "", " ", "ana", "@", "ana@", "@example.com", "ana@@example.com", "ana@example.com,evil@example.com",
    "ana@example.com, evil@example.com", "ana@example.com;evil@example.com",
    "ana@example.com evil@example.com", "ana@example.com\nevil@example.com",
    "ana@example.com\r\nBcc: evil@example.com", "ana@example.com\r\nRCPT TO:<evil@example.com>",
    "ana@example.com\0evil@example.com", "ana@example.com\tevil@example.com", "Ana <ana@example.com>",
    "<ana@example.com>", "<ana@example.com>,<evil@example.com>", "evil@example.com <ana@example.com>",
    '"ana" <ana@example.com>', '"ana@x"@example.com', '"ana,evil@example.com"@x.example',
    "ana(comment)@example.com", "ana@example.com(evil@example.com)", "(x)ana@example.com",
    "ana@(x)example.com", "friends: ana@example.com, evil@example.com;", "friends:;",
    "undisclosed-recipients:;", "@evil.example:ana@example.com", "ana%evil.example@example.com@",
    "ana!evil@example.com@x", "ana\\@evil@example.com", "ana@example.com\\", "ana@[127.0.0.1]",
    "ana@[IPv6:::1]", "ana@exa mple.com", "ana@example..com", "ana@.example.com", "ana@example.com.",
    "ana@-example.com", "ana@example-.com", ".ana@example.com", "ana.@example.com", "a..na@example.com",
    "ana@exämple.com", "änä@example.com", "ana@example。com", "ana＠example.com",
    "ana@example.com\u2028evil@example.com", "\u202eana@example.com", "аna@example.com", "ana@xn--",
    "mailto:ana@example.com", "ana@example.com?bcc=evil@example.com", "ana@example.com&evil@example.com",
    "=?utf-8?q?ana=40example.com?=", "=?utf-8?q?=2C?=evil@example.com,x@y.example",
    "x" * 65 + "@example.com", "ana@" + "x" * 64 + ".com", "ana@" + "x." * 130 + "com",
    "ana@example.com\x85", "ana @example.com",
]  # fmt: skip


def test_sixty_forms_of_an_address_reach_nobody_but_the_stored_one() -> None:
    assert len(FORMS) >= 60
    with sink() as server:
        for form in FORMS:
            try:
                message = write_raw(form)
            except ValueError:
                continue
            send(server, [(form, message)])
            assert server.recipients == [form]
            server.recipients.clear()
        for form in FORMS:
            # Even where a header could be made to say more, one recipient is handed over, or none.
            outcomes = send(server, [(form, write_raw("ana@example.com"))])
            assert outcomes[0] is None or outcomes[0].permanent
        assert {to for to in server.recipients if "evil" in to or to.count("@") != 1} == set()


def write_raw(to: str) -> EmailMessage:
    return compose(make_settings(), make_view(), "paused", to, "About it", ABOUT_ACTION)


@pytest.mark.parametrize(
    "text",
    [
        "ana@example.com",
        "a+b@example.com",
        "a.b-c_d@sub.example.com",
        "x@localhost",
        "O'Neil@example.ie",
        "ANA@EXAMPLE.COM",
    ],
)
def test_plain_addresses(text: str) -> None:
    assert one_address(text).addr_spec == text


# Handing over


class Sink:
    """An SMTP server that refuses as it is told to, and counts who connects."""

    def __init__(self) -> None:
        self.recipients: list[str] = []
        self.messages: list[bytes] = []
        self.connections = 0
        self.answers: dict[str, str] = {}  # recipient -> answer to RCPT
        self.after_data: list[str] = []
        self.port = 0

    async def handle_EHLO(
        self, _server: Any, session: Any, _envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        self.connections += 1
        session.host_name = hostname
        return responses

    async def handle_RCPT(
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:
        answer = self.after_data.pop(0) if self.after_data else "250 OK"
        if answer.startswith("250"):
            self.recipients += envelope.rcpt_tos
            self.messages.append(envelope.content)
        if answer.startswith("421"):
            server.transport.write(f"{answer}\r\n".encode())
            server.transport.close()
        return answer


@contextmanager
def sink() -> Iterator[Sink]:
    server = Sink()
    with socket.socket() as probe:  # the controller can't choose a free port itself
        probe.bind(("127.0.0.1", 0))
        server.port = probe.getsockname()[1]
    controller = Controller(server, hostname="127.0.0.1", port=server.port)
    controller.start()
    try:
        yield server
    finally:
        controller.stop()


def send(server: Sink, messages: list[tuple[str, EmailMessage]]) -> list[Outcome | None]:
    return asyncio.run(send_batch(make_settings(server.port), messages))


def batch(*to: str) -> list[tuple[str, EmailMessage]]:
    return [(address, write_raw(address)) for address in to]


def test_a_batch_goes_over_one_connection() -> None:
    people = [f"p{number}@example.com" for number in range(10)]
    with sink() as server:
        assert send(server, batch(*people)) == [None] * 10
    assert server.recipients == people
    assert server.connections == 1
    assert all(b"Auto-Submitted: auto-generated" in message for message in server.messages)


def test_the_recipient_is_the_one_given_and_not_what_the_header_says() -> None:
    message = write_raw("header@example.com")
    with sink() as server:
        send(server, [("ana@example.com", message)])
    assert server.recipients == ["ana@example.com"]


@pytest.mark.parametrize(
    ("answer", "permanent"),
    [("550 5.1.1 No such user", True), ("553 bad", True), ("450 try later", False), ("452 full", False)],
)
def test_a_refused_recipient_holds_up_nobody(answer: str, permanent: bool) -> None:
    with sink() as server:
        server.answers["gone@example.com"] = f"{answer} gone@example.com"
        outcomes = send(server, batch("a@example.com", "gone@example.com", "b@example.com"))
    assert server.recipients == ["a@example.com", "b@example.com"]
    assert (outcomes[0], outcomes[2]) == (None, None)
    assert outcomes[1] is not None
    assert outcomes[1].permanent == permanent
    assert answer[:3] in outcomes[1].error
    assert "@" not in outcomes[1].error  # it is written down, and addresses stand in no log
    assert server.connections == 1


@pytest.mark.parametrize(("answer", "permanent"), [("554 spam", True), ("451 greylisted", False)])
def test_a_refused_text(answer: str, permanent: bool) -> None:
    with sink() as server:
        server.after_data = [answer]
        outcomes = send(server, batch("a@example.com", "b@example.com"))
    assert outcomes[0] is not None
    assert outcomes[0].permanent == permanent
    assert outcomes[1] is None


def test_a_connection_that_breaks_is_opened_once_more() -> None:
    with sink() as server:
        server.after_data = ["421 closing"]
        outcomes = send(server, batch("a@example.com", "b@example.com", "c@example.com"))
    assert outcomes[0] is not None
    assert not outcomes[0].permanent
    assert outcomes[1:] == [None, None]
    assert server.connections == 2


def test_a_server_that_always_breaks_is_left_alone() -> None:
    with sink() as server:
        server.after_data = ["421 closing"] * 9
        outcomes = send(server, batch(*(f"p{number}@example.com" for number in range(5))))
    assert server.connections == 2
    assert [outcome is not None and not outcome.permanent for outcome in outcomes] == [True] * 5


def test_no_server_at_all_is_for_later() -> None:
    with sink() as server:
        pass
    outcomes = send(server, batch("a@example.com", "b@example.com"))
    assert [outcome is not None and not outcome.permanent for outcome in outcomes] == [True, True]


def test_a_server_without_tls_is_not_spoken_to_in_the_clear() -> None:
    with sink() as server:
        settings = make_settings(server.port, smtp_tls="starttls")
        outcomes = asyncio.run(send_batch(settings, batch("a@example.com")))
    assert outcomes[0] is not None
    assert not outcomes[0].permanent
    assert server.recipients == []


def test_nothing_to_send_connects_to_nobody() -> None:
    with sink() as server:
        assert send(server, []) == []
    assert server.connections == 0
