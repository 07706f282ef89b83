"""What the tests on booted hosts share."""

from tests.integration.conftest import as_root

__all__ = ["as_root"]
