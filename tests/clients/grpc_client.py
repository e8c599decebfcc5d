"""A gRPC client: grpc_client.py (calls|refusals) HOST:PORT USER TOKEN"""

import sys
import time
from concurrent import futures

import grpc

what, address, user, token = sys.argv[1:]
channel = grpc.insecure_channel(address)
AUTH = (("authorization", f"Bearer {token}"),)
PATIENCE = 15


def path(method, prefix=None):
    return f"{prefix or '/api/' + user}/test.Echo/{method}"


def unary(method, request=b"", prefix=None, metadata=AUTH, timeout=PATIENCE):
    call = channel.unary_unary(path(method, prefix))
    return call.with_call(request, metadata=metadata, timeout=timeout)


def refused(prefix, metadata=AUTH):
    """The error that a call comes to."""
    try:
        unary("Unary", b"x", prefix, metadata)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"{prefix} was not refused")


def check_who(call):
    initial = dict(call.initial_metadata())
    assert initial["x-seen-user"] == user, initial
    assert initial["x-seen-token"] == "", "the token went on to the upstream"
    trailing = dict(call.trailing_metadata())
    assert trailing["x-trailer"] == "text" and trailing["x-trailer-bin"] == b"\x00\xff", trailing


def calls():
    for size in (0, 1, 70_000, 3 << 20):
        answer, call = unary("Unary", b"x" * size)
        assert answer == b"x" * size
        check_who(call)

    try:
        unary("Fail", b"x")
        raise AssertionError("it should have failed")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "not now: 100% \u00fc", error.details()

    stream = channel.stream_unary(path("ClientStream"))
    answer, call = stream.with_call(
        iter([b"x" * 1000] * 500), metadata=AUTH, timeout=PATIENCE)
    assert answer == b"500000"
    check_who(call)

    call = channel.unary_stream(path("ServerStream"))(b"2000", metadata=AUTH, timeout=PATIENCE)
    assert [int(n) for n in call] == list(range(2000))
    check_who(call)

    call = channel.unary_stream(path("FailMidway"))(b"", metadata=AUTH, timeout=PATIENCE)
    assert [next(call), next(call)] == [b"one", b"two"]
    try:
        next(call)
        raise AssertionError("it should have failed")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DATA_LOSS, error

    # In step: nothing is said before the last thing was answered.
    import queue
    questions = queue.Queue()
    call = channel.stream_stream(path("Bidi"))(
        iter(questions.get, None), metadata=AUTH, timeout=PATIENCE)
    for n in range(200):
        questions.put(str(n).encode())
        assert next(call) == b"echo " + str(n).encode()
    questions.put(None)
    assert list(call) == []
    check_who(call)

    # A deadline, and a client that gives up, both reach the upstream.
    call = channel.unary_stream(path("Hang"))(b"", metadata=AUTH, timeout=0.5)
    try:
        assert list(call) is None, "it should not have ended"
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
    assert unary("Cancelled")[0] == b"yes"
    call = channel.unary_stream(path("Hang"))(b"", metadata=AUTH, timeout=PATIENCE)
    assert next(call) == b"begun"
    call.cancel()
    assert unary("Cancelled", timeout=20)[0] == b"yes"

    with futures.ThreadPoolExecutor(64) as pool:
        bodies = [str(n).encode() * 100 for n in range(500)]
        answers = list(pool.map(lambda body: unary("Unary", body)[0], bodies))
    assert answers == bodies


def refusals():
    cases = (
        ("no token", f"/api/{user}", (), grpc.StatusCode.UNAUTHENTICATED),
        ("a bad token", f"/api/{user}", (("authorization", "Bearer x"),),
         grpc.StatusCode.UNAUTHENTICATED),
        ("another user's path", "/api/somebody-else", AUTH, grpc.StatusCode.PERMISSION_DENIED),
        ("nobody listens", "/down", (), grpc.StatusCode.UNAVAILABLE),
        ("no route", "/nowhere", AUTH, grpc.StatusCode.UNIMPLEMENTED),
    )
    for name, prefix, metadata, code in cases:
        error = refused(prefix, metadata)
        assert error.code() == code, (name, error)
        assert error.details(), name
    # The limit takes two in an hour; whoever answers the first two is not of interest here.
    codes = [refused("/limited", ()).code() for _ in range(3)]
    assert codes[2] == grpc.StatusCode.RESOURCE_EXHAUSTED, codes


begun = time.monotonic()
{"calls": calls, "refusals": refusals}[what]()
print(f"{what}: fine after {time.monotonic() - begun:.1f} s")
