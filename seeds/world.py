"""The sample world: portals, people, and what they bought, put into the simulators as life would have put it into the
processors. The portal then learns it from there. Two portals are furnished by hand; the third has an account at every
other processor, furnished by its simulator."""

import hashlib
import io
from datetime import datetime, timedelta
from typing import Any

from PIL import Image, ImageDraw
from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlmodel import col

from portal import actions, clock, models, requests, rescue, tally, tenancy
from portal.db import Database
from portal.gateways import facts, processors
from portal.gateways.capabilities import Key
from portal.ids import new_id
from portal.offers import available as offers_of
from portal.vault import Vault
from seeds.simulators.harness import Harness, Sample

MERCHANTS = [
    {"email": "owner@acme.example", "about": "owns Acme Coffee"},
    {"email": "owner@kora.example", "about": "owns Kora Yoga"},
    {"email": "owner@nova.example", "about": "owns Nova Market, with an account at every other processor"},
    {"email": "viewer@acme.example", "about": "may look at Acme Coffee's settings and change nothing"},
]
PORTALS = ("acme", "kora", "nova")
BY_HAND = ("stripe", "payfast")  # processors whose samples are told below, person by person
PEOPLE = [
    {
        "email": "ana@example.com",
        "about": "orders and subscriptions at Stripe and PayFast, in two portals",
    },
    {"email": "ben@example.com", "about": "a payment failed, the card needs replacing"},
    {"email": "chi@example.com", "about": "is known and has nothing yet"},
    {"email": "dana@example.com", "about": "pays in yen and in Kuwaiti dinar"},
    {"email": "emil@example.com", "about": "only PayFast: active, paused and overdue subscriptions"},
    {"email": "fay@example.com", "about": "everything has ended or is about to"},
    {"email": "gus@example.com", "about": "paused, and a card that expires soon"},
    {"email": "hana@example.com", "about": "one-off orders without an account, refunds, a dispute"},
    {"email": "noor@example.com", "about": "at Nova Market: something at every other processor"},
    *(
        {
            "email": f"{name}@example.com",
            "about": f"at Nova Market: every state that {facts(name).label} knows",
        }
        for name in processors()
        if name not in BY_HAND
    ),
]
REASONS = [
    "It is too expensive",
    "I have too much of it",
    "I no longer need it",
    "I found something better",
    "Something went wrong with it",
    "Another reason",
]
ANSWERS = [
    {"title": "Done", "text": "Done as you asked. {shop}"},
    {
        "title": "By phone",
        "text": "Please call us and have {reference} at hand: {what} needs a word with you.",
    },
]
WORDS: dict[Key, str] = {  # of who asks for it
    "pause": "We are away until January.",
    "update_payment_method": "My bank has closed the old account.",
}
PAYFAST_NUMBERS = {"Acme South Africa": "10000100", "Kora debit": "10000200"}
PAYFAST = ("10000100", "46f0cd694581a")  # the sandbox account that everybody uses


def fill(database: Database, vault: Vault, simulators: dict[str, Harness], port: int) -> list[models.Account]:
    """Make portals and accounts, and fill the simulators. Returns the accounts, to be learned from."""
    accounts = database.write_now(_portals, vault, _samples(simulators))
    by_label = {account.label: account for account in accounts}
    by_processor = {account.processor: account for account in accounts}

    def hook(label: str) -> str:
        return f"http://127.0.0.1:{port}/webhooks/{by_label[label].token}"

    stripe: Any = simulators["stripe"]
    payfast: Any = simulators["payfast"]
    _stripe_acme(
        stripe.add_account(
            "sk_test_AcmeCoffee000000000001",
            webhook_secret="whsec_AcmeCoffee0001",
            webhook_url=hook("Acme cards"),
        ),
        clock.now(),
    )
    _stripe_kora(
        stripe.add_account(
            "sk_test_KoraYoga00000000000001",
            webhook_secret="whsec_KoraYoga000001",
            webhook_url=hook("Kora cards"),
        ),
        clock.now(),
    )
    _payfast_acme(
        payfast.add_account(*PAYFAST, "acme coffee beans", notify_url=hook("Acme South Africa")), clock.now()
    )
    _payfast_kora(
        payfast.add_account("10000200", "q1cd2rdny4a53", "kora yoga mats", notify_url=hook("Kora debit")),
        clock.now(),
    )
    database.write_now(_past, clock.now())
    for name, sample in _samples(simulators).items():
        account = by_processor[name]
        simulators[name].open(sample, f"http://127.0.0.1:{port}/webhooks/{account.token}")
        simulators[name].fill(sample)
        database.write_now(_list_plans, account.id, simulators[name].plans(sample))
    return accounts


def _past(db: Session, now: datetime) -> None:
    """What the portals counted in the months before: sign-ins, more of them at the start of a week, and their mails."""
    for portal_id in db.execute(select(col(models.Portal.id))).scalars():
        for days in range(1, 300):
            then = now - timedelta(days=days)
            visits = (12 - 2 * then.weekday() + days * 7 % 4) if days < 200 else days % 3
            counts = {
                (portal_id, tally.SIGN_IN): max(0, visits),
                (portal_id, tally.MAIL_SENT): max(0, visits) + days % 3,
                (portal_id, tally.MAIL_REFUSED): int(days % 19 == 0),
            }
            tally.count_all(db, counts, then)


def _list_plans(db: Session, account_id: int, plans: list[dict[str, Any]]) -> None:
    """What the shop lets its customers switch to."""
    db.get_one(models.Account, account_id).plans = plans


def _samples(simulators: dict[str, Harness]) -> dict[str, Sample]:
    """The account at each processor that is furnished by its simulator."""
    return {name: one.samples()[0] for name, one in simulators.items() if name not in BY_HAND}


def deliveries(
    simulators: dict[str, Harness], accounts: list[models.Account]
) -> list[tuple[models.Account, list[tuple[list[tuple[str, str]], bytes]]]]:
    """The notices that a processor without lists has sent in the past, as headers and body, account by account."""
    payfast: Any = simulators["payfast"]
    samples = _samples(simulators)
    by_hand = [
        (account, payfast.account(number).deliveries())
        for account in accounts
        if account.processor == "payfast"
        for number in [PAYFAST_NUMBERS[account.label]]
    ]
    return by_hand + [
        (account, simulators[account.processor].past_deliveries(samples[account.processor]))
        for account in accounts
        if account.processor in samples
    ]


def ask(db: Session, base_domain: str, now: datetime) -> None:
    """What waits for Nova Market's people once all is learned: wishes that no call fulfils, one answered, one late, and
    somebody who paid with another address."""
    portal = db.execute(select(models.Portal).where(col(models.Portal.slug) == "nova")).scalar_one()
    noor = db.execute(
        select(models.Customer).where(
            col(models.Customer.portal_id) == portal.id, col(models.Customer.email) == "noor@example.com"
        )
    ).scalar_one()
    seen = tenancy.view(db, portal, base_domain)
    asked = []
    for days, (subscription_id, key) in zip((9.0, 6.0, 1.0), _wishes(db, seen, noor.id, now), strict=False):
        params = {"comment": WORDS.get(key, "")}
        asked.append(actions.claim(db, seen, noor.id, subscription_id, key, params, _days(now, days)))
    first = db.get_one(models.Request, asked[0].action_id)
    sentence = "Done as you asked. Write to us if anything looks wrong."
    requests.answer(db, portal.id, first.reference, "done", sentence, "merchant", _days(now, 8))
    requests.ask(
        db,
        portal.id,
        None,
        None,
        new_id(),
        rescue.KIND,
        "SO-4711",
        _days(now, 0.2),
        params={"reference": "SO-4711", "last4": "4242", "amount": "24.50", "currency": "EUR"},
        contact="noor.h@example.org",
    )


def _wishes(
    db: Session, portal: tenancy.PortalView, customer_id: int, now: datetime
) -> list[tuple[int, Key]]:
    """What a customer's subscriptions let them ask for, one wish of each."""
    rows = db.execute(
        select(models.Subscription, models.Account)
        .join(models.Account, col(models.Account.id) == col(models.Subscription.account_id))
        .where(
            col(models.Subscription.portal_id) == portal.id,
            col(models.Subscription.customer_id) == customer_id,
        )
        .order_by(col(models.Account.label), col(models.Subscription.remote_id))
    )
    asked: list[tuple[int, Key]] = []
    for row, account in rows:
        offers = offers_of(row, account, portal, now)
        key = next((key for key, one in offers.items() if one.mode == "request" and one.ok), None)
        if key:
            asked.append((row.id, key))
    return asked


def _portals(db: Session, vault: Vault, samples: dict[str, Sample]) -> list[models.Account]:
    now = clock.now()
    merchants = [
        models.Merchant(name="Acme Coffee Ltd", email="owner@acme.example"),
        models.Merchant(name="Kora Yoga Studio", email="owner@kora.example"),
        models.Merchant(name="Nova Market BV", email="owner@nova.example"),
    ]
    db.add_all(merchants)
    db.flush()
    for merchant in merchants:
        for role, email in (
            ("owner", merchant.email),
            ("viewer", merchant.email.replace("owner@", "viewer@")),
        ):
            user = models.User(email=email, created_at=now)
            db.add(user)
            db.flush()
            db.add(models.Member(merchant_id=merchant.id, user_id=user.id, role=role, created_at=now))
    acme = models.Portal(
        merchant_id=merchants[0].id,
        slug="acme",
        name="Acme Coffee",
        support_email="help@acme.example",
        shop_url="https://acme.example",
        locale="en",
        time_zone="Europe/Berlin",
        country="GB",
        brand_colour="#2f6f4f",
        brand=_brand("#2f6f4f", "#ffffff", "#22613f", "#86cfa6"),
        legal_name="Acme Coffee Ltd",
        legal_address="12 Roastery Lane\nBristol BS1 4DJ",
        tax_id="GB123456789",
        invoice_prefix="AC-",
        terms_url="https://acme.example/terms",
        privacy_url="https://acme.example/privacy",
        cancel_reasons=REASONS,
        answer_templates=ANSWERS,
    )
    kora = models.Portal(
        merchant_id=merchants[1].id,
        slug="kora",
        name="Kora Yoga",
        support_email="hello@kora.example",
        shop_url="https://kora.example",
        locale="en-ZA",
        time_zone="Africa/Johannesburg",
        country="ZA",
        brand_colour="#7a3e9d",
        brand=_brand("#7a3e9d", "#ffffff", "#6b3489", "#d3a6ee"),
        legal_name="Kora Yoga Studio (Pty) Ltd",
        legal_address="4 Kloof Street\nCape Town 8001",
        tax_id="4123456789",
        invoice_prefix="KY-",
        cancel_reasons=REASONS,
    )
    nova = models.Portal(
        merchant_id=merchants[2].id,
        slug="nova",
        name="Nova Market",
        support_email="support@nova.example",
        shop_url="https://nova.example",
        locale="en",
        time_zone="Europe/Amsterdam",
        country="NL",
        brand_colour="#1d4f91",
        brand=_brand("#1d4f91", "#ffffff", "#1d4f91", "#9cc2f0"),
        legal_name="Nova Market BV",
        legal_address="Keizersgracht 1\n1015 CJ Amsterdam",
        tax_id="NL123456789B01",
        invoice_prefix="NM-",
        cancel_reasons=REASONS,
        answer_templates=ANSWERS,
    )
    db.add_all([acme, kora, nova])
    db.flush()
    for portal, colour, draw in (
        (acme, "#2f6f4f", _cup),
        (kora, "#7a3e9d", _lotus),
        (nova, "#1d4f91", _star),
    ):
        logo = _logo(portal, colour, draw)
        db.add(logo)
        db.flush()
        portal.logo_id = logo.id
    accounts = [
        _account(
            vault,
            acme,
            "stripe",
            "Acme cards",
            {"secret_key": "sk_test_AcmeCoffee000000000001", "webhook_secret": "whsec_AcmeCoffee0001"},
            now,
        ),
        _account(
            vault,
            acme,
            "payfast",
            "Acme South Africa",
            {
                "merchant_id": PAYFAST[0],
                "merchant_key": PAYFAST[1],
                "passphrase": "acme coffee beans",
                "sandbox": "no",
            },
            now,
        ),
        _account(
            vault,
            kora,
            "stripe",
            "Kora cards",
            {"secret_key": "sk_test_KoraYoga00000000000001", "webhook_secret": "whsec_KoraYoga000001"},
            now,
        ),
        _account(
            vault,
            kora,
            "payfast",
            "Kora debit",
            {
                "merchant_id": "10000200",
                "merchant_key": "q1cd2rdny4a53",
                "passphrase": "kora yoga mats",
                "sandbox": "no",
            },
            now,
            options=["schedule_cancel"],
        ),
        *(
            _account(
                vault,
                nova,
                name,
                sample.label,
                dict(sample.credentials),
                now,
                options=list(sample.options),
                variant=sample.variant,
            )
            for name, sample in samples.items()
        ),
    ]
    db.add_all(accounts)
    return accounts


def _account(
    vault: Vault,
    portal: models.Portal,
    processor: str,
    label: str,
    credentials: dict[str, str],
    now: datetime,
    options: list[str] | None = None,
    variant: str | None = None,
) -> models.Account:
    account = models.Account(
        portal_id=portal.id,
        processor=processor,
        label=label,
        variant=variant,
        token=hashlib.sha256(f"{portal.slug}/{processor}/{label}".encode()).hexdigest()[:32],
        credentials=b"",
        options=options or [],
        switched_off=[],
        created_at=now,
    )
    account.credentials = vault.seal(portal.id, account.id, credentials)
    return account


def _brand(fill: str, on_fill: str, link_light: str, link_dark: str) -> dict[str, str]:
    return {
        "brand-light": fill,
        "brand-dark": fill,
        "on-brand-light": on_fill,
        "on-brand-dark": on_fill,
        "link-light": link_light,
        "link-dark": link_dark,
    }


def _logo(portal: models.Portal, colour: str, draw: Any) -> models.Asset:
    """A small drawn mark, 32 px high as a page shows it and twice that in the file."""
    scale = 8
    picture = Image.new("RGBA", (64 * scale, 64 * scale), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle((0, 0, 64 * scale - 1, 64 * scale - 1), 16 * scale, fill=colour)
    draw(pen, scale)
    picture = picture.resize((64, 64), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    content = out.getvalue()
    return models.Asset(
        portal_id=portal.id,
        sha256=hashlib.sha256(content).hexdigest(),
        content_type="image/png",
        width=32,
        height=32,
        content=content,
    )


def _cup(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.rounded_rectangle((16 * s, 24 * s, 42 * s, 46 * s), 7 * s, fill="white")
    pen.arc((36 * s, 27 * s, 52 * s, 41 * s), -90, 90, fill="white", width=4 * s)
    for x in (23, 33):
        pen.line((x * s, 12 * s, x * s, 19 * s), fill="white", width=3 * s)


def _lotus(pen: ImageDraw.ImageDraw, s: int) -> None:
    for box in ((24, 14, 40, 48), (10, 26, 32, 48), (32, 26, 54, 48)):
        pen.ellipse(tuple(v * s for v in box), outline="white", width=4 * s)


def _star(pen: ImageDraw.ImageDraw, s: int) -> None:
    points = [(32, 10), (38, 26), (54, 32), (38, 38), (32, 54), (26, 38), (10, 32), (26, 26)]
    pen.polygon([(x * s, y * s) for x, y in points], fill="white")


def _days(now: datetime, days: float) -> datetime:
    return now - timedelta(days=days)


def _stripe_acme(shop: Any, now: datetime) -> None:
    box = shop.price(shop.product("Monthly coffee box"), 2400, "usd", "month", 1)
    filters = shop.price(shop.product("Filter paper refill"), 1250, "eur", "month", 3)
    club = shop.price(shop.product("Roasters' club"), 9900, "usd", "year", 1)
    matcha = shop.price(shop.product("Matcha of the month"), 3200, "jpy", "month", 1)
    saffron = shop.price(shop.product("Cardamom and saffron"), 12500, "kwd", "month", 1)

    ana = shop.customer("ana@example.com", "Ana Almeida", _days(now, 400))
    visa = shop.card(ana, "visa", "4242", 9, now.year + 2)
    shop.subscription(ana, box, _days(now, 131), card=visa)
    shop.subscription(ana, filters, _days(now, 100), card=visa)
    shop.subscription(ana, club, _days(now, 4), card=visa, trial_days=14)
    goods = [
        ("Ethiopia Guji, 2 bags", 2, 1450),
        ("Grinder, steel burr", 1, 12900),
        ("Cup, stoneware", 4, 900),
        ("Kenya AA, 1 bag", 1, 1690),
        ("Gift card", 1, 5000),
    ]
    for number in range(28):
        name, quantity, minor = goods[number % len(goods)]
        sold = shop.order(ana, [(name, quantity, minor)], _days(now, 3 + number * 11.3), "usd", card=visa)
        if number == 4:
            shop.refund(shop.charge_of(sold), 5000, _days(now, 40))
        if number == 6:
            shop.refund(shop.charge_of(sold), 3000, _days(now, 60))

    ben = shop.customer("ben@example.com", "Ben Botha", _days(now, 200))
    poor = shop.card(ben, "visa", "0341", 4, now.year + 1)
    failing = shop.subscription(ben, box, _days(now, 95), card=poor)
    shop.fail_renewal(failing)

    shop.customer("chi@example.com", "Chi Castro", _days(now, 2))

    dana = shop.customer("dana@example.com", "Dana Doi", _days(now, 300))
    jcb = shop.card(dana, "jcb", "0505", 11, now.year + 3)
    shop.subscription(dana, matcha, _days(now, 70), card=jcb)
    shop.subscription(dana, saffron, _days(now, 40), card=jcb)
    shop.order(dana, [("Tea bowl", 1, 12800)], _days(now, 33), "jpy", card=jcb)
    shop.order(dana, [("Spice set", 1, 24750)], _days(now, 12), "kwd", card=jcb)

    fay = shop.customer("fay@example.com", "Fay Fischer", _days(now, 500))
    amex = shop.card(fay, "amex", "0005", 2, now.year + 2)
    shop.subscription(fay, filters, _days(now, 110), card=amex, cancel_at_period_end=True)
    ended = shop.subscription(fay, box, _days(now, 250), card=amex)
    shop.cancel(ended, _days(now, 30))

    gus = shop.customer("gus@example.com", "Gus Gruber", _days(now, 220))
    soon = now + timedelta(days=20)
    old = shop.card(gus, "mastercard", "4444", soon.month, soon.year)
    paused = shop.subscription(gus, box, _days(now, 64), card=old)
    shop.pause_collection(paused)
    shop.subscription(gus, club, _days(now, 340), card=old)

    for number, (name, quantity, minor) in enumerate(goods[:3]):
        sold = shop.guest_order(
            "hana@example.com", [(name, quantity, minor)], _days(now, 5 + 20 * number), "eur"
        )
        if number == 1:
            shop.refund(shop.charge_of(sold), minor, _days(now, 2))
        if number == 2:
            shop.dispute(shop.charge_of(sold))


def _stripe_kora(shop: Any, now: datetime) -> None:
    live = shop.price(shop.product("Live classes"), 1500, "usd", "week", 2)
    ana = shop.customer("Ana@Example.com", "Ana Almeida", _days(now, 90))
    card = shop.card(ana, "mastercard", "5454", 6, now.year + 1)
    shop.subscription(ana, live, _days(now, 38), card=card)
    shop.order(ana, [("Yoga mat, cork", 1, 6900)], _days(now, 61), "usd", card=card)
    shop.guest_order(None, [("Drop-in class, paid at the door", 1, 1800)], _days(now, 9), "usd")


def _payfast_acme(shop: Any, now: datetime) -> None:
    shop.subscription(
        "ana@example.com", "Ana", "Almeida", 38000, 3, "Rooibos club", _days(now, 75), m_payment_id="RC-1001"
    )
    shop.payment("ana@example.com", "Ana Almeida", 129900, "Moka pot", _days(now, 21), m_payment_id="ZA-2044")
    shop.subscription(
        "emil@example.com", "Emil", "Eze", 12000, 3, "Tea club", _days(now, 100), m_payment_id="TC-7"
    )
    paused = shop.subscription(
        "emil@example.com", "Emil", "Eze", 25000, 3, "Espresso club", _days(now, 50), m_payment_id="EC-3"
    )
    gap = shop.get(paused)
    gap.state, gap.paused_from = "paused", gap.run_on
    gap.run(gap.after(gap.run_on, 2))
    shop.subscription(
        "emil@example.com",
        "Emil",
        "Eze",
        9900,
        3,
        "Biscuit box",
        _days(now, 64),
        m_payment_id="BB-9",
        failing=True,
    )


def _payfast_kora(shop: Any, now: datetime) -> None:
    shop.subscription(
        "ana@example.com",
        "Ana",
        "Almeida",
        65000,
        3,
        "Studio membership",
        _days(now, 45),
        m_payment_id="SM-12",
    )
    shop.subscription(
        "emil@example.com", "Emil", "Eze", 180000, 4, "Quarter pass", _days(now, 20), m_payment_id="QP-4"
    )
