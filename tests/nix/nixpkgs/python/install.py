"""Lay the package in this folder out as a wheel of it would be: install.py OUT INTERPRETER."""

from __future__ import annotations

import pathlib
import shutil
import sys
import tomllib


def main(out: pathlib.Path, interpreter: str) -> None:
    """Packages, the metadata by which they tell their version, and a program for each script."""
    content = tomllib.loads(pathlib.Path("pyproject.toml").read_text(encoding="utf-8"))
    project, setuptools = content["project"], content["tool"]["setuptools"]
    libraries = out / "lib/python3.11/site-packages"
    for package in setuptools["packages"]:
        # One in another one comes with it.
        if "." not in package:
            shutil.copytree(setuptools["package-dir"][package], libraries / package)
    metadata = libraries / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info/METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (out / "bin").mkdir()
    for name, place in project["scripts"].items():
        module, function = place.split(":")
        program = out / "bin" / name
        program.write_text(
            f"#!{interpreter}\nimport sys\nsys.path.insert(1, {str(libraries)!r})\n"
            f"from {module} import {function}\nsys.exit({function}())\n"
        )
        program.chmod(0o755)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
