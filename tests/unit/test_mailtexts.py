"""The merchant's own words: what may stand in them, how they are filled, and that they reach both parts of a mail and
nothing else."""

import asyncio
import re
from collections.abc import Sequence
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from html import unescape
from typing import Any

import pytest

from portal import clock, letters, login, mail, mailtexts, merchants, models, tenancy
from portal.db import Database
from portal.mail import Outcome
from portal.mailtexts import KINDS, Words
from portal.merchants import Person
from portal.settings import Settings
from tests.unit.builders import (
    MASTER_KEY,
    make_account,
    make_customer,
    make_payment,
    make_portal,
    make_subscription,
    save,
)
from tests.unit.settings.conftest import make_person

SETTINGS = Settings(master_keys=MASTER_KEY, scheme="http", mail_from="portal@mail.example")


# The list


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_mail_is_described_and_our_words_use_what_it_allows(kind: mailtexts.Kind) -> None:
    assert mailtexts.problems(kind, kind.subject, kind.body) == {}
    for name in kind.placeholders:
        assert kind.date if name == "date" else mailtexts.MEANINGS[name]
    assert kind.title
    assert kind.when


def test_what_customers_must_get_can_not_be_switched_off() -> None:
    always = {kind.name for kind in KINDS.values() if kind.always}
    told = {"address_asked", "address_added", "address_removed", "order_found", "order_moved"}
    proofs = {"login", "cancelled", "request_received", "request_answered", "charged_after_end"}
    assert proofs | told == always


# What may stand in them


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Dear {nmae}", "{nmae} is not known in this mail. There are: {shop}, {name}, {title}"),
        ("{shop.__class__}", "{shop.__class__} is not known"),
        ("{0}", "{0} is not known"),
        ("{}", "{} is not known"),
        ("{ shop }", "{ shop } is not known"),
        ("{{ portal.name }}", "is not known"),
        ("{% for x in y %}", "is not known"),
        ("Fine {shop", "A curly bracket stands alone"),
        ("Fine shop}", "A curly bracket stands alone"),
        ("<b>Fine</b>", "HTML is not read here"),
        ("< img src=x>", "HTML is not read here"),
        ("<!-- x -->", "HTML is not read here"),
        ("See https://acme.example", "Links don't stand in the words"),
        ("See HTTP://acme.example", "Links don't stand in the words"),
        ("See www.acme.example", "Links don't stand in the words"),
        ("mailto:x@y.example", "Links don't stand in the words"),
        ("javascript:alert(1)", "Links don't stand in the words"),
        ("ftp://acme.example", "Links don't stand in the words"),
    ],
)
def test_what_can_not_stand_in_them_is_named(text: str, sentence: str) -> None:
    kind = KINDS["paused"]
    for field, found in (
        ("subject", mailtexts.problems(kind, text, "Fine.")),
        ("words", mailtexts.problems(kind, "Fine", f"Fine.\n\n{text}")),
    ):
        assert list(found) == [field]
        assert sentence in found[field]


@pytest.mark.parametrize("subject", ["Two\nlines", "Bcc:\rx", "A\0", "A\u2028B", "x" * 151])
def test_a_subject_is_one_short_line(subject: str) -> None:
    assert "subject" in mailtexts.problems(KINDS["paused"], subject, "")


def test_what_can_stand_in_them() -> None:
    body = "Hello {name},\n\n3 < 4 & “quotes”, 100 % — {title}: {amount} on {date}.\nA second line. ☕"
    assert mailtexts.problems(KINDS["paused"], "☕ {title} / {reference}", body) == {}
    assert "words" in mailtexts.problems(KINDS["paused"], "", "x" * 2001)
    assert "words" in mailtexts.problems(KINDS["paused"], "", "a\u202eb")


def test_typed_words_are_tidied() -> None:
    assert mailtexts.tidy("  One \r\n two\r\n\r\n\r\n\r\n Three  ") == "One\ntwo\n\nThree"


# Filling them


def test_a_paragraph_whose_value_is_not_known_is_left_out() -> None:
    values = {"shop": "Acme", "name": None, "title": "Box", "date": ""}
    body = "Hello {name},\n\n{title} at {shop}.\n\nUntil {date}."
    assert mailtexts.paragraphs(body, values) == ["Box at Acme."]


def test_values_are_never_read_as_placeholders_or_lines() -> None:
    values = {"shop": "{title}", "title": "A\r\nBcc: x\n{shop}"}
    assert mailtexts.filled("{shop} {title}", values) == "{title} A Bcc: x {shop}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ana García", "Ana García"),
        ("O'Neil", "O'Neil"),
        ("J. R. Smith", "J. R. Smith"),
        (" Ana\n García ", "Ana García"),
        ("李小龍", "李小龍"),
        ("प्रिया शर्मा", "प्रिया शर्मा"),
        ("สมชาย", "สมชาย"),
        (None, None),
        ("", None),
        ("Win at evil.example", None),
        ("https://evil.example", None),
        ("Call 0800 1234", None),
        ("x" * 61, None),
        ("{shop}", None),
        ("<b>Ana</b>", None),
    ],
)
def test_only_a_name_is_a_name(text: str | None, name: str | None) -> None:
    assert mailtexts.name_of(text) == name


# In a mail


class Shop:
    """A portal with a person of its merchant, its customer, and one mail of each sort on its way."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.portal = make_portal(database)
        self.account = make_account(database, self.portal)
        self.customer = make_customer(database, self.portal, name="Ana García")
        self.row = make_subscription(database, self.account, self.customer)
        user = make_person(database, self.portal.merchant_id, "editor")
        self.person = Person(
            user.id, user.email, None, self.portal.merchant_id, "Acme", "editor", 0, clock.now()
        )

    def say(
        self, kind: str, subject: str | None = None, body: str | None = None, enabled: bool = True
    ) -> Any:
        found = self.database.read_now(mailtexts.words, self.portal.id, kind)
        return self.database.write_now(
            mailtexts.save,
            self.person,
            self.portal.id,
            KINDS[kind],
            found.version,
            Words(enabled, subject, body),
            clock.now(),
        )

    def action(self, capability: str, **fields: Any) -> models.Action:
        now = clock.now()
        row = models.Action(
            portal_id=self.portal.id,
            account_id=self.account.id,
            customer_id=self.customer.id,
            subscription_id=self.row.id,
            capability=capability,
            reference="K7M-2QX",
            params={},
            phase="confirmed",
            created_at=now,
            confirmed_at=now,
            closed_at=now,
            **fields,
        )
        return save(self.database, row)  # type: ignore[no-any-return]

    def send(
        self, monkeypatch: pytest.MonkeyPatch, payload: dict[str, Any], kind: str = "mail"
    ) -> list[EmailMessage]:
        sent: list[EmailMessage] = []

        async def keep(
            settings: Settings, messages: Sequence[tuple[str, EmailMessage]], taken: object = None
        ) -> list[Outcome | None]:
            for to, message in messages:
                read = message_from_bytes(message.as_bytes(), policy=default)
                assert isinstance(read, EmailMessage)
                assert str(read["To"]) == to
                sent.append(read)
            return [None] * len(messages)

        monkeypatch.setattr(letters, "send_batch", keep)
        assert asyncio.run(letters.send(self.database, SETTINGS, [(kind, payload)])) == [None]
        return sent


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


def parts(message: EmailMessage) -> tuple[str, str]:
    """The text, and the HTML as it is read."""
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    read = unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<style>.*?</style>", "", html.get_content())))
    return " ".join(text.get_content().split()), " ".join(read.split())


def test_the_merchants_words_stand_in_both_parts_in_place_of_ours(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.say("paused", "Pause for {title}", "Hello {name},\n\nno beans until you want them.\nSee you!")
    (message,) = shop.send(monkeypatch, {"template": "paused", "action": shop.action("pause").id})
    assert message["Subject"] == "Pause for Monthly coffee box"
    for part in parts(message):
        assert "Hello Ana García, no beans until you want them. See you!" in part
        assert "No payments are taken" not in part
        assert "Stripe confirmed it on" in part  # the proof stays ours
        assert "Reference: K7M-2QX" in part
    html = message.get_body(("html",))
    assert html is not None
    assert "white-space:pre-line" in html.get_content()
    assert 'href="http://acme.localhost/customers/subscriptions"' in html.get_content()


def test_above_a_receipt_they_leave_everything_of_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.say("cancelled", "Come back soon", "We are sorry, {name}.")
    (message,) = shop.send(monkeypatch, {"template": "cancelled", "action": shop.action("cancel_now").id})
    assert message["Subject"] == "Come back soon"
    for part in parts(message):
        assert part.index("We are sorry, Ana García.") < part.index("No further payment is taken.")
        assert "Monthly coffee box" in part  # what it is about, though the subject does not say so
        assert "Stripe confirmed it on" in part
        assert "Reference: K7M-2QX" in part


def test_ours_are_back_where_nothing_of_theirs_can_be_said(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.say("payment_failed", "Not paid: {reason}", "It failed: {reason}")
    payment = make_payment(shop.database, shop.account, shop.customer, status="failed", failure_reason=None)
    (message,) = shop.send(monkeypatch, {"template": "payment_failed", "payment": payment.id})
    assert message["Subject"] == "Your payment for Monthly coffee box did not go through"
    for part in parts(message):
        assert "did not go through." in part
        assert "Usual reasons" in part


def test_a_mail_that_is_off_is_not_sent(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.say("paused", enabled=False)
    assert shop.send(monkeypatch, {"template": "paused", "action": shop.action("pause").id}) == []
    shop.say("paused", enabled=True)
    assert len(shop.send(monkeypatch, {"template": "paused", "action": shop.action("pause").id})) == 1


def test_a_receipt_can_not_be_off(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.say("cancelled", enabled=False)
    assert shop.database.read_now(mailtexts.words, shop.portal.id, "cancelled").enabled
    assert len(shop.send(monkeypatch, {"template": "cancelled", "action": shop.action("cancel_now").id})) == 1


def test_the_sign_in_mail_keeps_its_link_and_code(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.say("login", "Your key to {shop}", "Welcome back to {shop}.")
    who = ("browser-of-ana-0001", "Firefox", "127.0.0.1", "/customers/orders")
    asked = shop.database.write_now(login.ask, shop.portal.id, "ana@example.com", *who, clock.now())
    (message,) = shop.send(monkeypatch, {"request": asked}, "login_mail")
    assert message["Subject"] == "Your key to Acme Coffee"
    for part in parts(message):
        assert "Welcome back to Acme Coffee." in part
        assert "Both work once and for 10 minutes." in part
        assert "We never ask for this code" in part
    text = message.get_body(("plain",))
    assert text is not None
    assert re.search(r"^http://acme\.localhost/customers/login/\S{43}\r?$", text.get_content(), re.M)
    assert re.search(r"^@acme\.localhost #[0-9A-Z]{6}$", text.get_content().strip().split("\n")[-1])


def test_a_hostile_title_adds_no_header_no_line_and_no_markup(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = "Box\r\nBcc: evil@example.com\n<b>x</b> {shop}"

    def rename(db: Any) -> None:
        db.get_one(models.Subscription, shop.row.id).title = title

    shop.database.write_now(rename)
    shop.say("paused", "{title}", "About {title}.")
    (message,) = shop.send(monkeypatch, {"template": "paused", "action": shop.action("pause").id})
    assert message["Bcc"] is None
    assert message["Subject"] == "Box Bcc: evil@example.com <b>x</b> {shop}"
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert not re.search(r"^Bcc", text.get_content(), re.M)
    assert "<b>x</b>" not in html.get_content()


def test_another_portals_words_are_not_ours(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    other = make_portal(shop.database, "kora")
    save(
        shop.database,
        models.MailText(
            portal_id=other.id, template="paused", enabled=False, subject="No", changed_at=clock.now()
        ),
    )
    assert len(shop.send(monkeypatch, {"template": "paused", "action": shop.action("pause").id})) == 1


# Two who save at once


def test_the_later_one_is_told_who_was_first_and_what_stands_there_now(shop: Shop) -> None:
    assert shop.say("paused", "First", None) is None
    late = shop.database.write_now(
        mailtexts.save,
        shop.person,
        shop.portal.id,
        KINDS["paused"],
        0,
        Words(True, "Second", None),
        clock.now(),
    )
    assert late is not None
    assert (late.who, dict(late.now_there), late.version) == (shop.person.email, {"subject": "First"}, 1)
    assert shop.database.read_now(mailtexts.words, shop.portal.id, "paused").subject == "First"


def test_a_change_is_written_down_with_what_was_there(shop: Shop) -> None:
    shop.say("paused", "First", None)
    shop.say("paused", "Second", "Words.", enabled=False)
    shop.say("paused", "Second", "Words.", enabled=False)  # nothing new

    def read(db: Any) -> list[tuple[Any, Any, Any]]:
        rows = db.query(models.Audit).order_by(models.Audit.id).all()
        return [(one.what, one.before, one.after) for one in rows]

    assert shop.database.read_now(read) == [
        ("mail.changed", {"subject": None}, {"subject": "First"}),
        (
            "mail.changed",
            {"subject": "First", "body": None, "enabled": True},
            {"subject": "Second", "body": "Words.", "enabled": False},
        ),
    ]


def test_somebody_elses_portal_can_not_be_written(shop: Shop) -> None:
    other = make_portal(shop.database, "kora")
    with pytest.raises(LookupError):
        shop.database.write_now(
            mailtexts.save, shop.person, other.id, KINDS["paused"], 0, Words(False), clock.now()
        )


# Samples and tests


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_what_the_real_mail_is_made_of(database: Database, kind: str) -> None:
    portal = database.read_now(tenancy.portal_by_id, make_portal(database).id, "localhost")
    letter = letters.sample(portal, kind, "stripe", "http://acme.localhost", clock.now())
    assert letter.kind == kind
    assert set(KINDS[kind].placeholders) <= set(letter.values)
    message = mail.compose(
        SETTINGS, letter.portal, letter.template, letter.to, letter.subject, letter.context
    )
    assert message["Subject"]
    known = {name: value for name, value in letter.values.items() if value}
    ours = mailtexts.filled(KINDS[kind].subject, known)
    if kind != "request_answered":  # ours says done or declined
        assert ours == letter.subject
    drawn = mail.written(
        SETTINGS,
        letter.portal,
        letter.template,
        letter.to,
        letter.subject,
        letter.context,
        "partials/settings/mail_layout.html",
        "partials/settings/mail_parts.html",
    )
    assert "style=" not in drawn[1]  # a page of ours allows none
    assert all(letter.subject in unescape(part) for part in drawn)


def test_a_test_goes_to_the_person_and_says_that_it_is_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = {
        "template": "test_mail",
        "portal": shop.portal.id,
        "user": shop.person.user_id,
        "kind": "paused",
        "processor": "stripe",
        "subject": "Rest for {title}",
        "body": "Hello {name}.",
    }
    (message,) = shop.send(monkeypatch, payload)
    assert message["To"] == shop.person.email
    assert message["Subject"] == "Test: Rest for Monthly coffee box"
    assert all("Hello Ana Example." in part for part in parts(message))


def test_a_test_reaches_nobody_who_has_left(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = make_person(shop.database, shop.portal.merchant_id, "owner")
    who = Person(owner.id, owner.email, None, shop.portal.merchant_id, "Acme", "owner", 0, clock.now())
    left = next(
        one for one in shop.database.read_now(merchants.people, who) if one.email == shop.person.email
    )
    shop.database.write_now(merchants.remove, who, left.id)
    payload = {
        "template": "test_mail",
        "portal": shop.portal.id,
        "user": shop.person.user_id,
        "kind": "paused",
    }
    assert shop.send(monkeypatch, payload) == []
