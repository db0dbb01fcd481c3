"""The services that the headers meet."""

from tests.support.service_fixtures import short_folder, start_service

__all__ = ["short_folder", "start_service"]
