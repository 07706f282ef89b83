"""What runs in a sandbox, and outside of it for comparison: attempts that report what they got, and never judge.

Standard library only, and no import from the rest of the tests: the folder is copied into the project.
"""
