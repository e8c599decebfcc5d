"""The life of an account by supabase-auth: supabase_life.py URL PART PASSWORD

What only the test can do is asked for by a line `@...` and answered by a line of JSON.
"""

import json
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import httpx
import pyotp
from supabase_auth import SyncGoTrueAdminAPI, SyncGoTrueClient, SyncMemoryStorage
from supabase_auth.errors import (
    AuthApiError,
    AuthRetryableError,
    AuthWeakPasswordError,
)

URL, PART, PASSWORD = sys.argv[1:]
NEW_PASSWORD = "Other-Plover-9-Ladder"
SITE = "https://app.example.com/"
# What the gateway's access_lifetime says.
LIFETIME = 600

# The library's own time, to see its tokens grow old without waiting.
system_time = time.time
ahead = 0
time.time = lambda: system_time() + ahead


def ask(line):
    print(f"@{line}", flush=True)
    return json.loads(sys.stdin.readline())


def pass_time(seconds):
    """Lets the time pass here and at the gateway."""
    global ahead
    ahead += seconds
    ask(f"advance {seconds}")


class Client(SyncGoTrueClient):
    """The library's client, unmodified; remembers what it has told its subscribers."""

    def __init__(self, storage=None, **options):
        self.held = storage or SyncMemoryStorage()
        options = {"auto_refresh_token": False, **options}
        super().__init__(url=URL, storage=self.held, **options)
        self.events = []
        self.changed = threading.Condition()
        self.on_auth_state_change(self.note)

    def note(self, event, _session):
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def until(self, event):
        with self.changed:
            assert self.changed.wait_for(lambda: event in self.events, 30), (event, self.events)

    def log_in(self, email, password=PASSWORD):
        self.sign_in_with_password({"email": email, "password": password})
        return self


def refused(action, kind, status, code):
    """An action that has to fail with this kind of error, status and code."""
    try:
        action()
    except kind as error:
        assert (error.status, error.code) == (status, code), (error.status, error.code, error)
        return error
    raise AssertionError(f"no error where {code} was due")


def refused_api(action, status, code):
    return refused(action, AuthApiError, status, code)


def signed_up(name):
    client, email = Client(), f"{name}@example.com"
    made = client.sign_up(
        {"email": email, "password": PASSWORD, "options": {"data": {"name": name}}}
    )
    assert made.session.access_token and made.session.refresh_token, "a session at once"
    assert (made.user.email, made.user.user_metadata["name"]) == (email, name)
    return client, email


def log_in_by(email, password):
    return lambda: Client().log_in(email, password)


def is_over(client):
    """Its session has ended at the gateway."""
    refused_api(client.get_user, 401, "session_not_found")


# --- accounts: sign up, in, out, refresh, change ------------------------------------------------


def signing_up_and_in():
    client, email = signed_up("ann")
    assert "SIGNED_IN" in client.events, client.events
    assert len(client.get_user_identities().identities) == 1

    def sign_up(email, password):
        return lambda: Client().sign_up({"email": email, "password": password})

    weak = refused(sign_up("weak@example.com", "short"), AuthWeakPasswordError, 422, "weak_password")
    assert "length" in weak.reasons, weak.reasons
    refused_api(sign_up("ANN@example.com", PASSWORD), 409, "user_already_exists")
    refused_api(sign_up("no address", PASSWORD), 422, "validation_failed")
    refused_api(log_in_by(email, "Wrong-Horse-7"), 401, "invalid_credentials")
    refused_api(log_in_by("nobody@example.com", PASSWORD), 401, "invalid_credentials")
    refused_api(Client().sign_in_anonymously, 422, "anonymous_provider_disabled")

    other = Client().log_in(email)
    user = client.get_user().user
    assert other.get_user().user.id == user.id
    found = other.get_claims()
    claims = found["claims"]
    assert (claims["sub"], claims["email"], claims["aal"]) == (user.id, email, "aal1"), claims
    assert claims["amr"][0]["method"] == "password", claims
    assert found["headers"]["alg"] != "HS256", "verified by the library with the published key"

    # A client that starts later finds the session where the first one has put it.
    later = Client(other.held)
    later.initialize()
    assert later.get_session().access_token == other.get_session().access_token


def changing():
    client, email = signed_up("ben")
    user = client.update_user({"data": {"colour": "blue", "name": None}}).user
    assert user.user_metadata == {"colour": "blue"}, user.user_metadata
    assert client.get_user().user.user_metadata == {"colour": "blue"}
    assert "USER_UPDATED" in client.events, client.events

    elsewhere = Client().log_in(email)
    refused_api(lambda: client.update_user({"password": PASSWORD}), 422, "same_password")
    refused(
        lambda: client.update_user({"password": "short"}),
        AuthWeakPasswordError, 422, "weak_password",
    )
    client.update_user({"password": NEW_PASSWORD})
    refused_api(log_in_by(email, PASSWORD), 401, "invalid_credentials")
    Client().log_in(email, NEW_PASSWORD)
    client.get_user()
    is_over(elsewhere)


def refreshing():
    client, email = signed_up("cid")
    first = client.get_session()
    assert client.get_session().access_token == first.access_token, "not before it is due"
    pass_time(LIFETIME - 5)
    second = client.get_session()
    assert second.access_token != first.access_token
    assert second.refresh_token != first.refresh_token
    assert client.events.count("TOKEN_REFRESHED") == 1, client.events

    # By its own timer, a second before which the library looks at the time.
    global ahead
    ahead += LIFETIME - 11
    ticking = Client(auto_refresh_token=True).log_in(email)
    before = json.loads(ticking.held.get_item("supabase.auth.token"))["access_token"]
    ticking.until("TOKEN_REFRESHED")
    ahead -= LIFETIME - 11
    assert ticking.get_session().access_token != before
    ticking.sign_out({"scope": "local"})


def two_programs():
    """Two programs with one session trade its refresh token at the same time."""
    client, _email = signed_up("dan")
    with ThreadPoolExecutor(3) as pool:
        for _ in range(10):
            copies = []
            for _ in range(3):
                copy = SyncMemoryStorage()
                copy.storage.update(client.held.storage)
                copies.append(Client(copy))
            sessions = list(pool.map(lambda copy: copy.refresh_session().session, copies))
            assert len({session.refresh_token for session in sessions}) == 1, "one successor"
            for copy in copies:
                copy.get_user()
            client = copies[0]


def signing_out():
    client, email = signed_up("eva")
    local, others, everywhere = (Client().log_in(email) for _ in range(3))
    local.sign_out({"scope": "local"})
    assert "SIGNED_OUT" in local.events and local.get_session() is None
    for one in (client, others, everywhere):
        one.get_user()

    others.sign_out({"scope": "others"})
    others.get_user()
    is_over(client)

    Client().log_in(email).sign_out()
    is_over(others)
    others.sign_out()
    assert others.get_session() is None, "signing out of an ended session is no error"


def lost_sessions():
    client, email = signed_up("fay")
    # A reused token ends its session, in the hands of a thief and of the owner.
    stolen = client.get_session().refresh_token
    client.refresh_session()
    client.refresh_session()
    pass_time(60)
    refused_api(lambda: Client().refresh_session(stolen), 400, "refresh_token_already_used")
    is_over(client)
    refused_api(lambda: Client().refresh_session("nonsense"), 400, "refresh_token_not_found")

    idle = Client().log_in(email)
    pass_time(8 * 86400)
    refused_api(idle.get_session, 400, "session_expired")
    Client().log_in(email)


# --- outage: nobody is signed out because the database is away ----------------------------------


def outage():
    client, email = signed_up("gus")
    before = client.get_session()
    ask("database hang")
    refused(client.get_user, AuthRetryableError, 503, None)
    refused(log_in_by(email, PASSWORD), AuthRetryableError, 503, None)

    # The access token has expired: the refresh token is all that is left.
    global ahead
    ahead += LIFETIME + 60
    refused(client.get_session, AuthRetryableError, 503, None)
    assert "SIGNED_OUT" not in client.events, client.events
    ask("database resume")
    assert client.get_session().access_token != before.access_token
    ahead -= LIFETIME + 60
    client.get_user()
    assert "SIGNED_OUT" not in client.events, client.events


# --- letters: with confirmation of addresses ----------------------------------------------------


def letter(to, kind):
    found = ask(f"letter {to}")
    assert found["letter"] == kind, found
    return found["data"]


def click(token, kind, redirect):
    """Clicks the button of the page that a letter leads to; gives where it leads."""
    query = {"token": token, "type": kind, "redirect_to": redirect}
    with httpx.Client(base_url=URL, trust_env=False) as browser:
        page = browser.get("/verify", params=query)
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        answer = browser.post("/verify", data=query, headers={"Sec-Fetch-Site": "same-origin"})
        assert answer.status_code == 303, answer.text
        return urlsplit(answer.headers["location"])


def another(code):
    return "000001" if code == "000000" else "000000"


def verify(client, **params):
    return lambda: client.verify_otp(params)


def confirming():
    client, email = Client(), "ann@example.com"
    made = client.sign_up({"email": email, "password": PASSWORD})
    assert made.session is None and made.user.email == email, made
    letter(email, "confirmation")
    pass_time(120)
    client.resend({"type": "signup", "email": email})
    token_hash = letter(email, "confirmation")["token_hash"]
    refused_api(verify(client, type="signup", token_hash="0" * 43), 403, "otp_expired")
    proved = client.verify_otp({"type": "signup", "token_hash": token_hash})
    assert proved.session.access_token and proved.user.email_confirmed_at, proved
    refused_api(verify(client, type="signup", token_hash=token_hash), 403, "otp_expired")
    Client().log_in(email)

    # The same answer for an address that is taken.
    again = Client().sign_up({"email": email, "password": NEW_PASSWORD})
    assert again.session is None and again.user.model_fields_set == made.user.model_fields_set
    letter(email, "already_registered")
    Client().log_in(email)


def by_code():
    client, email = Client(), "ben@example.com"
    client.sign_up({"email": email, "password": PASSWORD})
    code = letter(email, "confirmation")["token"]
    assert re.fullmatch("[0-9]{6}", code), code
    refused_api(verify(client, email=email, token=another(code), type="email"), 403, "otp_expired")
    client.verify_otp({"email": email, "token": code, "type": "email"})
    assert client.get_session().user.email == email

    magic = Client()
    magic.sign_in_with_otp({"email": email})
    code = letter(email, "magic_link")["token"]
    magic.verify_otp({"email": email, "token": code, "type": "email"})
    assert magic.get_claims()["claims"]["amr"][0]["method"] == "otp"

    # An address nobody knows yet gets an account by its letter; or not.
    fresh = Client()
    fresh.sign_in_with_otp({"email": "new@example.com", "options": {"data": {"plan": "free"}}})
    token_hash = letter("new@example.com", "magic_link")["token_hash"]
    proved = fresh.verify_otp({"type": "magiclink", "token_hash": token_hash})
    assert proved.user.email_confirmed_at and proved.user.user_metadata["plan"] == "free", proved
    Client().sign_in_with_otp(
        {"email": "never@example.com", "options": {"should_create_user": False}}
    )
    refused_api(
        lambda: Client().sign_in_with_otp({"phone": "+491234567"}), 400, "phone_provider_disabled"
    )


def recovering():
    client, email = Client(), "ben@example.com"
    client.reset_password_for_email(email, {"redirect_to": f"{SITE}reset"})
    client.reset_password_for_email("nobody@example.com")
    data = letter(email, "recovery")
    assert data["redirect_to"] == f"{SITE}reset", data
    there = click(data["token_hash"], "recovery", data["redirect_to"])
    assert f"{there.scheme}://{there.netloc}{there.path}" == f"{SITE}reset", there
    # The library reads the session out of the address by itself.
    client.initialize_from_url(there.geturl())
    assert "PASSWORD_RECOVERY" in client.events, client.events
    client.update_user({"password": NEW_PASSWORD})
    letter(email, "password_changed")
    refused_api(log_in_by(email, PASSWORD), 401, "invalid_credentials")
    Client().log_in(email, NEW_PASSWORD)

    # With a proof that only the program has which asked (RFC 7636).
    careful = Client(flow_type="pkce")
    pass_time(120)
    careful.reset_password_for_email(email, {"redirect_to": f"{SITE}reset"})
    data = letter(email, "recovery")
    back = click(data["token_hash"], "recovery", data["redirect_to"])
    assert back.fragment == "", back
    code = parse_qs(back.query)["code"][0]
    careful.exchange_code_for_session({"auth_code": code})
    assert "PASSWORD_RECOVERY" in careful.events, careful.events
    again = {"auth_code": code, "code_verifier": "x" * 43}
    refused_api(
        lambda: careful.exchange_code_for_session(again), 404, "flow_state_not_found"
    )


def moving():
    client = Client().log_in("ann@example.com")
    user = client.update_user({"email": "anna@example.com"}).user
    assert (user.email, user.new_email) == ("ann@example.com", "anna@example.com"), user
    present = letter("ann@example.com", "email_change_current")
    coming = letter("anna@example.com", "email_change_new")

    def confirm(data):
        token_hash = data.get("token_hash") or data.get("token_hash_new")
        return client.verify_otp({"type": "email_change", "token_hash": token_hash})

    assert confirm(coming).session is None
    confirm(present)
    assert client.get_user().user.email == "anna@example.com"
    letter("ann@example.com", "email_changed")
    Client().log_in("anna@example.com")

    client.reauthenticate()
    code = letter("anna@example.com", "reauthentication")["token"]
    refused_api(
        lambda: client.update_user({"password": NEW_PASSWORD, "nonce": another(code)}),
        422, "reauthentication_not_valid",
    )
    client.update_user({"password": NEW_PASSWORD, "nonce": code})
    Client().log_in("anna@example.com", NEW_PASSWORD)


# --- factors: a second factor, from its enrolment to its removal --------------------------------


def next_code(secret):
    """What an authenticator app shows next, by the gateway's clock: each code is good once."""
    pass_time(30)
    return pyotp.TOTP(secret).at(ask("now"))


def levels(client):
    level = client.mfa.get_authenticator_assurance_level()
    return level.current_level, level.next_level


def second_factor():
    client, email = signed_up("hal")
    elsewhere = Client().log_in(email)
    assert levels(client) == ("aal1", "aal1")
    enrolled = client.mfa.enroll({"factor_type": "totp", "friendly_name": "phone"})
    assert (enrolled.type, enrolled.friendly_name) == ("totp", "phone")
    app = pyotp.parse_uri(enrolled.totp.uri)
    assert (app.secret, app.name, app.interval, app.digits) == (enrolled.totp.secret, email, 30, 6)
    picture = enrolled.totp.qr_code
    assert re.fullmatch(r"data:image/svg\+xml;utf-8,<svg [^#%]*</svg>", picture), picture
    phone = {"factor_type": "phone", "phone": "+491234567"}
    refused_api(lambda: client.mfa.enroll(phone), 422, "mfa_phone_enroll_not_enabled")
    assert levels(client) == ("aal1", "aal1"), "it counts when it was shown"

    factor = {"factor_id": enrolled.id}
    challenge = client.mfa.challenge(factor)
    assert challenge.factor_type == "totp"
    answer = {**factor, "challenge_id": challenge.id}
    wrong = {**answer, "code": "x"}
    refused_api(lambda: client.mfa.verify(wrong), 422, "mfa_verification_failed")
    before = client.get_session()
    client.mfa.verify({**answer, "code": next_code(app.secret)})
    assert "MFA_CHALLENGE_VERIFIED" in client.events, client.events
    assert client.get_session().refresh_token != before.refresh_token
    assert levels(client) == ("aal2", "aal2")
    listed = client.mfa.list_factors()
    assert [found.id for found in listed.totp] == [enrolled.id], listed
    client.refresh_session()
    assert levels(client) == ("aal2", "aal2"), "a refresh takes nothing away"
    is_over(elsewhere)

    # The next login is half of one.
    half = Client().log_in(email)
    assert levels(half) == ("aal1", "aal2")
    for change in [
        lambda: half.update_user({"password": NEW_PASSWORD}),
        lambda: half.mfa.enroll({"factor_type": "totp"}),
        lambda: half.mfa.unenroll(factor),
    ]:
        refused_api(change, 401, "insufficient_aal")
    half.mfa.challenge_and_verify({**factor, "code": next_code(app.secret)})
    shown = half.mfa.get_authenticator_assurance_level().current_authentication_methods
    assert [entry.method for entry in shown] == ["totp", "password"], shown

    assert half.mfa.unenroll(factor).id == enrolled.id
    half.refresh_session()
    assert levels(half) == ("aal1", "aal1")
    is_over(client)
    assert half.mfa.list_factors().all == []


# --- admin: what a back end does with its service key -------------------------------------------


def administering():
    headers = {"Authorization": f"Bearer {ask('admin_key')}"}
    admin = SyncGoTrueAdminAPI(url=URL, headers=headers)
    wanted = {
        "email": "ann@example.com", "password": PASSWORD, "email_confirm": True,
        "user_metadata": {"name": "Ann"}, "app_metadata": {"roles": ["staff"]},
    }
    ann = admin.create_user(wanted).user
    assert (ann.user_metadata["name"], ann.app_metadata["roles"]) == ("Ann", ["staff"])
    refused_api(lambda: admin.create_user(wanted), 422, "email_exists")
    for name in ["bob", "cid", "dan"]:
        admin.create_user({"email": f"{name}@example.com", "password": PASSWORD})
    assert len(admin.list_users(page=1, per_page=2)) == 2
    assert len(admin.list_users()) == 5
    assert admin.get_user_by_id(ann.id).user.email == "ann@example.com"
    nobody = "00000000-0000-4000-8000-000000000000"
    refused_api(lambda: admin.get_user_by_id(nobody), 404, "user_not_found")

    client = Client().log_in("ann@example.com")
    changes = {"email": "anna@example.com", "email_confirm": True, "password": NEW_PASSWORD}
    assert admin.update_user_by_id(ann.id, changes).user.email == "anna@example.com"
    is_over(client)
    again = Client().log_in("anna@example.com", NEW_PASSWORD)
    admin.sign_out(again.get_session().access_token)
    is_over(again)
    admin.update_user_by_id(ann.id, {"ban_duration": "24h"})
    login = {"email": "anna@example.com", "password": NEW_PASSWORD}
    refused_api(lambda: Client().sign_in_with_password(login), 401, "invalid_credentials")
    admin.update_user_by_id(ann.id, {"ban_duration": "none"})

    link = admin.generate_link({
        "type": "magiclink", "email": "anna@example.com", "options": {"redirect_to": f"{SITE}in"},
    })
    assert (link.properties.verification_type, link.user.id) == ("magiclink", ann.id)
    assert link.properties.redirect_to == f"{SITE}in"
    visitor = Client()
    visitor.verify_otp({"type": "magiclink", "token_hash": link.properties.hashed_token})
    enrolled = visitor.mfa.enroll({"factor_type": "totp", "friendly_name": "phone"})
    code = next_code(pyotp.parse_uri(enrolled.totp.uri).secret)
    visitor.mfa.challenge_and_verify({"factor_id": enrolled.id, "code": code})
    factor = {"user_id": ann.id, "id": enrolled.id}
    assert admin.mfa.delete_factor(factor).id == enrolled.id

    assert admin.invite_user_by_email("eve@example.com").user.email == "eve@example.com"
    letter("eve@example.com", "invite")
    admin.delete_user(ann.id)
    refused_api(lambda: admin.get_user_by_id(ann.id), 404, "user_not_found")

    bob = Client().log_in("bob@example.com").get_session().access_token
    wrong = SyncGoTrueAdminAPI(url=URL, headers={"Authorization": f"Bearer {bob}"})
    refused_api(wrong.list_users, 403, "not_admin")


PARTS = {
    "admin": [administering],
    "accounts": [
        signing_up_and_in, changing, refreshing, two_programs, signing_out, lost_sessions,
    ],
    "outage": [outage],
    "factors": [second_factor],
    "letters": [confirming, by_code, recovering, moving],
}
for step in PARTS[PART]:
    print(step.__name__, flush=True)
    step()
