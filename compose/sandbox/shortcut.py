"""A short way to what every order asks for: routing and middleware are half of what such a request costs."""

import time
from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from compose.sandbox.problems import Problem, answer_bug, answer_disconnect
from events.runtime import metrics


class Shortcut:
    """An ASGI application before another: leads to some of its routes by dictionary, to the rest as ever.

    A route's path is fixed, or ends with one parameter, as in `/customers/{token}`.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._app = app
        # By method and by what comes before the parameter, if there is one.
        self._routes = {
            (method, route.path.partition("{")[0]): (route.endpoint, route.path, _parameter(route))
            for route in routes
            for method in (route.methods or ())
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on what is not known here."""
        began = time.perf_counter()
        found = last = None
        if scope["type"] == "http":
            path: str = scope["path"]
            found = self._routes.get((scope["method"], path))
            if found is None:
                cut = path.rfind("/") + 1
                last = path[cut:]
                found = self._routes.get((scope["method"], path[:cut])) if last else None
        if found is None:
            await self._app(scope, receive, send)
            return
        endpoint, template, parameter = found
        if parameter:
            scope["path_params"] = {parameter: last}
        request = Request(scope, receive)
        response: Response | None = None
        try:
            response = await endpoint(request)
        except Problem as problem:
            response = problem.response()
        except ClientDisconnect as error:
            response = await answer_disconnect(request, error)
        except Exception as error:
            response = await answer_bug(request, error)
            raise
        finally:
            if response is not None:
                await response(scope, receive, send)
                metrics.request_answered(scope["method"], template, response.status_code, began)


def _parameter(route: Route) -> str:
    return route.path.partition("{")[2].rstrip("}")
