"""Silence sphinx-thebe, which Jupyter Book always loads and which fetches scripts from a content network."""


def _drop_thebe(app, config):
    for listeners in app.events.listeners.values():
        listeners[:] = [each for each in listeners if not each.handler.__module__.startswith("sphinx_thebe")]
    app.registry.css_files[:] = [each for each in app.registry.css_files if each[0] != "sphinx-thebe.css"]


def setup(app):
    """Run once every other extension has registered its handlers."""
    app.connect("config-inited", _drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
