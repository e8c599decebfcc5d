"""An echo server for WebSockets that also tells what it was asked. Prints its port."""

import asyncio
import json
import sys

from websockets.asyncio.server import serve


async def echo(socket):
    request = socket.request
    seen = {
        "path": request.path,
        "user": request.headers.get("x-user-id"),
        "authorization": request.headers.get_all("authorization"),
        "protocols": request.headers.get_all("sec-websocket-protocol"),
        "subprotocol": socket.subprotocol,
    }
    await socket.send(json.dumps(seen))
    async for message in socket:
        if message == "close, please":
            await socket.close(4001, "as you wish")
            return
        await socket.send(message)


async def main():
    async with serve(
        echo, "127.0.0.1", 0, max_size=16 << 20,
        select_subprotocol=lambda _, offered: "chat" if "chat" in offered else None,
    ) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
