"""A WebSocket client: ws_client.py HOST:PORT USER TOKEN"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

address, user, token = sys.argv[1:]
AUTH = {"Authorization": f"Bearer {token}"}


def url(path):
    return f"ws://{address}{path}"


async def check(socket, protocols):
    """What the upstream saw, then all kinds of messages there and back."""
    seen = json.loads(await socket.recv())
    assert seen["user"] == user, seen
    assert seen["authorization"] == [], "the token went on to the upstream"
    assert token not in json.dumps(seen), "the token went on to the upstream"
    offered = [p.strip() for line in seen["protocols"] for p in line.split(",")]
    assert offered == protocols, seen
    for message in ("text", "\u00fcnicode \U0001f600", b"\x00\xff", "", b"", "x" * 70_000,
                    b"y" * (4 << 20)):
        await socket.send(message)
        assert await socket.recv() == message
    # In pieces, and with a ping between.
    await socket.send(iter(["one ", "two ", "three"]))
    await (await socket.ping())
    assert await socket.recv() == "one two three"


async def refused(path, status, **more):
    try:
        async with connect(url(path), proxy=None, **more):
            raise AssertionError(f"{path} was not refused")
    except InvalidStatus as error:
        assert error.response.status_code == status, error


async def main():
    own = f"/api/{user}/socket?a=b"
    async with connect(url(own), additional_headers=AUTH, proxy=None, max_size=None) as socket:
        await check(socket, [])
        # A close goes through with its code and its reason, in either direction.
        await socket.send("close, please")
        try:
            await socket.recv()
            raise AssertionError("it should have closed")
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as you wish"), closed
    async with connect(url(own), additional_headers=AUTH, subprotocols=["chat"], proxy=None,
                       max_size=None) as socket:
        assert socket.subprotocol == "chat"
        await check(socket, ["chat"])
    # As a browser must: the token among the subprotocols.
    for protocols in ([f"bearer.{token}", "chat"], ["chat", f"bearer.{token}"],
                      ["bearer", token, "chat"]):
        async with connect(url(own), subprotocols=protocols, proxy=None, max_size=None) as socket:
            assert socket.subprotocol == "chat", socket.subprotocol
            await check(socket, ["chat"])
    # Browsers give up when none of what they offered is agreed on: the gateway agrees to its own
    # part of the offer when the upstream is offered nothing.
    for protocols in ([f"bearer.{token}"], ["bearer", token]):
        async with connect(url(own), subprotocols=protocols, proxy=None, max_size=None) as socket:
            assert socket.subprotocol == protocols[0], socket.subprotocol
            await check(socket, [])
    await refused(own, 401)
    await refused("/api/somebody-else/socket", 403, additional_headers=AUTH)
    await refused("/api/somebody-else/socket", 403, subprotocols=[f"bearer.{token}"])
    await refused(own, 401, subprotocols=["bearer.nonsense"])
    await refused(own, 400, additional_headers=AUTH, subprotocols=[f"bearer.{token}"])
    # Where the route does not say so, a subprotocol is no token.
    await refused(f"/plain/{user}/socket", 401, subprotocols=[f"bearer.{token}"])
    # Many at once.
    async def one(n):
        async with connect(url(own), additional_headers=AUTH, proxy=None) as socket:
            await socket.recv()
            for m in range(10):
                await socket.send(f"{n} {m}")
                assert await socket.recv() == f"{n} {m}"
    await asyncio.gather(*(one(n) for n in range(50)))


asyncio.run(asyncio.wait_for(main(), 60))
print("fine")
