"""Requests by httpx over both versions: http_client.py HOST:PORT USER TOKEN

The upstream is node_server.mjs.
"""

import asyncio
import hashlib
import sys

import httpx

address, user, token = sys.argv[1:]
BASE = f"http://{address}"
AUTH = {"Authorization": f"Bearer {token}"}


async def check(http2):
    async with httpx.AsyncClient(
        http1=not http2, http2=http2, base_url=BASE, timeout=20, trust_env=False,
    ) as client:
        answer = await client.get(f"/api/{user}/echo?a=b", headers=AUTH)
        assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1"), answer.http_version
        echo = answer.json()
        assert echo["url"] == f"/api/{user}/echo?a=b" and echo["headers"]["x-user-id"] == user, echo
        assert "authorization" not in echo["headers"], echo

        # Uploads: of known and of unknown length.
        body = bytes(range(256)) * (32 << 10)
        digest = hashlib.sha256(body).hexdigest()

        async def pieces():
            for at in range(0, len(body), 100_000):
                yield body[at:at + 100_000]

        for content in (body, pieces()):
            answer = await client.post(f"/api/{user}/digest", headers=AUTH, content=content)
            assert answer.json() == {"bytes": len(body), "sha256": digest}, answer.text

        # A download, whole; and one that breaks off, which must not look whole.
        answer = await client.get(f"/api/{user}/bytes/{8 << 20}", headers=AUTH)
        assert len(answer.content) == 8 << 20
        for cut in ("cut-length", "cut-chunks"):
            try:
                answer = await client.get(f"/api/{user}/{cut}", headers=AUTH)
                raise AssertionError(f"{cut} was taken for whole: {answer.content[:80]}")
            except httpx.TransportError:
                pass

        # Events come one by one: the next is sent only after the last was seen.
        async with client.stream("GET", f"/api/{user}/events", headers=AUTH) as events:
            assert events.headers["content-type"] == "text/event-stream"
            n = 0
            async for line in events.aiter_lines():
                if not line.startswith("data: "):
                    continue
                assert line == f"data: {n}", line
                n += 1
                if n == 5:
                    break
                await client.post(f"/api/{user}/next-event", headers=AUTH)

        # Many at once; each gets the own answer. Less than the streams that the gateway allows:
        # httpx never resets the one of the events above, and then counts wrongly.
        places = asyncio.Semaphore(90)

        async def one(n):
            async with places:
                answer = await client.post(
                    f"/api/{user}/echo?{n}", headers=AUTH, content=f"body {n}")
            assert answer.json()["url"].endswith(f"?{n}") and answer.json()["body"] == f"body {n}"
        await asyncio.gather(*(one(n) for n in range(200)))

        answer = await client.get(f"/api/{user}/echo")
        assert answer.status_code == 401 and answer.json()["code"] == "no_authorization"
        answer = await client.get("/api/somebody-else/echo", headers=AUTH)
        assert answer.status_code == 403


for version in (False, True):
    asyncio.run(asyncio.wait_for(check(version), 60))
print("fine")
