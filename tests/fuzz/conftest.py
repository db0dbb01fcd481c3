"""The service that is fuzzed is the one of tests/service."""

from tests.service.conftest import service, short_folder, start_service

__all__ = ["service", "short_folder", "start_service"]
