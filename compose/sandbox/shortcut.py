"""A short way to what every order asks for: finding a route, and all around it, costs as much as the rest."""

from collections.abc import Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from compose.sandbox.problems import Problem, answer_disconnect


class Shortcut:
    """Middleware that leads to some routes by dictionary. What it does not know goes on to the router.

    A route's path is fixed, or ends with one parameter, as in `/customers/{token}`.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._app = app
        # By method and by what comes before the parameter, if there is one.
        self._routes = {
            (method, route.path.partition("{")[0]): route
            for route in routes
            for method in (route.methods or ())
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._find(scope) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        # As the router would have it.
        scope["route"] = route
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request)
        except Problem as problem:
            response = problem.response()
        except ClientDisconnect as error:
            response = await answer_disconnect(request, error)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> Route | None:
        method, path = scope["method"], scope["path"]
        fixed = self._routes.get((method, path))
        if fixed is not None:
            return fixed
        before, slash, last = path.rpartition("/")
        route = self._routes.get((method, before + slash)) if last else None
        if route is not None:
            scope["path_params"] = {route.path.partition("{")[2].rstrip("}"): last}
        return route
