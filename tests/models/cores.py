"""A core on a map, without the shell around it."""

from vimamba.mixers.routes import lay


def on_map(core, x, scan):
    """(b, h, w, d), kept: the core along the routes of named orders."""
    routes = lay((scan,) if isinstance(scan, str) else tuple(scan), x)
    return core(routes.pad(x.flatten(1, -2)), routes).view(x.shape)
