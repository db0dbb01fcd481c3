"""The service's page for browsers: what it does now, and the last scans, without a login."""

from pagecheck.service.page.routes import page_routes

__all__ = ["page_routes"]
