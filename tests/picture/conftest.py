"""The fixtures of a running service."""

from tests.support.service_fixtures import service, short_folder, start_service

__all__ = ["service", "short_folder", "start_service"]
