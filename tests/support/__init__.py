"""Test doubles and canaries shared by all kinds of tests; standard library only."""
