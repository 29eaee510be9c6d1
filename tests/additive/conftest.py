from tangent_settings import _forward_mode_is_loaded, _one_thread  # noqa: F401
