"""The way in and out as a browser sees it."""

import base64
import hashlib
import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from typing import Any

import brotli
import pytest
from pydantic import SecretStr
from sqlalchemy import event, select
from starlette.testclient import TestClient

from portal import assets, clock, login, models
from portal.app import create_app
from portal.db import Database
from portal.settings import Settings
from tests.unit.builders import MASTER_KEY, make_customer, make_portal

SECRET = "the secret of these tests"
OWN = {"Sec-Fetch-Site": "same-origin"}
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1"
HTMX = {"HX-Request": "true", "HX-Request-Type": "partial"}


class Browser(TestClient):
    """A browser of its own: it keeps its cookies and says that its posts come from our own pages."""

    def __init__(
        self, database: Database, slug: str = "acme", scheme: str = "http", agent: str = FIREFOX
    ) -> None:
        settings = Settings(
            scheme=scheme,
            base_domain="localhost",
            master_keys=SecretStr(MASTER_KEY),
            secret_key=SecretStr(SECRET),
            mail_from="portal@mail.example",
        )
        self.database = database
        super().__init__(
            create_app(settings, database),
            f"{scheme}://{slug}.localhost",
            headers={**OWN, "User-Agent": agent},
            follow_redirects=False,
        )

    def ask(self, email: str = "ana@example.com", **fields: str) -> Any:
        return self.post("/customers/login", data={"email": email, **fields})

    def mail(self) -> login.Prepared:
        """The mail to the newest ask, as the worker makes it."""
        found = self.database.write_now(login.prepare_mail, self.newest().id, SECRET, clock.now())
        assert found is not None
        return found

    def newest(self) -> models.LoginRequest:
        statement = select(models.LoginRequest).order_by(models.LoginRequest.id.desc())  # type: ignore[attr-defined]
        return self.database.read_now(lambda db: db.execute(statement.limit(1)).scalar_one())

    def sign_in(self, email: str = "ana@example.com", **fields: str) -> Any:
        self.ask(email, **fields)
        return self.post(f"/customers/login/{self.mail().token}")

    def is_in(self) -> bool:
        return self.get("/customers/orders").status_code == 200


@pytest.fixture
def portal(database: Database) -> models.Portal:
    return make_portal(database)


@pytest.fixture
def ana(database: Database, portal: models.Portal) -> models.Customer:
    return make_customer(database, portal)


@pytest.fixture
def visitor(database: Database, ana: models.Customer) -> Iterator[Browser]:
    with Browser(database) as found:
        yield found


def words(answer: Any) -> str:
    """What a person reads in the middle of the page."""
    inner = answer.text.split("<main", 1)[1].split("</main>")[0]
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", inner.split(">", 1)[1]).split())).replace(" .", ".")


def cookies(answer: Any) -> dict[str, str]:
    """Name -> attributes of the cookies that an answer sets."""
    return {line.partition("=")[0]: line for line in answer.headers.get_list("set-cookie")}


# The form


def test_the_bare_host_leads_to_the_form(visitor: Browser) -> None:
    answer = visitor.get("/")
    assert (answer.status_code, answer.headers["location"]) == (302, "/customers")


def test_the_form(visitor: Browser) -> None:
    answer = visitor.get("/customers")
    assert answer.status_code == 200
    assert "Your Acme Coffee account" in words(answer)
    assert "set-cookie" not in answer.headers
    for part in ('<label for="email">', 'type="email"', 'autocomplete="email"', 'inputmode="email"'):
        assert part in answer.text


def test_the_sign_in_page_is_one_small_request(visitor: Browser) -> None:
    answer = visitor.get("/customers")
    weight = len(brotli.compress(answer.content, quality=4)) + sum(
        len(name) + len(value) + 4 for name, value in answer.headers.raw
    )
    assert weight <= 5 * 1024
    assert "<script" not in answer.text
    assert '<link rel="stylesheet"' not in answer.text
    assert not re.search(r'style="|\son\w+=', answer.text)


def test_its_one_style_block_is_allowed_by_hash(visitor: Browser) -> None:
    for answer in (visitor.get("/customers"), visitor.get("/customers/login/x")):
        policy = answer.headers["Content-Security-Policy"]
        block = re.findall(r"<style>(.*?)</style>", answer.text, re.S)
        assert len(block) == 1
        digest = base64.b64encode(hashlib.sha256(block[0].encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in policy
        assert "script-src" not in policy
        assert "unsafe" not in policy


def test_the_merchants_colour_stands_in_the_same_layer_after_ours() -> None:
    brand = (("brand-dark", "#ff0000"), ("brand-light", "#aa0000"))
    css = assets.login_style(brand).raw.decode()
    assert css.startswith("@layer tokens{")
    assert css.rindex("@layer tokens") > css.index("--brand: #2f6f4f")
    assert css.endswith("--brand:light-dark(#aa0000,#ff0000)}}")


@pytest.mark.parametrize(
    "typed", [
        "", "ana", "ana@", "@example.com", "ana@@example.com", "a@b,c@d.example", "Ana <a@b.example>",
        "a b@example.com", "ana@example.com\r\nBcc: x@y.example", "ana@exämple.com",
        "x" * 250 + "@e.com", '"a"@b.example',
    ]
)  # fmt: skip
def test_what_is_no_address_is_asked_for_again(visitor: Browser, typed: str) -> None:
    answer = visitor.ask(typed, next="/customers/payments")
    assert answer.status_code == 422
    assert "<title>Error:" in answer.text
    assert 'role="alert"' in answer.text
    assert 'href="#email"' in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert 'aria-describedby="email-hint email-error"' in answer.text
    assert 'value="/customers/payments"' in answer.text
    assert visitor.database.read_now(lambda db: db.execute(select(models.LoginRequest)).first()) is None


def test_what_was_typed_stays_in_the_field(visitor: Browser) -> None:
    assert 'value="ana@&#34;&gt;&lt;b&gt;"' in visitor.ask('ana@"><b>').text


# The ask


def test_everybody_gets_the_same_answer(database: Database, ana: models.Customer) -> None:
    make_customer(database, make_portal(database, "kora"), "kim@example.com")
    addresses = ["ana@example.com", "bob@example.com", "kim@example.com", "ANA@example.com"]
    asked, shown = [], []
    for address in addresses:
        with Browser(database) as browser:
            answer = browser.ask(address)
            page = browser.get("/customers/login/check")
            asked.append((answer.status_code, answer.content, _fixed(answer.headers)))
            shown.append((page.status_code, page.text.replace(address.lower(), "*"), sorted(page.headers)))
    assert all(one == asked[0] for one in asked)
    assert all(one == shown[0] for one in shown)


def _fixed(headers: Any) -> list[tuple[str, str]]:
    """The headers without what is random in every answer."""
    hidden = re.sub(r"(portal-browser)=[^;]+", r"\1=*", str(headers.get("set-cookie")))
    rest = [(name, value) for name, value in headers.items() if name not in ("set-cookie", "x-request-id")]
    return [*rest, ("set-cookie", hidden)]


def test_over_the_limit_the_answer_is_the_same(visitor: Browser) -> None:
    answers = []
    for _ in range(5):
        answers.append(visitor.ask())
        visitor.database.write_now(login.prepare_mail, visitor.newest().id, SECRET, clock.now())
    assert {(one.status_code, one.headers["location"], one.content) for one in answers} == {
        (303, "/customers/login/check", b"")
    }


def test_the_ask_looks_nobody_up(visitor: Browser) -> None:
    visitor.get("/customers")
    seen: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(visitor.database.engine, "before_cursor_execute", note)
    counts = []
    for address in ("ana@example.com", "nobody@example.com"):
        seen.clear()
        visitor.ask(address)
        counts.append(list(seen))
    event.remove(visitor.database.engine, "before_cursor_execute", note)
    assert counts[0] == counts[1]
    assert not any("FROM customer" in statement for statement in counts[0])


@pytest.mark.parametrize(("scheme", "name"), [("http", "portal-browser"), ("https", "__Host-portal-browser")])
def test_the_browser_is_known_by_a_cookie_of_the_ask(
    database: Database, ana: models.Customer, scheme: str, name: str
) -> None:
    with Browser(database, scheme=scheme) as browser:
        assert "set-cookie" not in browser.get("/customers").headers
        first = cookies(browser.ask())[name]
        second = cookies(browser.ask())[name]
    assert first.partition(";")[0] == second.partition(";")[0]  # kept over further asks
    _is_safe(first, scheme)


def _is_safe(cookie: str, scheme: str) -> None:
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "path=/", "samesite=lax"} <= attributes
    assert ("secure" in attributes) == (scheme == "https")
    assert not any(attribute.startswith("domain") for attribute in attributes)


# Check your mail


def test_check_your_mail(visitor: Browser) -> None:
    visitor.ask()
    answer = visitor.get("/customers/login/check")
    text = words(answer)
    assert "ana@example.com" in text
    assert "portal@mail.example" in text
    assert answer.text.count('autocomplete="one-time-code"') == 1
    assert "Send it again" in text
    assert "Use another address" in text


def test_without_an_ask_there_is_nothing_to_check(visitor: Browser) -> None:
    assert visitor.get("/customers/login/check").headers["location"] == "/customers"


def test_send_it_again_is_one_click(visitor: Browser) -> None:
    visitor.ask("ben@example.com", next="/customers/payments")
    before = visitor.newest().id
    answer = visitor.post("/customers/login", data={"resend": "1"})
    assert answer.headers["location"] == "/customers/login/check"
    again = visitor.newest()
    assert again.id != before
    assert (again.email, again.next_path) == ("ben@example.com", "/customers/payments")


def test_send_it_again_in_a_browser_that_never_asked(visitor: Browser) -> None:
    assert visitor.post("/customers/login", data={"resend": "1"}).headers["location"] == "/customers"


# The code


def test_a_code_signs_in(visitor: Browser) -> None:
    visitor.ask(next="/customers/payments")
    code = visitor.mail().code
    answer = visitor.post("/customers/login/code", data={"code": f"{code[:3]}-{code[3:]}".lower()})
    assert (answer.status_code, answer.headers["location"]) == (303, "/customers/payments")
    assert visitor.is_in()


def test_a_wrong_code_says_how_many_tries_are_left(visitor: Browser) -> None:
    visitor.ask()
    code = visitor.mail().code
    told = []
    for _ in range(5):
        answer = visitor.post("/customers/login/code", data={"code": "ZZZZZZ"})
        assert answer.status_code == 422
        assert "<title>Error:" in answer.text
        assert 'href="#code"' in answer.text
        told.append(words(answer).split("Check your mail")[0])
    assert "4 more times" in told[0]
    assert "once more" in told[3]
    assert "can't be used any more" in told[4]
    assert visitor.post("/customers/login/code", data={"code": code}).status_code == 422
    assert not visitor.is_in()


def test_a_wrong_code_says_the_same_to_everybody(database: Database, ana: models.Customer) -> None:
    shown = []
    for address in ("ana@example.com", "bob@example.com"):
        with Browser(database) as browser:
            browser.ask(address)
            browser.database.write_now(login.prepare_mail, browser.newest().id, SECRET, clock.now())
            for _ in range(6):
                answer = browser.post("/customers/login/code", data={"code": "ZZZZZZ"})
                shown.append((address, answer.status_code, answer.text.replace(address, "*")))
    assert [one[1:] for one in shown[:6]] == [one[1:] for one in shown[6:]]


def test_a_code_that_has_run_out_leads_to_the_form(visitor: Browser) -> None:
    visitor.ask()
    code = visitor.mail().code
    clock.set_offset(timedelta(minutes=11))
    answer = visitor.post("/customers/login/code", data={"code": code})
    assert answer.status_code == 422
    assert "run out" in words(answer)
    assert 'name="email"' in answer.text


def test_a_code_in_a_browser_that_did_not_ask(database: Database, visitor: Browser) -> None:
    visitor.ask()
    code = visitor.mail().code
    with Browser(database) as other:
        other.ask("bob@example.com")
        assert other.post("/customers/login/code", data={"code": code}).status_code == 422
        assert not other.is_in()


# The link


def test_a_link_shows_whose_it_is_and_one_button(visitor: Browser) -> None:
    visitor.ask()
    answer = visitor.get(f"/customers/login/{visitor.mail().token}")
    text = words(answer)
    assert answer.status_code == 200
    assert "a•••@example.com" in text
    assert "ana@example.com" not in answer.text
    assert "Firefox on Windows" in text
    assert "That was this browser." in text
    assert answer.text.count("<button") == 1
    assert "set-cookie" not in answer.headers
    assert "<script" not in answer.text
    assert "http-equiv" not in answer.text


def test_opening_a_link_writes_nothing(database: Database, visitor: Browser) -> None:
    visitor.ask()
    token = visitor.mail().token
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    for number in range(40):
        answer = visitor.request("HEAD" if number % 2 else "GET", f"/customers/login/{token}")
        assert answer.status_code == 200
    event.remove(database.engine, "before_cursor_execute", note)
    assert statements
    assert all(statement.lstrip().startswith("SELECT") for statement in statements)
    assert visitor.post(f"/customers/login/{token}").status_code == 303
    assert visitor.is_in()


def test_a_link_works_in_another_browser_and_says_so(database: Database, visitor: Browser) -> None:
    visitor.ask(next="/customers/upcoming")
    token = visitor.mail().token
    with Browser(database, agent=PHONE) as phone:
        page = phone.get(f"/customers/login/{token}")
        assert "That was not this browser." in words(page)
        assert "Firefox on Windows" in words(page)
        answer = phone.post(f"/customers/login/{token}")
        assert answer.headers["location"] == "/customers/upcoming"
        assert phone.is_in()
    assert not visitor.is_in()


def test_the_page_says_who_is_signed_in_here_already(
    database: Database, visitor: Browser, portal: models.Portal
) -> None:
    make_customer(database, portal, "ben@example.com")
    visitor.sign_in("ben@example.com")
    old = visitor.cookies["portal"]
    visitor.ask()
    token = visitor.mail().token
    page = visitor.get(f"/customers/login/{token}")
    assert "ben@example.com is signed in here." in words(page)
    assert "Switch and sign in" in words(page)
    visitor.post(f"/customers/login/{token}")
    assert "ana@example.com" in visitor.get("/customers/sessions").text
    visitor.cookies.set("portal", old, domain="acme.localhost", path="/")
    assert not visitor.is_in()


def test_the_same_customer_is_not_asked_to_switch(visitor: Browser) -> None:
    visitor.sign_in()
    visitor.ask()
    assert "Switch" not in words(visitor.get(f"/customers/login/{visitor.mail().token}"))


def test_a_used_link_offers_a_new_one_in_one_click(visitor: Browser) -> None:
    visitor.ask()
    token = visitor.mail().token
    visitor.post(f"/customers/login/{token}")
    for answer in (visitor.get(f"/customers/login/{token}"), visitor.post(f"/customers/login/{token}")):
        assert answer.status_code == 410
        assert "has been used" in words(answer)
        assert "E-mail me a new link" in words(answer)
    before = visitor.newest().id
    again = visitor.post("/customers/login", data={"link": token})
    assert again.headers["location"] == "/customers/login/check"
    assert visitor.newest().id != before
    assert visitor.newest().email == "ana@example.com"


def test_an_expired_link_says_so_and_tells_no_address(database: Database, visitor: Browser) -> None:
    visitor.ask()
    token = visitor.mail().token
    clock.set_offset(timedelta(minutes=10, seconds=1))
    with Browser(database, agent=PHONE) as stranger:
        page = stranger.get(f"/customers/login/{token}")
        assert page.status_code == 410
        assert "has expired" in words(page)
        stranger.post("/customers/login", data={"link": token})
        check = stranger.get("/customers/login/check")
        assert "a•••@example.com" in words(check)
        assert "ana@example.com" not in page.text + check.text
        stranger.post("/customers/login", data={"resend": "1"})
        assert "ana@example.com" not in stranger.get("/customers/login/check").text


@pytest.mark.parametrize("token", ["x", "A" * 42, "A" * 500, "%00", "a%20b", "%ff%fe", "<script>"])
def test_a_malformed_link(visitor: Browser, token: str) -> None:
    answer = visitor.get(f"/customers/login/{token}")
    assert answer.status_code == 404
    assert "not complete" in words(answer)
    assert 'name="email"' in answer.text
    assert "<script>" not in answer.text


def test_a_link_that_nobody_made(visitor: Browser) -> None:
    answer = visitor.get("/customers/login/" + "A" * 43)
    assert answer.status_code == 404
    assert "don't know this link" in words(answer)


def test_a_link_of_another_shop(database: Database, visitor: Browser) -> None:
    make_customer(database, make_portal(database, "kora"))
    visitor.ask()
    token = visitor.mail().token
    with Browser(database, "kora") as other:
        for answer in (other.get(f"/customers/login/{token}"), other.post(f"/customers/login/{token}")):
            assert answer.status_code == 404
            assert "belongs to another shop" in words(answer)
        before = visitor.newest().id
        assert other.post("/customers/login", data={"link": token}).headers["location"] == "/customers"
        assert visitor.newest().id == before
        assert not other.is_in()


def test_a_bad_link_where_somebody_is_signed_in_leads_on(visitor: Browser) -> None:
    visitor.sign_in()
    assert "You are signed in here as ana@example.com." in words(visitor.get("/customers/login/x"))


# Sessions


@pytest.mark.parametrize(("scheme", "name"), [("http", "portal"), ("https", "__Host-portal")])
def test_the_session_cookie(database: Database, ana: models.Customer, scheme: str, name: str) -> None:
    with Browser(database, scheme=scheme) as browser:
        answer = browser.sign_in()
        assert answer.status_code == 303
        _is_safe(cookies(answer)[name], scheme)
        assert "set-cookie" not in browser.get("/customers/sessions").headers


def test_a_session_of_one_portal_is_nothing_in_another(database: Database, visitor: Browser) -> None:
    make_customer(database, make_portal(database, "kora"))
    visitor.sign_in()
    with Browser(database, "kora") as other:
        other.cookies.set("portal", visitor.cookies["portal"])
        assert not other.is_in()


def test_signing_in_gives_a_new_id_whatever_the_browser_brought(visitor: Browser) -> None:
    planted = "planted-by-somebody-else-0123456789abcdefghi"
    visitor.cookies.set("portal", planted)
    answer = visitor.sign_in()
    assert planted not in cookies(answer)["portal"]


@pytest.mark.parametrize(("rest", "works"), [(timedelta(minutes=59), True), (timedelta(minutes=61), False)])
def test_an_hour_of_rest(visitor: Browser, rest: timedelta, works: bool) -> None:
    visitor.sign_in()
    clock.set_offset(rest)
    assert visitor.is_in() == works


def test_a_day_at_most(visitor: Browser) -> None:
    visitor.sign_in()
    for minutes in range(50, 24 * 60, 50):
        clock.set_offset(timedelta(minutes=minutes))
        assert visitor.is_in()
    clock.set_offset(timedelta(hours=24, seconds=1))
    assert not visitor.is_in()


@pytest.mark.parametrize(
    ("after", "headers", "noted"),
    [
        (timedelta(minutes=4), {}, False),
        (timedelta(minutes=6), {}, True),
        (timedelta(minutes=6), {"Sec-Purpose": "prefetch"}, False),
        (timedelta(minutes=6), {"Sec-Purpose": "prefetch;prerender"}, False),
    ],
)
def test_last_seen_is_noted_seldom_and_for_no_prefetch(
    visitor: Browser, after: timedelta, headers: dict[str, str], noted: bool
) -> None:
    visitor.sign_in()
    row = visitor.database.read_now(lambda db: db.execute(select(models.SignIn)).scalar_one())
    clock.set_offset(after)
    visitor.get("/customers/orders", headers=headers)
    later = visitor.database.read_now(lambda db: db.execute(select(models.SignIn)).scalar_one())
    assert (later.last_seen_at != row.last_seen_at) == noted


def test_who_is_signed_in_is_led_past_the_form(visitor: Browser) -> None:
    visitor.sign_in()
    assert visitor.get("/customers").headers["location"] == "/customers/orders"
    assert visitor.get("/customers?next=/customers/payments").headers["location"] == "/customers/payments"


# The guard


@pytest.mark.parametrize(
    ("path", "aim"),
    [
        ("/customers/payments", "/customers/payments"),
        ("/customers/subscriptions?ended=1", "/customers/subscriptions%3Fended%3D1"),
        ("/customers/subscriptions/01abcdefghjkm/cancel", "/customers/subscriptions/01abcdefghjkm/cancel"),
    ],
)
def test_who_is_not_signed_in_goes_to_the_form_and_comes_back(visitor: Browser, path: str, aim: str) -> None:
    answer = visitor.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/customers?next={aim}")
    form = visitor.get(answer.headers["location"])
    carried = unescape(re.findall(r'name="next" value="([^"]*)"', form.text)[0])
    assert carried == path
    assert visitor.sign_in(next=carried).headers["location"] == path


@pytest.mark.parametrize(
    ("path", "headers", "aim"),
    [
        ("/customers/subscriptions/01abcdefghjkm/cancel", {}, "/customers/subscriptions/01abcdefghjkm/cancel"),
        ("/customers/sessions/end", {}, "/customers/orders"),
        ("/customers/sessions/end", {"HX-Current-URL": "http://a/customers/sessions"}, "/customers/sessions"),
        ("/customers/sessions/end", {"HX-Current-URL": "https://evil.example//x"}, "/customers/orders"),
    ],
)  # fmt: skip
def test_a_post_without_a_session_keeps_its_aim(
    visitor: Browser, path: str, headers: dict[str, str], aim: str
) -> None:
    answer = visitor.post(path, headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/customers?next={aim}")


def test_htmx_is_sent_by_header_so_that_no_form_is_swapped_into_a_page(visitor: Browser) -> None:
    current = {"HX-Current-URL": "http://acme.localhost/customers/subscriptions?ended=1"}
    for method in ("GET", "POST"):
        answer = visitor.request(
            method, "/customers/subscriptions/01abcdefghjkm/cancel", headers={**HTMX, **current}
        )
        assert answer.status_code == 204
        assert answer.headers["HX-Redirect"] == "/customers?next=/customers/subscriptions%3Fended%3D1"


def test_a_foreign_aim_is_not_carried(visitor: Browser) -> None:
    form = visitor.get("/customers", params={"next": "https://evil.example/"})
    assert "evil.example" not in form.text
    assert visitor.sign_in(next="//evil.example/").headers["location"] == "/customers/orders"


@pytest.mark.parametrize("value", ["", "x", "A" * 43, "A" * 5000, "..%2f", "é"])
def test_a_cookie_of_nobody(visitor: Browser, value: str) -> None:
    answer = visitor.get("/customers/orders", headers=[(b"Cookie", f"portal={value}".encode())])
    assert answer.status_code == 303


# The list, and out


def test_the_list_of_own_sessions(database: Database, visitor: Browser) -> None:
    visitor.sign_in()
    with Browser(database, agent=PHONE) as phone:
        phone.sign_in()
        answer = visitor.get("/customers/sessions")
        text = words(answer)
        assert "Firefox on Windows" in text
        assert "Safari on iPhone" in text
        assert text.count("This one") == 1
        end = re.findall(r'action="(/customers/sessions/\w{13}/end)"', answer.text)
        assert len(end) == 1
        assert visitor.post(end[0]).headers["location"] == "/customers/sessions"
        assert not phone.is_in()
        assert visitor.is_in()
        assert visitor.post(end[0]).status_code == 404


def test_nobody_ends_anothers_session(database: Database, visitor: Browser, portal: models.Portal) -> None:
    make_customer(database, portal, "ben@example.com")
    visitor.sign_in()
    with Browser(database) as ben, Browser(database, agent=PHONE) as bens_phone:
        ben.sign_in("ben@example.com")
        bens_phone.sign_in("ben@example.com")
        end = re.findall(r'action="(/customers/sessions/\w{13}/end)"', ben.get("/customers/sessions").text)[0]
        assert visitor.post(end).status_code == 404
        assert bens_phone.is_in()


def test_sign_out_everywhere(database: Database, visitor: Browser) -> None:
    visitor.sign_in()
    with Browser(database, agent=PHONE) as phone:
        phone.sign_in()
        answer = visitor.post("/customers/sessions/end")
        _is_goodbye(answer)
        assert not phone.is_in()
        assert not visitor.is_in()


def test_sign_out(database: Database, visitor: Browser) -> None:
    visitor.sign_in()
    session = visitor.cookies["portal"]
    known = visitor.cookies["portal-browser"]
    _is_goodbye(visitor.post("/customers/logout"))
    assert "portal" not in visitor.cookies
    assert visitor.cookies["portal-browser"] == known  # so that the next sign-in here is no new browser
    visitor.cookies.set("portal", session, domain="acme.localhost", path="/")
    assert not visitor.is_in()


def test_sign_out_of_who_is_not_signed_in(visitor: Browser) -> None:
    _is_goodbye(visitor.post("/customers/logout"))


def test_sign_out_takes_no_get(visitor: Browser) -> None:
    visitor.sign_in()
    assert visitor.get("/customers/logout").status_code == 405
    assert visitor.is_in()


def _is_goodbye(answer: Any) -> None:
    assert (answer.status_code, answer.headers["location"]) == (303, "/customers")
    assert answer.headers["Clear-Site-Data"] == '"cache", "storage"'


def test_answers_of_the_way_in_are_kept_nowhere(visitor: Browser) -> None:
    visitor.ask()
    token = visitor.mail().token
    for path in ("/customers", "/customers/login/check", f"/customers/login/{token}", "/customers/orders"):
        assert visitor.get(path).headers["Cache-Control"] == "private, no-store"


def test_a_new_browser_is_told_by_mail(database: Database, visitor: Browser) -> None:
    visitor.sign_in()
    visitor.sign_in()
    kinds = select(models.Job.kind, models.Job.payload).where(models.Job.kind == "mail")  # type: ignore[call-overload]
    assert visitor.database.read_now(lambda db: db.execute(kinds).all()) == []
    with Browser(database, agent=PHONE) as phone:
        phone.sign_in()
    told = visitor.database.read_now(lambda db: db.execute(kinds).all())
    assert [(row.payload["template"], row.payload["browser"]) for row in told] == [
        ("new_device", "Safari on iPhone")
    ]
