"""For every test: no telemetry, quiet libraries, and Ray on loopback. Must run before ray is first imported."""

from search.environment import disable_telemetry, quiet_libraries

disable_telemetry()
quiet_libraries()
