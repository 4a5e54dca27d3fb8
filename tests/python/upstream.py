"""A web application for the gateway to stand before: plain requests, server-sent events, a WebSocket."""

from __future__ import annotations

import asyncio
import threading

from aiohttp import WSMsgType, web


class Upstream:
    """Runs on a thread of its own until `stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.address = ""
        self._thread.start()
        if not self._started.wait(30):
            raise RuntimeError("the upstream did not start")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._started.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        self._seen = asyncio.Event()
        application = web.Application(client_max_size=64 << 20)
        application.router.add_route("*", "/echo", self._echo)
        application.router.add_get("/events", self._events)
        application.router.add_post("/seen", self._mark_seen)
        application.router.add_get("/socket", self._socket)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"

    async def _echo(self, request: web.Request) -> web.Response:
        """The body, with the request line and one header in the response's headers."""
        headers = {
            "x-method": request.method,
            "x-target": request.path_qs,
            "x-sent": request.headers.get("x-custom", ""),
            "x-hop": request.headers.get("x-hop", ""),
        }
        return web.Response(body=await request.read(), status=201, headers=headers)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """One event; another once somebody says that the first was seen."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await asyncio.wait_for(self._seen.wait(), 30)
        await response.write(b"data: second\n\n")
        await response.write_eof()
        return response

    async def _mark_seen(self, request: web.Request) -> web.Response:
        self._seen.set()
        return web.Response()

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        """Every message comes back; `close` closes."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type == WSMsgType.TEXT and message.data == "close":
                await socket.close(code=4001, message=b"as asked")
            elif message.type == WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type == WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
