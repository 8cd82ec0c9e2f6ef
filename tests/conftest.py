"""For every test: no telemetry, quiet libraries, and Ray on loopback. Must run before ray is first imported."""

from hypothesis import settings

from search.environment import disable_telemetry, quiet_libraries

disable_telemetry()
quiet_libraries()
# Nothing is a matter of time: Hypothesis would fail an example that takes more than 0.2 s, as on a busy machine they do.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
