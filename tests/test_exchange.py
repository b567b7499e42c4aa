"""The core without a socket: when an exchange is tried again, how long it waits, where it may be redirected."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hostile import PUBLIC, Talk, answer, session, talk
from hypothesis import given
from hypothesis import strategies as st

from regaudit.client.exchange import (
    Headers,
    HeaderText,
    Once,
    Pause,
    Request,
    Response,
    RetryPolicy,
    Token,
    error_of,
    follow,
    is_private,
    origin,
    resolve,
    send,
)
from regaudit.client.rates import RateLimit, rate_limit
from regaudit.errors import (
    AccessDenied,
    AddressRefused,
    AuthenticationFailed,
    NotFound,
    RateLimited,
    RedirectRefused,
    RegistryError,
    TimedOut,
    TooLarge,
    TruncatedResponse,
    UnexpectedStatus,
    Unreachable,
    Unsupported,
)

URL = "https://registry.example/v2/"
NO_ANSWER = Unreachable("nobody there")


def get(method="GET", url=URL, **options):
    return Request(method, url, "test", **options)


# -- trying again ----------------------------------------------------------------------------


def test_a_read_without_an_answer_is_tried_three_times_within_two_seconds():
    driver = Talk([NO_ANSWER])
    with pytest.raises(Unreachable):
        driver.run(send(session(), get()))
    assert len(driver.requests) == 3
    assert sum(wait.seconds for wait in driver.waits) < 2
    assert driver.waits[0].seconds < driver.waits[1].seconds
    assert not any(wait.everyone for wait in driver.waits), "one broken connection says nothing about the others"


@pytest.mark.parametrize("fault", [NO_ANSWER, TruncatedResponse("cut"), TimedOut("slow")])
def test_a_read_succeeds_when_a_later_try_does(fault):
    response, driver = talk(send(session(), get("HEAD")), fault, fault, answer(200, b"here"))
    assert (response.status, response.body, len(driver.requests)) == (200, b"here", 3)


@pytest.mark.parametrize("method", ["DELETE", "PUT", "POST", "PATCH"])
@pytest.mark.parametrize("fault", [NO_ANSWER, answer(500), answer(502), answer(504)])
def test_a_change_is_never_repeated_blindly(method, fault):
    driver = Talk([fault])
    try:
        response = driver.run(send(session(), get(method)))
    except Unreachable:
        response = None
    assert len(driver.requests) == 1
    assert response is None or response.status >= 500


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_read_that_fails_inside_the_registry_is_tried_three_times_and_then_returned(status):
    response, driver = talk(send(session(), get()), answer(status))
    assert (response.status, len(driver.requests)) == (status, 3)


def test_an_address_that_was_refused_is_not_tried_again():
    driver = Talk([AddressRefused("private")])
    with pytest.raises(AddressRefused):
        driver.run(send(session(), get()))
    assert len(driver.requests) == 1


def test_an_answer_that_cannot_be_believed_is_not_asked_for_again():
    driver = Talk([TooLarge("big")])
    with pytest.raises(TooLarge):
        driver.run(send(session(), get()))
    assert len(driver.requests) == 1


def test_faults_and_a_busy_registry_are_counted_apart():
    """Two 429 and then a reset are not three faults: an audit under 10 % of 429 and 2 % of resets is complete."""
    busy = answer(429, headers={"Retry-After": "0"})
    response, driver = talk(send(session(), get()), busy, busy, busy, NO_ANSWER, NO_ANSWER, answer(200))
    assert (response.status, len(driver.requests)) == (200, 6)


def test_the_number_of_tries_is_the_users():
    driver = Talk([NO_ANSWER])
    with pytest.raises(Unreachable):
        driver.run(send(session(retry=RetryPolicy(tries=1)), get()))
    assert (len(driver.requests), driver.waits) == (1, [])


def test_requests_are_counted_by_purpose_each_attempt_of_its_own():
    ours = session()
    talk(send(ours, get()), NO_ANSWER, answer(200))
    assert ours.counts == {"test": 2}


# -- a busy registry -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_a_busy_registry_is_waited_for_by_everyone_whatever_the_method(status, method):
    response, driver = talk(send(session(), get(method)), answer(status, headers={"Retry-After": "7"}), answer(202))
    assert response.status == 202
    assert [(wait.seconds, wait.everyone) for wait in driver.waits] == [(7.0, True)]


def test_retry_after_as_a_date_counts_from_the_registrys_own_clock():
    headers = {"Retry-After": "Mon, 01 Jun 2026 00:00:09 GMT", "Date": "Mon, 01 Jun 2026 00:00:00 GMT"}
    _, driver = talk(send(session(), get()), answer(503, headers=headers), answer(200))
    assert [wait.seconds for wait in driver.waits] == [9.0]


@pytest.mark.parametrize(
    ("after", "date"),
    [
        ("Mon, 01 Jun 2026 00:00:00 GMT", "Mon, 01 Jun 2026 09:00:00 GMT"),  # past: at once
        ("0", ""),
    ],
)
def test_a_wait_that_is_over_is_none(after, date):
    _, driver = talk(send(session(), get()), answer(503, headers={"Retry-After": after, "Date": date}), answer(200))
    assert [wait.seconds for wait in driver.waits] == [0.0]


@pytest.mark.parametrize(
    "after", ["soon", "", "-5", "\xb2", "1.5", "Mon, 99 Foo 2026", "Mon, 01 Jun 2026 00:00:09 GMT", "5, 7", "NaN"]
)
def test_a_retry_after_that_says_nothing_leads_to_a_growing_guess(after):
    """A date without a Date beside it says nothing either: no clock is better than a wrong one."""
    busy = answer(429, headers={"Retry-After": after})
    _, driver = talk(send(session(), get()), busy, busy, answer(200))
    first, second = (wait.seconds for wait in driver.waits)
    assert 0 < first < 1 < 2 * first + 0.5
    assert first < second < 60


@pytest.mark.parametrize("after", ["61", "99999999", "9" * 400, "Mon, 01 Jun 2037 00:00:09 GMT"])
def test_a_wait_of_hours_fails_at_once_with_a_message(after):
    headers = {"Retry-After": after, "Date": "Mon, 01 Jun 2026 00:00:00 GMT"}
    driver = Talk([answer(429, headers=headers)])
    with pytest.raises(RateLimited, match=r"asks to wait .* s: try again then") as caught:
        driver.run(send(session(), get()))
    assert (caught.value.status, driver.waits, len(driver.requests)) == (429, [], 1)


def test_a_registry_that_stays_busy_is_given_up_after_six_tries():
    response, driver = talk(send(session(), get()), answer(429, headers={"Retry-After": "1"}))
    assert (response.status, len(driver.requests)) == (429, 6)


# -- redirects -------------------------------------------------------------------------------

SECRET = {"Authorization": "Bearer secret", "Accept": "x/y"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["DELETE", "PUT", "POST", "PATCH"])
def test_only_reads_are_redirected(status, method):
    driver = Talk([answer(status, headers={"Location": "/v2/elsewhere"})])
    with pytest.raises(RedirectRefused, match=f"a {method} is never redirected") as caught:
        driver.run(follow(session(), get(method, body=b"x")))
    assert (caught.value.status, len(driver.requests)) == (status, 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_read_keeps_its_method_and_its_authorization_within_its_origin(status):
    response, driver = talk(
        follow(session(), get("HEAD", headers=SECRET)),
        answer(status, headers={"Location": "../blob?x=1"}),
        answer(200, b"", headers={}),
    )
    request = driver.requests[1]
    assert (request.method, request.url) == ("HEAD", "https://registry.example/blob?x=1")
    assert request.headers == SECRET
    assert not request.public_only
    assert response.url == request.url


@pytest.mark.parametrize(
    "target",
    ["https://cdn.example/x", "https://registry.example:8443/x", "//cdn.example/x", "https://REGISTRY.example.org/x"],
)
def test_authorization_stays_with_the_origin_that_it_was_meant_for(target):
    _, driver = talk(
        follow(session(), get(headers=SECRET)),
        answer(307, headers={"Location": target}),
        answer(307, headers={"Location": URL}),  # and does not come back with the redirect back
        answer(200),
    )
    assert [request.headers.get("Authorization") for request in driver.requests] == ["Bearer secret", None, None]
    assert driver.requests[1].headers == {"Accept": "x/y"}


@pytest.mark.parametrize(
    "location",
    [
        "",
        "http://registry.example/x",
        "http://cdn.example/x",
        "file:///etc/passwd",
        "ftp://cdn.example/x",
        "javascript:alert(1)",
        "data:text/plain,x",
        "gopher://x/",
        "https://user:pw@cdn.example/x",
        "https://@cdn.example/x",
        "https://[::1/x",
        "https://[zz]/x",
        "https://cdn.example:99999/x",
        "https://cdn.example:x/x",
        "https://cdn\u2100.example/x",
    ],
)
def test_an_unsafe_target_is_refused_before_anything_is_sent(location):
    driver = Talk([answer(302, headers={"Location": location}), answer(200)])
    with pytest.raises(RedirectRefused, match="not safe to follow") as caught:
        driver.run(follow(session(), get()))
    assert len(driver.requests) == 1
    assert "pw" not in str(caught.value)


def test_five_hops_are_followed_and_no_sixth():
    hop = answer(302, headers={"Location": "/again"})
    response, _ = talk(follow(session(), get()), *[hop] * 5, answer(200))
    assert response.status == 200
    driver = Talk([hop])
    with pytest.raises(RedirectRefused, match="more than 5 times"):
        driver.run(follow(session(), get()))
    assert len(driver.requests) == 6


def test_a_public_registry_may_not_send_us_to_private_addresses():
    _, driver = talk(
        follow(session(), get()),
        answer(302, headers={"Location": "https://cdn.example/x"}, peer=PUBLIC),
        answer(302, headers={"Location": "https://other.example/x"}, peer=PUBLIC),
        answer(200),
    )
    assert [request.public_only for request in driver.requests] == [False, True, True]


@pytest.mark.parametrize("peer", ["10.0.0.5", "127.0.0.1", "fd00::1"])
def test_a_private_registry_may(peer):
    _, driver = talk(
        follow(session(), get()), answer(302, headers={"Location": "https://cdn.corp/x"}, peer=peer), answer(200)
    )
    assert not driver.requests[1].public_only


def test_where_the_address_is_not_known_it_counts_as_public():
    _, driver = talk(
        follow(session(), get()), answer(302, headers={"Location": "https://cdn.example/x"}, peer=None), answer(200)
    )
    assert driver.requests[1].public_only


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("10.1.2.3", True),
        ("172.16.0.1", True),
        ("192.168.1.1", True),
        ("169.254.169.254", True),
        ("100.64.0.1", True),
        ("0.0.0.0", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("::ffff:169.254.169.254", True),
        ("::ffff:127.0.0.1", True),
        ("8.8.8.8", False),
        ("::ffff:8.8.8.8", False),
        ("2606:4700::1111", False),
        (None, False),
        ("no address", False),
    ],
)
def test_private_is_whatever_is_not_of_the_internet(address, private):
    assert is_private(address) is private


@given(st.text(max_size=60), st.sampled_from(["https://registry.example/v2/x?y=1", "http://127.0.0.1:5000/"]))
def test_whatever_a_registry_points_at_is_an_http_url_or_none(location, base):
    target = resolve(base, location)
    assert target is None or (origin(target)[0] in {"http", "https"} and origin(target)[1])


# -- Once, and what a no means ---------------------------------------------------------------


def test_once_hands_a_conversation_to_the_driver():
    def inner():
        return (yield from send(session(), get()))

    def outer():
        return (yield Once("key", inner()))

    response, driver = talk(outer(), answer(200, b"shared"))
    assert (response.body, [once.key for once in driver.onces]) == (b"shared", ["key"])


@pytest.mark.parametrize(
    ("status", "code", "shown", "kind"),
    [
        (401, "UNAUTHORIZED", "nothing", AccessDenied),
        (401, "UNAUTHORIZED", "credentials", AuthenticationFailed),
        (401, "UNAUTHORIZED", "rights", AccessDenied),
        (403, "DENIED", "nothing", AccessDenied),
        (404, "MANIFEST_UNKNOWN", "nothing", NotFound),
        (405, "UNSUPPORTED", "nothing", Unsupported),
        (400, "UNSUPPORTED", "nothing", Unsupported),
        (429, "TOOMANYREQUESTS", "nothing", RateLimited),
        (400, "NAME_INVALID", "nothing", UnexpectedStatus),
        (418, "", "nothing", UnexpectedStatus),
        (500, "UNKNOWN", "nothing", UnexpectedStatus),
    ],
)
def test_each_no_has_its_own_error_with_status_and_code(status, code, shown, kind):
    body = answer(status, json={"errors": [{"code": code, "message": "because"}]})
    error = error_of(body, "reading x", shown=shown)
    assert type(error) is kind
    assert (error.status, error.code) == (status, code or None)
    assert str(error).startswith("reading x: ")
    assert "because" in str(error)


def test_a_403_never_looks_like_a_wrong_password():
    assert not isinstance(error_of(answer(403), "x", shown="credentials"), AuthenticationFailed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>login</html>",
        b"x" * 10_000_000,
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"null",
        b"[]",
        b'{"errors":[]}',
        b'{"errors":{}}',
        b'{"errors":[null]}',
        b'{"errors":[{"code":null,"message":["x"]}]}',
        b'{"errors":[{"code":"' + b"A" * 60_000 + b'","message":"' + b"a." * 30_000 + b'"}]}',
        b'{"errors":[{"code":"X","message":"\\u001b]0;x\\u0007\\u202e Bearer abcdefghijkl http://u:secretpw@h/"}]}',
        b"fehlgeschlagen \x1b[31m Bearer abcdefghijkl password=secretpw",
    ],
)
def test_whatever_stands_in_an_error_body_the_message_is_short_and_clean(body):
    error = error_of(answer(500, body), "reading x")
    text = str(error) + (error.code or "")
    assert len(text) < 500
    assert text.isprintable()
    assert not any(secret in text for secret in ("abcdefghijkl", "secretpw", "<html"))


def test_headers_ignore_case_and_keep_every_value():
    headers = Headers([("Link", "<a>"), ("X-Y", "1"), ("link", "<b>")])
    assert headers["LINK"] == "<a>"
    assert headers.all("Link") == ["<a>", "<b>"]
    assert (len(headers), list(headers), headers.get("none")) == (2, ["link", "x-y"], None)
    with pytest.raises(KeyError):
        headers["none"]


def test_neither_request_nor_response_nor_session_shows_a_secret():
    ours = session()
    ours.tokens["scope"] = Token("canary", 1.0)
    shown = repr(get(body=b"canary")) + repr(Response(200, URL, Headers(), b"canary")) + repr(ours)
    assert "canary" not in shown


def test_every_registry_error_is_thrown_into_the_conversation():
    def conversation():
        try:
            yield get()
        except RegistryError as error:
            return error

    error, _ = talk(conversation(), NotFound("gone"))
    assert isinstance(error, NotFound)


@given(
    st.lists(
        st.tuples(
            st.text("abX-", min_size=1, max_size=3),
            st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f\x85\xa0"), max_size=5),
        )
    ),
    st.text("abx-", min_size=1, max_size=3),
)
def test_headers_that_are_read_when_they_are_asked_for_are_those_that_were_read_at_once(fields, name):
    parsed = Headers((own, value.strip()) for own, value in fields)
    text = HeaderText("".join(f"{own}: {value}\r\n" for own, value in fields))
    assert (text.pairs, len(text), list(text)) == (parsed.pairs, len(parsed), list(parsed))
    for asked in {name, *parsed}:
        assert text.get(asked.upper()) == parsed.get(asked.upper())
        assert (asked in text, text.all(asked)) == (asked in parsed, parsed.all(asked))
        if asked in parsed:
            assert text[asked] == parsed[asked]


# -- what a registry says of its limit -------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"RateLimit-Limit": "100"}, None),
        ({"RateLimit-Remaining": "many"}, None),
        ({"RateLimit-Remaining": "-1"}, None),
        ({"RateLimit-Remaining": "7"}, RateLimit(None, 7)),
        (
            {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"},
            RateLimit(100, 76, window_seconds=21600.0),
        ),
        (
            {"RateLimit-Limit": "10, 10;w=1, 50;w=60", "RateLimit-Remaining": "9", "RateLimit-Reset": "30"},
            RateLimit(10, 9, 30.0),
        ),
        ({"RateLimit": '"default";r=50;t=30'}, RateLimit(None, 50, 30.0)),
        (
            {
                "RateLimit": '"day";r=900;t=9, "minute";r=2;t=5',
                "RateLimit-Policy": '"day";q=1000;w=86400, "minute";q=10;w=60',
            },
            RateLimit(10, 2, 5.0, 60.0),
        ),
        ({"RateLimit": "nonsense", "RateLimit-Remaining": "3"}, RateLimit(None, 3)),
        ({"RateLimit-Remaining": "9" * 400, "RateLimit-Reset": "9" * 400}, RateLimit(None, 10**12 - 1, 1e12 - 1)),
    ],
)
def test_the_fields_of_a_rate_limit_are_read_in_each_of_their_ways(fields, expected):
    assert rate_limit(Headers(fields.items())) == expected


@pytest.mark.parametrize(("reset", "pauses"), [("30", [30.0]), ("61", []), ("0", []), (None, [])])
def test_where_nothing_is_left_all_wait_for_a_minute_at_most(reset, pauses):
    fields = {"RateLimit-Remaining": "0"} | ({} if reset is None else {"RateLimit-Reset": reset})
    steps = list(stepped(send(own := session(), Request("GET", own.base + "/v2/", "ping")), answer(headers=fields)))
    assert [step.seconds for step in steps if isinstance(step, Pause)] == pauses
    assert own.rate_limit == RateLimit(None, 0, None if reset is None else float(reset))


def test_what_another_host_says_of_its_limit_is_its_own_business():
    own = session()
    steps = stepped(
        send(own, Request("GET", "https://auth.example/token", "token")),
        answer(headers={"RateLimit-Remaining": "0", "RateLimit-Reset": "30"}),
    )
    assert not any(isinstance(step, Pause) for step in steps)
    assert own.rate_limit is None


def stepped(conversation, response):
    """Yield what a conversation asks for, giving it the response for each request."""
    step = next(conversation)
    while True:
        yield step
        value = replace(response, url=step.url) if isinstance(step, Request) else None
        try:
            step = conversation.send(value)
        except StopIteration:
            return
