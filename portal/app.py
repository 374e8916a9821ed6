"""The only wiring: settings, database, vault, routes and middleware become one application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from portal.db import Database
from portal.middleware import middleware
from portal.routes import routes
from portal.settings import Settings
from portal.store import open_store
from portal.vault import Seal, Vault
from portal.views import errors


def create_app(settings: Settings, database: Database | None = None) -> Starlette:
    """The web application. Who gives a database keeps it; else it is opened here and closed at shutdown."""
    own = database is None
    database = database or Database(settings.database_url, settings.threads)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        if own:
            database.dispose()

    app = Starlette(
        routes=routes(),
        middleware=middleware(settings, database),
        exception_handlers=errors.handlers,
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.database = database
    app.state.store = open_store(settings)
    app.state.vault = Vault(settings.master_keys.get_secret_value())
    app.state.seal = Seal(settings.secret_key.get_secret_value())
    return app
