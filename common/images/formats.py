"""Which files are images by their names: of the formats that Pillow decodes, with its plug-ins where installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import NamedTuple

from PIL import Image

from common.errors import first_line


class Plugin(NamedTuple):
    """A package that teaches Pillow formats: its name to pip, what registers it beside its import, and its names."""

    package: str
    register: str | None
    suffixes: tuple[str, ...]


# By their modules.
PLUGINS = {
    "pillow_heif": Plugin("pillow-heif", "register_heif_opener", (".heic", ".heif", ".hif")),
    "pi_heif": Plugin("pi-heif", "register_heif_opener", ()),
    "pillow_avif": Plugin("pillow-avif-plugin", None, (".avif",)),
    "pillow_jxl": Plugin("pillow-jxl-plugin", None, (".jxl",)),
    "pillow_jpls": Plugin("pillow-jpls", None, (".jls",)),
}
# Formats that Pillow knows by their first bytes and has no decoder for.
UNDECODED = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
READ_AS_JPEG = "MPO"  # a phone's photo with its preview: not registered by itself


@functools.cache
def register_plugins() -> dict[str, str]:
    """Register the plug-ins that are installed, in each process; those that can't be imported, and why."""
    broken = {}
    for module, plugin in PLUGINS.items():
        if importlib.util.find_spec(module) is None:
            continue
        try:
            imported = importlib.import_module(module)
            if plugin.register:
                getattr(imported, plugin.register)()
        except (ImportError, OSError, AttributeError, RuntimeError) as error:  # a library that it is built on
            broken[module] = first_line(error)
    return broken


@functools.cache
def decoded_suffixes() -> frozenset[str]:
    """In lower case, those of every format that is decoded here."""
    register_plugins()
    known = Image.registered_extensions()
    decoded = {READ_AS_JPEG, *Image.OPEN} - UNDECODED
    return frozenset(suffix for suffix, format_ in known.items() if format_ in decoded)


def plugin_for(suffix: str) -> str | None:
    """What pip installs to have this suffix decoded; None where nothing is known or it is there already."""
    if suffix in decoded_suffixes():
        return None
    return next((plugin.package for plugin in PLUGINS.values() if suffix in plugin.suffixes), None)
